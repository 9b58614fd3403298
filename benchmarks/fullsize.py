"""Writes a random checkpoint at a system's real size and in its release layout, so speed is measured with no download.

    python -m benchmarks.fullsize SYSTEM OUT [--variant V] [--seed N]

A system is one name in SYSTEMS and one file, benchmarks/<system>_fullsize.py, with what `Writer` asks for.
"""

import os
import shutil
from importlib import import_module
from pathlib import Path
from typing import Protocol, cast

import click

SYSTEMS = ("llvc", "qwen3tts", "vyvo")


class Writer(Protocol):
    """What benchmarks/<system>_fullsize.py offers."""

    VARIANTS: tuple[str, ...]  # the first is the default

    def write(self, folder: Path, variant: str, seed: int) -> None:
        """Fills an empty folder; the same seed writes the same values."""


class Refused(click.ClickException):
    """One line on stderr and exit code 2."""

    exit_code = 2


@click.command(help="Write a random full-size checkpoint of SYSTEM to the folder OUT, in the release's layout.")
@click.argument("system", type=click.Choice(SYSTEMS), metavar="SYSTEM")
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--variant", help="Which release to imitate; default: the system's main one.")
@click.option("--seed", default=0, show_default=True, help="Seed of the random weights.")
def main(system: str, out: Path, variant: str | None, seed: int) -> None:
    variants = _writer(system).VARIANTS
    variant = variant or variants[0]
    if variant not in variants:
        raise Refused(f"{system} has no variant {variant!r}: choose one of {', '.join(variants)}")
    out = out.resolve()
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise Refused(f"{out} exists and is not an empty folder: name a new one or remove it")
    try:
        write(system, variant, out, seed)
    except OSError as error:
        raise Refused(f"{out} cannot be written: {error.strerror}") from error
    click.echo(f"{system} {variant} (random, seed {seed}) written to {out}", err=True)


def write(system: str, variant: str, out: Path, seed: int) -> None:
    """Written beside its place and renamed, so that `out` is there whole or not at all."""
    part = out.with_name(f".{out.name}.{os.getpid()}.part")
    try:
        part.mkdir(parents=True)
        _writer(system).write(part, variant, seed)
        part.replace(out)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _writer(system: str) -> Writer:
    return cast(Writer, import_module(f"benchmarks.{system}_fullsize"))


if __name__ == "__main__":
    main()
