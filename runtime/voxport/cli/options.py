"""Arguments and options that several verbs share."""

from pathlib import Path

import click

FACTOR = click.IntRange(1, 10_000)  # a step of two minutes: with more, memory is the limit

BUNDLE = click.argument("bundle", type=click.Path(path_type=Path))
THREADS = click.option(
    "--threads", type=click.IntRange(1, 256), help="Cores one step may use. [what the system runs best with]"
)
OUT = click.option("-o", "--out", required=True, help="File to write.")
SEED = click.option("--seed", type=int, default=0, show_default=True, help="Same seed, same tokens, same audio.")
FLOAT = click.option("--float", "float32", is_flag=True, help="Write 32-bit float instead of 16-bit PCM (wav only).")
CHECK = click.option(
    "--check/--no-check",
    default=True,
    help="Compare the bundle's files with their hashes, or skip that.",
)
