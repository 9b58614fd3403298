"""The exporters' verbs of the `voxport` command. Only click is imported until a verb is called."""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from voxport.cli.main import BadInput, one_line

SYSTEMS = ("llvc", "vyvo", "qwen3tts")


@contextmanager
def exits(verb: str) -> Iterator[None]:
    """Turns the errors of a verb into one line each, so that nobody sees a traceback."""
    try:
        from voxport_exporters.checkpoints.hub import ChangedError

        yield
    except ModuleNotFoundError as error:
        raise BadInput(f"voxport {verb} needs the export extra: pip install 'voxport[export]'") from error
    except ChangedError as error:
        raise click.ClickException(one_line(error)) from error
    except (ValueError, OSError) as error:
        raise BadInput(one_line(error)) from error


@click.command()
@click.argument("system", type=click.Choice(SYSTEMS))
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option("-o", "--out", type=click.Path(path_type=Path), required=True, help="The bundle folder to write.")
@click.option("--recipe", help="A name the system has, or a TOML file. [fp32; qwen3tts: mixed]")
@click.option("--codec-recipe", type=click.Choice(["fp32", "int8"]), help="vyvo, qwen3tts: of the codec, apart. [fp32]")
@click.option("--target", type=click.Choice(["cpu", "portable"]), default="cpu", show_default=True)
@click.option("--gate", is_flag=True, help="Keep a stage fp32 when its quantization fails on error or speed.")
@click.option("--variant", help="Which of several checkpoints in the folder.")
@click.option("--config", type=click.Path(path_type=Path), help="llvc: config.json, with --weights.")
@click.option("--weights", type=click.Path(path_type=Path), help="llvc: G_*.pth, with --config.")
@click.option(
    "--codec", type=click.Path(path_type=Path), help="vyvo, qwen3tts: the codec's folder. [found in CHECKPOINT]"
)
@click.option("--tokens", help="vyvo: lfm2, qwen3, llama3 or a yaml of upstream's. [a yaml in CHECKPOINT, or by model]")
@click.option("--tokenizer", type=click.Path(path_type=Path), help="vyvo: the folder of tokenizer.json. [CHECKPOINT]")
@click.option("--lora", type=click.Path(path_type=Path), help="vyvo: a LoRA adapter's folder (PEFT), merged.")
def export(
    system: str,
    checkpoint: Path,
    out: Path,
    recipe: str | None,
    codec_recipe: str | None,
    target: str,
    gate: bool,
    **options: Path | str | None,
) -> None:
    """Turn a checkpoint folder in its release layout into a bundle that runs without torch.

    \b
    cpu       may use onnxruntime's own operators
    portable  ai.onnx only: TensorRT, NPUs, browsers

    The recipe says what is quantized; a named one is applied as written. Export measures each quantized stage's
    error and speed against fp32, warns, and records both in the bundle's manifest.

    \b
    Examples:
      voxport export llvc checkpoints/llvc -o bundle --recipe int8
      voxport export llvc . -o bundle --config my/config.json --weights my/G_1000.pth
      voxport export vyvo checkpoints/vyvo -o bundle --recipe int4 --codec checkpoints/snac_24khz
      voxport export qwen3tts checkpoints/0.6b-base -o bundle
    """
    with exits("export"):
        from voxport_exporters import systems as exporters
        from voxport_exporters.pack import pack
        from voxport_exporters.recipe import Recipe

        exporter = exporters.SYSTEMS[system]()
        given = {name: value for name, value in options.items() if value is not None}
        foreign = given.keys() - inspect.signature(exporter.job).parameters.keys()
        if foreign or (codec_recipe and not exporter.codec_recipes):
            raise ValueError(f"{system} takes no --{min(foreign, default='codec-recipe')}")
        rules = Recipe.named(recipe or exporter.default_recipe, exporter.recipes)
        if codec_recipe:
            rules = rules.then(exporter.codec_recipes[codec_recipe])
        for warning in pack(exporter.job(checkpoint, **given), out, rules, target, gate):
            click.echo(f"warning: {warning}", err=True)
        click.echo(out)


LOCK_FILE = click.option(
    "--lock-file", type=click.Path(path_type=Path, dir_okay=False), help="Another models.lock than voxport's own."
)


@click.command()
@click.argument("name", required=False)
@click.option("-o", "--out", type=click.Path(path_type=Path, file_okay=False), help="Folder to download into. [NAME]")
@click.option("--list", "listing", is_flag=True, help="Print the names, systems, sizes, pins and licences, and stop.")
@LOCK_FILE
def fetch(name: str | None, out: Path | None, listing: bool, lock_file: Path | None) -> None:
    """Download a model: exactly the files models.lock pins, each verified by its sha256.

    An interrupted download is resumed by the same command; on a complete folder it only verifies, without network.

    \b
    Example:
      voxport fetch --list
      voxport fetch qwen3tts-0.6b-base -o checkpoints/base
      voxport export qwen3tts checkpoints/base -o bundle

    HF_ENDPOINT names another hub, HF_TOKEN (or `hf auth login`) opens gated repositories.
    """
    with exits("fetch"):
        from voxport_exporters.checkpoints import hub as checkpoint
        from voxport_exporters.checkpoints import lockfile

        if listing:
            for model in lockfile.read(lock_file).values():
                bytes_known = sum(file.bytes or 0 for file in model.files)
                size = f"{bytes_known / 1e6:,.0f} MB" if all(file.bytes for file in model.files) else "unknown"
                pins = f"{sum(file.sha256 is not None for file in model.files)}/{len(model.files)} pinned"
                click.echo(f"{model.name:26} {model.system:11} {size:>9}  {pins:13} {model.licence}")
            return
        if name is None:
            raise ValueError("voxport fetch: give a NAME (voxport fetch --list prints them)")
        unpinned = [file.path for file in checkpoint.find(name, lock_file).files if not file.sha256]
        out = out or Path(name)
        checkpoint.fetch(name, out, lock_file)
        if unpinned:
            todo = f"`voxport lock {name}` pins them"
            click.echo(f"{name}: not pinned, taken as the hub has them: {', '.join(unpinned)}; {todo}", err=True)
        click.echo(out)


@click.command()
@click.argument("name")
@LOCK_FILE
def lock(name: str, lock_file: Path | None) -> None:
    """Compare a model's pins with the hub, fill in the missing ones, and rewrite models.lock.

    A pin that differs is refused (exit 1) and nothing is written. Comments in the file stay.

    \b
    Example:
      voxport lock t5gemma
      voxport lock llvc_nc --lock-file models.lock
    """
    with exits("lock"):
        from voxport_exporters.checkpoints import hub as checkpoint

        model = checkpoint.lock(name, lock_file)
        click.echo(f"{name}: {len(model.files)} files pinned and confirmed")
