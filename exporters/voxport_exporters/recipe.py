"""Recipe: which weights are stored at which precision. A named one is applied exactly as written."""

import fnmatch
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import msgspec

Kind = Literal["fp32", "int8"]


class Rule(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Weights of `stage` whose name matches `weights` (patterns as in file names) become `kind`."""

    kind: Kind
    stage: str = "*"
    weights: str = "*"


class Recipe(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Rules in order; of those that match a weight the last one counts. No match: fp32.

    int8: weights per output channel, symmetric; activations per tensor, measured at run time.
    """

    name: str
    rule: list[Rule] = []

    def kind(self, stage: str, weight: str) -> Kind:
        matching = (r.kind for r in self.rule if fnmatch.fnmatch(stage, r.stage) and fnmatch.fnmatch(weight, r.weights))
        return [*["fp32"], *matching][-1]  # type: ignore[return-value]

    @classmethod
    def named(cls, name: str, known: Mapping[str, "Recipe"]) -> "Recipe":
        """One of the system's own recipes, or a TOML file. ValueError lists the names, or says what the file lacks."""
        if name in known:
            return known[name]
        path = Path(name)
        if not path.is_file():
            raise ValueError(f"recipe {name!r}: wanted {', '.join(known)} or a TOML file")
        try:
            return msgspec.convert({"name": path.stem} | tomllib.loads(path.read_text()), cls)
        except (msgspec.ValidationError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ValueError(f"{path}: {error}") from None
