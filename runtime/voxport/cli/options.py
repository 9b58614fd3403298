"""Arguments and options that several verbs share."""

from pathlib import Path

import click

from voxport.bundle import Check
from voxport.cli.errors import BadInput

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
SET = click.option(
    "--set", "pairs", multiple=True, metavar="NAME=VALUE", help="Any further setting, by upstream's name."
)

# What `Speaker.say` takes by name and the command has an option for; everything else is a setting.
OPTIONS = ("voice", "language", "instruct", "ref_audio", "ref_text", "seed", "greedy", "stream")


def settings_of(pairs: tuple[str, ...]) -> dict[str, str]:
    """The settings of `--set NAME=VALUE`; of one that is repeated the last counts."""
    settings = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise BadInput(f"--set {pair}: wanted NAME=VALUE")
        if name in OPTIONS:
            raise BadInput(f"--set {pair}: {name} has an option of its own, --{name.replace('_', '-')}")
        if name == "text":
            raise BadInput(f"--set {pair}: the text is an argument of its own")
        settings[name] = value
    return settings
