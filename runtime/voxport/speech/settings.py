"""Settings of `say`: what each may be, and the one place that reads and checks them.

A system declares its settings once, as a table of `Setting` by upstream's names. Defaults that a checkpoint brings
stand in the manifest (`from_checkpoint`); all others stand here and in the systems' tables.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from voxport import manifest
from voxport.speech.sampler import RANGE

Value: TypeAlias = manifest.Setting  # of a setting
Settings = dict[str, Value]

COUNT = 10**9  # the most that a whole number may be: every integer type of a graph holds it
SECONDS = 1e9  # the most that a length may be: counted in samples it is still a number
SHOWN = 40  # characters of a refused value that a message repeats

_KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a word"}
_WORDS = {"true": True, "false": False, "1": True, "0": False}


@dataclass(frozen=True)
class Setting:
    """One setting. The type of `default` is that of every value; numbers lie in `least` .. `most`, words in `choices`.

    `choices` of a number: words that it may be instead. `pattern`: what all of a text without choices has to match.
    `layers`: defaults that replace `default` in a dialect or a mode, by its name. `from_checkpoint`: the default stands
    in the manifest, and a model whose manifest has none does not know the setting. `note` ends the message for a value
    that is refused; where there is a `pattern` it is all that it says.
    """

    default: Value
    least: float = 0
    most: float = COUNT
    choices: tuple[str, ...] = ()
    pattern: str = ""
    layers: Mapping[str, Value] = field(default_factory=dict)
    from_checkpoint: bool = False
    note: str = ""

    def parse(self, name: str, value: Value) -> Value:
        """The value as this setting's type; text, as the command line gives it, is read. ValueError in one line."""
        try:
            parsed = self._typed(value)
        except (KeyError, ValueError, TypeError, OverflowError):
            parsed = None
        if parsed is None or not self._allows(parsed):
            raise ValueError(f"setting {name}: wanted {self._expected()}, got {_shown(value)}")
        return parsed

    def _typed(self, value: Value) -> Value:
        kind = type(self.default)
        if kind is bool:
            return _WORDS[str(value).lower()]
        if isinstance(value, str) and value in self.choices:
            return value
        if isinstance(value, bool) or (kind is int and isinstance(value, float) and value != int(value)):
            raise ValueError
        typed: Value = kind(value)
        return typed

    def _allows(self, value: Value) -> bool:
        if isinstance(value, bool):
            return True
        if isinstance(value, str):
            return value in self.choices or (self.pattern != "" and re.fullmatch(self.pattern, value) is not None)
        return self.least <= value <= self.most  # no NaN

    def _expected(self) -> str:
        kind = type(self.default)
        if self.pattern:
            return self.note
        if kind is str:
            return f"one of {', '.join(self.choices)}{self.note}"
        bounds = "" if kind is bool else f" from {self.least:g} to {self.most:g}"
        return " or ".join((f"{_KINDS[kind]}{bounds}", *self.choices)) + self.note


def _shown(value: Value) -> str:
    if isinstance(value, int) and abs(value) >= 10**SHOWN:  # Python refuses to print the longest
        return f"a number of more than {SHOWN} digits"
    text = repr(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


Schema = Mapping[str, Setting]

SAMPLING: Schema = {  # how a token is chosen: sampler.Sampling
    "temperature": Setting(1.0, *RANGE, note=" (for the best token every time use --greedy)"),
    "top_k": Setting(0, note=" (0 is all)"),
    "top_p": Setting(1.0, RANGE[0], 1),
    "repetition_penalty": Setting(1.0, *RANGE, note=" (1 is none)"),
}


def parse(
    schema: Schema, stored: Mapping[str, Value], options: Mapping[str, Value], layers: Sequence[str] = ()
) -> Settings:
    """Every setting that the model knows: from `options`, else the manifest's (`stored`), else the schema's default.

    `layers`: names of the dialect and the mode, whose defaults are taken in this order. ValueError in one line: an
    unknown name (the known ones are listed), or a value that cannot be.
    """
    if foreign := sorted(stored.keys() - schema.keys()):
        raise ValueError(f"manifest.json: sampling: unknown setting {foreign[0]!r}; export the bundle again")
    known = {name: setting for name, setting in schema.items() if name in stored or not setting.from_checkpoint}
    for name in options:
        if name not in known:
            raise ValueError(f"unknown setting {name!r}; known are {', '.join(sorted(known))}")
    values = {name: _value(name, setting, stored, options, layers) for name, setting in known.items()}
    return {name: known[name].parse(name, value) for name, value in values.items()}


def _value(
    name: str, setting: Setting, stored: Mapping[str, Value], options: Mapping[str, Value], layers: Sequence[str]
) -> Value:
    for values in (options, stored):
        if name in values:
            return values[name]
    default = setting.default
    for layer in layers:
        default = setting.layers.get(layer, default)
    return default
