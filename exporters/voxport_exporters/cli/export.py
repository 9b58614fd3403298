"""`voxport export SYSTEM`: a checkpoint into a bundle."""

from collections.abc import Iterator
from pathlib import Path

import click

from voxport.cli.errors import needs_extra
from voxport_exporters.cli.systems import SystemGroup, add_systems, examples, table
from voxport_exporters.options import FOLDER, SystemOptions

OUT = ["-o", "--out"]
TARGET = click.Option(
    ["--target"],
    type=click.Choice(["cpu", "portable"]),
    default="cpu",
    show_default=True,
    help="cpu may use onnxruntime's own operators; portable is ai.onnx only: TensorRT, NPUs, browsers.",
)
GATE = click.Option(
    ["--gate"], is_flag=True, help="Keep a stage fp32 when its quantization fails on error or on speed."
)


@click.group(
    cls=SystemGroup,
    options_metavar="",
    subcommand_metavar="SYSTEM CHECKPOINT -o BUNDLE [OPTIONS]",
    short_help="Turn a checkpoint into a bundle that runs without torch.",
)
def export() -> None:
    """Turn a checkpoint folder in its release layout into a bundle that runs without torch.

    The recipe says what is quantized; a named one is applied as written. Export measures each quantized stage's
    error and speed against fp32, warns, and records both in the bundle's manifest.

    \b
    Examples:
      voxport export llvc checkpoints/llvc -o bundle --recipe int8
      voxport export vyvo checkpoints/vyvo -o bundle --recipe int4 --codec checkpoints/snac_24khz
      voxport export qwen3tts checkpoints/0.6b-base -o bundle
      voxport export vyvo --help
    """


def _options(system: SystemOptions) -> Iterator[click.Option]:
    yield click.Option(OUT, type=FOLDER, required=not system.formats, help="The bundle folder to write.")
    if system.formats:
        kind = click.Tuple([click.Choice(list(system.formats)), FOLDER])
        about = "; ".join(f"{name}: {what}" for name, what in system.formats.items())
        yield click.Option(
            ["--to"], type=kind, metavar="FORMAT DIR", help=f"Write the weights themselves, too. {about}."
        )
    yield click.Option(["--recipe"], help=f"The name of a recipe, or a TOML file of rules. [{system.default_recipe}]")
    if system.codec_recipes:
        names = list(system.codec_recipes)
        yield click.Option(["--codec-recipe"], type=click.Choice(names), help=f"The codec's own recipe. [{names[0]}]")
    yield TARGET
    yield GATE


def _help(system: SystemOptions) -> str:
    quantized = next((recipe for recipe in system.recipes if recipe != system.default_recipe), system.default_recipe)
    first, *others = [f"voxport export {arguments} -o bundle" for arguments in system.examples]
    parts = [f"Export {system.summary}.", system.checkpoint, table("Recipes:", system.recipes.items())]
    if system.codec_recipes:
        parts.append(table("Codec recipes:", system.codec_recipes.items()))
    parts.append(examples([first, f"{first} --recipe {quantized}", *others]))
    return "\n\n".join(parts)


def _export(
    system: str,
    checkpoint: Path,
    out: Path | None,
    recipe: str | None,
    target: str,
    gate: bool,
    codec_recipe: str | None = None,
    to: tuple[str, Path] | None = None,
    **options: Path | str | bool | None,
) -> None:
    if out is None and to is None:
        raise click.UsageError("Missing option '-o' / '--out', or '--to'.")
    with needs_extra("export", "export"):
        from voxport_exporters.pack import pack
        from voxport_exporters.recipe import named
        from voxport_exporters.systems import OPTIONS, SYSTEMS

        exporter = SYSTEMS[system]()
        if to is not None:
            form, folder = to
            click.echo(exporter.writers[form](checkpoint, folder, **options), err=True)
            click.echo(folder)
        if out is None:
            return
        rules = named(recipe or OPTIONS[system].default_recipe, exporter.recipes)
        if codec_recipe:
            rules = rules.then(exporter.codec_recipes[codec_recipe])
        for warning in pack(exporter.job(checkpoint, **options), out, rules, target, gate):
            click.echo(f"warning: {warning}", err=True)
        click.echo(out)


add_systems(export, _options, _help, _export)
