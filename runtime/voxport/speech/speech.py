"""What every system that makes speech from text shares: chunks, settings by name, what lies on disk."""

import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from voxport.audio import files as audio
from voxport.graphs.session import Array
from voxport.manifest import Setting

Settings = dict[str, Setting]

END, LIMIT, RUNAWAY, CONTEXT = "end", "max_new_tokens", "runaway", "context"  # why a generation stopped
SILENT = 1e-3  # peak (-60 dB) below which a reference holds no voice
SENTENCE = (  # what benchmarks say: 20 words
    "The quick brown fox jumps over the lazy dog while seven wizards watch quietly from the old stone bridge above."
)


@dataclass(frozen=True)
class Chunk:
    """A piece of speech: float32 [n] in [-1, 1] at `sample_rate` Hz."""

    samples: Array
    sample_rate: int


class Speech:
    """One call of `say`: iterate for chunks, made while you listen. `tokens`, `stopped` and `warnings` grow with it.

    `stopped`: "end" when the model ended by itself, "max_new_tokens", "runaway" or "context" when it was cut there, ""
    before that.
    """

    def __init__(
        self, sample_rate: int, make: Callable[["Speech"], Iterator[Array]], token: tuple[int, ...] = ()
    ) -> None:
        """`make` yields the samples, and tells this object what else happens; `token`: shape of what it generates."""
        self.sample_rate = sample_rate
        self.stopped = ""
        self.warnings: list[str] = []
        self._tokens: list[int | Array] = []
        self._token = token
        self._chunks = make(self)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Chunk:
        samples = next(self._chunks)
        while not len(samples):
            samples = next(self._chunks)
        return Chunk(samples, self.sample_rate)

    def samples(self) -> Array:
        """All that is still to come, as one float32 [n]."""
        return np.concatenate([np.empty(0, np.float32), *(chunk.samples for chunk in self)])

    @property
    def tokens(self) -> Array:
        """The ids, or frames of codes, generated so far: int64 [n] or [n, books]; of a long text all its pieces."""
        return np.array(self._tokens, np.int64).reshape(-1, *self._token)

    def said(self, token: int | Array) -> None:
        """For `make`: one more generated id, or frame of codes."""
        self._tokens.append(token)

    def ended(self, why: str) -> None:
        """For `make`: a generation stopped. Of several, one that was cut counts."""
        self.stopped = why if self.stopped in ("", END) else self.stopped

    def warn(self, text: str) -> None:
        """For `make`: keeps the text, and shows it as a Python warning."""
        self.warnings.append(text)
        warnings.warn(text, stacklevel=4)


def settings(defaults: Mapping[str, Setting], layers: Sequence[str], given: Mapping[str, Setting]) -> Settings:
    """Defaults by plain name, those named `<layer>.<name>` over them in the order of `layers`, then what was given.

    A given string is read as its default's type. ValueError: an unknown name (the known ones are listed), or a value
    of another type.
    """
    chosen = {name: value for name, value in defaults.items() if "." not in name}
    for layer in layers:
        prefix = f"{layer}."
        chosen |= {name.removeprefix(prefix): v for name, v in defaults.items() if name.startswith(prefix)}
    for name, value in given.items():
        if name not in chosen:
            raise ValueError(f"unknown setting {name!r}; known are {', '.join(sorted(chosen))}")
        chosen[name] = _typed(name, value, type(chosen[name]))
    return chosen


def _typed(name: str, value: Setting, kind: type) -> Setting:
    words = {"true": True, "false": False, "1": True, "0": False}
    try:
        if kind is bool:
            return words[str(value).lower()]
        if isinstance(value, bool) or (kind is int and isinstance(value, float) and value != int(value)):
            raise ValueError
        made: Setting = kind(value)
    except (KeyError, ValueError, TypeError, OverflowError):
        wanted = {bool: "true or false", int: "a whole number", float: "a number", str: "a word"}[kind]
        raise ValueError(f"setting {name}: wanted {wanted}, got {value!r}") from None
    return made


# ------------------------------------------------------------------------------------------------------------ files


def recording(path: str | os.PathLike[str]) -> tuple[Array, int]:
    """(samples float32 [n], rate) of a reference to clone. ValueError when it is no audio, or silent."""
    samples, rate = audio.read(path)
    if np.abs(samples).max() < SILENT:
        raise ValueError(f"{path}: is silent; record the reference again")
    return samples, rate


def save_voice(path: str | os.PathLike[str], system: str, arrays: dict[str, Array], about: dict[str, str]) -> None:
    """Writes an enrolled voice as safetensors. ValueError unless the name ends in .safetensors; OSError as writing."""
    target = Path(path)
    if target.suffix != ".safetensors":
        raise ValueError(f"{path}: an enrolled voice is a .safetensors file")
    target.parent.mkdir(parents=True, exist_ok=True)
    save_file(arrays, target, {"voxport.system": system, **about})
    target.chmod(0o644)  # safetensors makes private files


def load_voice(path: str | os.PathLike[str], system: str) -> tuple[dict[str, Array], dict[str, str]]:
    """(arrays, about) of an enrolled voice. ValueError when it is none, or one of another system."""
    if not Path(path).is_file():
        raise ValueError(f"{path}: no such voice file; make one with `voxport enroll`")
    try:
        with safe_open(path, framework="numpy") as held:
            about = held.metadata() or {}
            arrays = {name: held.get_tensor(name) for name in held.keys()}  # noqa: SIM118 - not a dict
    except SafetensorError as error:
        raise ValueError(f"{path}: not an enrolled voice: {error}") from None
    if about.get("voxport.system") != system:
        of = about.get("voxport.system", "something else")
        raise ValueError(f"{path}: a voice of {of}, this bundle is {system}; enroll the reference with this bundle")
    return arrays, about
