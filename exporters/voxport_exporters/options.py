"""What the command line asks about a system's checkpoint and says of it, stated once for `export` and `parity`.

Only click is imported, so that both verbs and their help work without torch.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import click

FOLDER = click.Path(path_type=Path)

VARIANT = click.Option(["--variant"], help="Which of several checkpoints in the folder.")


@dataclass(frozen=True)
class SystemOptions:
    """One system on the command line.

    `summary`: one line for the list of systems; `checkpoint`: what the folder CHECKPOINT holds; `options`: the ways to
    say more about it, by the names of the arguments of the system's `job()`; `recipes` and `codec_recipes`: every name
    that the system knows and what it does; `formats`: what `export --to` can write instead of a bundle; `examples`:
    arguments that name a checkpoint, without the verb.
    """

    summary: str
    checkpoint: str
    options: tuple[click.Option, ...]
    recipes: Mapping[str, str]
    examples: tuple[str, ...]
    codec_recipes: Mapping[str, str] = field(default_factory=dict)
    formats: Mapping[str, str] = field(default_factory=dict)
    default_recipe: str = "fp32"
