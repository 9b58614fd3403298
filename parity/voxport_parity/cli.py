"""`voxport parity SYSTEM`: what was lost between a checkpoint and its bundle. Only click is imported until it runs."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from voxport.cli.errors import needs_extra
from voxport_exporters.cli.systems import SystemGroup, add_systems, examples, table
from voxport_exporters.options import FOLDER, SystemOptions

if TYPE_CHECKING:
    from voxport_parity.compare import Diff

BUNDLE = click.Option(["--bundle"], type=FOLDER, help="Check this bundle. [one is exported and thrown away]")
RECIPE = click.Option(
    ["--recipe"], help="Also check the graph quantized so, against a reference that rounds as it does."
)
TARGET = click.Option(["--target"], type=click.Choice(["cpu", "portable"]), help="[that of --bundle, or cpu]")
REPORT = click.Option(
    ["--json", "report"],
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write every compared tensor here.",
)


@click.group(
    cls=SystemGroup,
    options_metavar="",
    subcommand_metavar="SYSTEM CHECKPOINT [OPTIONS]",
    short_help="Prove that export lost nothing, tensor by tensor.",
)
def parity() -> None:
    """Prove that nothing was lost between a checkpoint and its bundle, tensor by tensor, link by link.

    golden -> torch net -> live -> fp32 graph -> quantized graph -> streamed. Goldens are golden.safetensors and
    golden.json in CHECKPOINT; without them the torch net is the reference. `live` (vyvo) runs the checkpoint in
    upstream's own classes, of transformers and snac. Stops at the first broken link; exit 1. Golden tensors that no
    stage produces are counted and named on stderr; in --json their link is "not compared" and their bound null.

    \b
    Examples:
      voxport parity llvc checkpoints/llvc
      voxport parity llvc checkpoints/llvc --recipe int8 --json parity.json
      voxport parity vyvo checkpoints/lm --codec checkpoints/snac_24khz
    """


def _options(_: SystemOptions) -> Iterator[click.Option]:
    yield from (BUNDLE, RECIPE, TARGET, REPORT)


def _help(system: SystemOptions) -> str:
    quantized = next((recipe for recipe in system.recipes if recipe != "fp32"), "fp32")
    first, *others = [f"voxport parity {arguments}" for arguments in system.examples]
    return "\n\n".join(
        [
            f"Prove the export of {system.summary}.",
            f"{system.checkpoint} Goldens (golden.safetensors, golden.json) lie in it, where there are any.",
            table("Recipes:", system.recipes.items()),
            examples([first, f"{first} --recipe {quantized} --json parity.json", *others]),
        ]
    )


def _parity(
    system: str,
    checkpoint: Path,
    bundle: Path | None,
    recipe: str | None,
    target: str | None,
    report: Path | None,
    **options: Path | str | None,
) -> None:
    if report is not None:
        _refuse_losing(report, checkpoint, bundle)
    diffs: list[Diff] = []
    with needs_extra("parity", "parity"):
        from voxport_parity.chain import chain
        from voxport_parity.compare import NOT_COMPARED

        for diff in chain(system, checkpoint, bundle, recipe, target, _print_note, **options):
            diffs.append(diff)
    compared = [diff for diff in diffs if diff.link != NOT_COMPARED]
    for line in _summary(compared):
        click.echo(line)
    if report is not None:
        report.write_text(json.dumps([diff.as_dict() for diff in diffs], indent=1) + "\n")
    broken = next((diff for diff in diffs if not diff.ok), None)
    if broken is not None:
        raise click.ClickException(str(broken))
    if not compared:
        raise click.ClickException(f"{checkpoint}: nothing was compared")


def _print_note(line: str) -> None:
    click.echo(line, err=True)


def _summary(diffs: "Iterable[Diff]") -> Iterator[str]:
    """One line per stage of every link."""
    groups: dict[tuple[str, str], list[Diff]] = {}
    for diff in diffs:
        groups.setdefault((diff.link, diff.stage), []).append(diff)
    for (link, stage), members in groups.items():
        worst = max(members, key=lambda diff: (diff.excess, diff.max_abs))
        verdict = "ok" if all(diff.ok for diff in members) else "BROKEN"
        excess = f"{worst.excess:4.0%} of its bound" if worst.bound else "not judged"
        yield (
            f"{link:18} {stage:12} {len(members):4} tensors   worst {worst.max_abs:.1e}, {excess:17} "
            f"{worst.tensor:24} {verdict if worst.bound else ''}"
        ).rstrip()


def _refuse_losing(report: Path, *inputs: Path | None) -> None:
    """Raises ValueError when the report has no folder to be written to, or would replace an input."""
    if not report.parent.is_dir():
        raise ValueError(f"{report}: cannot be written: no folder {report.parent}")
    if report.exists() and any(folder and report.resolve().is_relative_to(folder.resolve()) for folder in inputs):
        raise ValueError(f"{report}: is one of the inputs; name another file")


add_systems(parity, _options, _help, _parity)
