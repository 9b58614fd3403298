"""`voxport parity`. Only click is imported until it is called."""

import inspect
import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from voxport_parity.compare import Diff


@click.command()
@click.argument("system", type=click.Choice(["llvc", "qwen3tts", "vyvo"]))
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option("--bundle", type=click.Path(path_type=Path), help="Check this bundle. [one is exported and thrown away]")
@click.option("--recipe", help="Also check the graph quantized so, against a reference that rounds as it does.")
@click.option("--target", type=click.Choice(["cpu", "portable"]), default="cpu", show_default=True)
@click.option("--variant", help="Which of several checkpoints in the folder.")
@click.option("--config", type=click.Path(path_type=Path), help="llvc: config.json, with --weights.")
@click.option("--weights", type=click.Path(path_type=Path), help="llvc: G_*.pth, with --config.")
@click.option("--codec", type=click.Path(path_type=Path), help="vyvo, qwen3tts: the codec's folder. [in CHECKPOINT]")
@click.option("--tokens", help="vyvo: lfm2, qwen3, llama3 or a yaml of upstream's. [a yaml in CHECKPOINT, or by model]")
@click.option("--tokenizer", type=click.Path(path_type=Path), help="vyvo: the folder of tokenizer.json. [CHECKPOINT]")
@click.option("--lora", type=click.Path(path_type=Path), help="vyvo: a LoRA adapter's folder (PEFT), merged.")
@click.option(
    "--json", "file", type=click.Path(path_type=Path, dir_okay=False), help="Write every compared tensor here."
)
def parity(
    system: str,
    checkpoint: Path,
    bundle: Path | None,
    recipe: str | None,
    target: str,
    file: Path | None,
    **options: Path | str | None,
) -> None:
    """Prove that nothing was lost between a checkpoint and its bundle, tensor by tensor, link by link.

    golden -> torch net -> live -> fp32 graph -> quantized graph -> streamed. Goldens are golden.safetensors and
    golden.json in CHECKPOINT; without them the torch net is the reference. `live` (vyvo) runs the checkpoint in
    upstream's own classes, of transformers and snac. Stops at the first broken link; exit 1.

    \b
    Examples:
      voxport parity llvc checkpoints/llvc
      voxport parity llvc checkpoints/llvc --recipe int8 --json parity.json
      voxport parity vyvo checkpoints/lm --codec checkpoints/snac_24khz
    """
    if file is not None:
        _refuse_losing(file, checkpoint, bundle)
    from voxport_exporters.systems import SYSTEMS
    from voxport_parity.chain import chain

    diffs: list[Diff] = []
    groups: dict[tuple[str, str], list[int]] = {}
    given = {name: value for name, value in options.items() if value is not None}
    foreign = given.keys() - inspect.signature(SYSTEMS[system]().job).parameters.keys()
    if foreign:
        raise ValueError(f"{system} takes no --{min(foreign)}")
    for diff in chain(system, checkpoint, bundle, recipe, target, lambda line: click.echo(line, err=True), **given):
        groups.setdefault((diff.link, diff.stage), []).append(len(diffs))
        diffs.append(diff)
    for (link, stage), members in groups.items():
        seen = [diffs[i] for i in members]
        worst = max(seen, key=lambda d: (d.excess, d.max_abs))
        verdict = "ok" if all(d.ok for d in seen) else "BROKEN"
        judged = f"{worst.excess:4.0%} of its bound" if worst.bound else "not judged"
        click.echo(
            f"{link:18} {stage:12} {len(seen):4} tensors   worst {worst.max_abs:.1e}, {judged:17} "
            f"{worst.tensor:24} {verdict if worst.bound else ''}".rstrip()
        )
    if file is not None:
        file.write_text(json.dumps([d.as_dict() for d in diffs], indent=1) + "\n")
    broken = next((d for d in diffs if not d.ok), None)
    if broken is not None:
        raise click.ClickException(str(broken))
    if not diffs:
        raise click.ClickException(f"{checkpoint}: nothing was compared")


def _refuse_losing(file: Path, *inputs: Path | None) -> None:
    """Raises ValueError when the report has no folder to be written to, or would go over an input."""
    if not file.parent.is_dir():
        raise ValueError(f"{file}: cannot be written: no folder {file.parent}")
    if file.exists() and any(folder and file.resolve().is_relative_to(folder.resolve()) for folder in inputs):
        raise ValueError(f"{file}: is one of the inputs; name another file")
