"""Arguments and options that several verbs share."""

from pathlib import Path

import click

from voxport.bundle import Check

FACTOR = click.IntRange(1, 10_000)  # a step of two minutes: with more, memory is the limit

BUNDLE = click.argument("bundle", type=click.Path(path_type=Path))
THREADS = click.option(
    "--threads", type=click.IntRange(1, 256), help="Cores one step may use. [what the system runs best with]"
)
OUT = click.option("-o", "--out", required=True, help="File to write.")
SEED = click.option("--seed", type=int, default=0, show_default=True, help="Same seed, same tokens, same audio.")
FLOAT = click.option("--float", "float32", is_flag=True, help="Write 32-bit float instead of 16-bit PCM (wav only).")


def _check(_: click.Context, __: click.Parameter, value: bool | None) -> Check:
    return True if value is None else "always" if value else False


CHECK = click.option(
    "--check/--no-check",
    default=None,
    callback=_check,
    help="Hash every file of the bundle, or none. [those not yet found right, or changed since]",
)
