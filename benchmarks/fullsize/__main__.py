"""`python -m benchmarks.fullsize SYSTEM OUT`: the command line of this package."""

from pathlib import Path

import click

from benchmarks.fullsize import SYSTEMS, write


class Refused(click.ClickException):
    """One line on stderr and exit code 2."""

    exit_code = 2


@click.command(help="Write a random full-size checkpoint of SYSTEM to the folder OUT, in the release's layout.")
@click.argument("system", type=click.Choice(list(SYSTEMS)), metavar="SYSTEM")
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--variant", help="Which release to imitate; default: the system's main one.")
@click.option("--seed", default=0, show_default=True, help="Seed of the random weights.")
def main(system: str, out: Path, variant: str | None, seed: int) -> None:
    variants = SYSTEMS[system]().VARIANTS
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


if __name__ == "__main__":
    main()
