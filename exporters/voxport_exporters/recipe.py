"""Recipes by name: a system's own, or a TOML file of rules."""

import tomllib
from collections.abc import Mapping
from pathlib import Path

import msgspec

from voxport.recipe import Recipe


def named(name: str, known: Mapping[str, Recipe]) -> Recipe:
    """One of the system's own recipes, or a TOML file. ValueError lists the names, or says what the file lacks."""
    if name in known:
        return known[name]
    path = Path(name)
    if not path.is_file():
        raise ValueError(f"recipe {name!r}: wanted {', '.join(known)} or a TOML file")
    try:
        return msgspec.convert({"name": path.stem} | tomllib.loads(path.read_text()), Recipe)
    except (msgspec.ValidationError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: {error}") from None
