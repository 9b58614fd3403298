"""Voices to clone: recordings, names, and the .safetensors files of enrolled ones.

A voice's name is a str, the file of an enrolled voice a Path: `find` tells them apart in one place.
"""

import os
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as serialize
from safetensors.numpy import save_file

from voxport.audio import files
from voxport.graphs.session import Array

V = TypeVar("V")

SUFFIX = ".safetensors"
FOLDER = "voices"  # of a bundle: the voices in it have names
SYSTEM = "voxport.system"  # the metadata entry that says whose voice a file is
SILENT = 1e-3  # peak (-60 dB) below which a reference holds no voice


class Voice(Protocol):
    """An enrolled voice."""

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes a .safetensors file."""


def enrolled(bundle: Path) -> list[str]:
    """The names of the voices that lie in a bundle."""
    return sorted(path.stem for path in (bundle / FOLDER).glob(f"*{SUFFIX}"))


def find(voice: str | os.PathLike[str], bundle: Path) -> str | Path:
    """What `voice` stands for: the file of an enrolled voice (a Path), or a name that only the model knows (a str).

    A file is whatever is a path or ends in .safetensors, and the name of a voice that lies in the bundle.
    """
    if isinstance(voice, str):
        if voice in enrolled(bundle):
            return bundle / FOLDER / f"{voice}{SUFFIX}"
        if not voice.endswith(SUFFIX):
            return voice
    return Path(voice)


def check_reference(voice: object | None, ref_audio: str | os.PathLike[str] | None, ref_text: str | None) -> None:
    """Raises ValueError in one line unless a voice, a recording with or without a transcript, or nothing is given."""
    if ref_audio is not None and voice is not None:
        raise ValueError("a voice and a reference to clone: give one of them")
    if ref_audio is None and ref_text is not None:
        raise ValueError("a transcript without its recording; give --ref-audio too")


def recording(path: str | os.PathLike[str], most: int) -> tuple[Array, int]:
    """(samples float32 [n], rate) of a reference to clone, of at most `most` seconds.

    ValueError: it is no audio, silent, or too long, which the file's header says before anything is decoded.
    """
    seconds = files.duration(path)
    if seconds > most:
        raise ValueError(f"{path}: {seconds:.1f} s are too long for a reference; cut it to {most} s or less")
    samples, rate = files.read(path)
    if np.abs(samples).max() < SILENT:
        raise ValueError(f"{path}: is silent; record the reference again")
    return samples, rate


def enroll(path: str | os.PathLike[str], most: int, listen: Callable[[Array, int], V]) -> V:
    """What `listen(samples, rate)` makes of a recording; see `recording`. ValueError names the file."""
    samples, rate = recording(path, most)
    try:
        return listen(samples, rate)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def check_target(path: str | os.PathLike[str]) -> None:
    """Raises ValueError unless the name is that of an enrolled voice's file: before anything is computed for it."""
    if Path(path).suffix != SUFFIX:
        raise ValueError(f"{path}: an enrolled voice is a {SUFFIX} file")


def contents(system: str, arrays: Mapping[str, Array], about: Mapping[str, str]) -> bytes:
    """What `save` writes, for a file that somebody else writes."""
    raw: bytes = serialize(dict(arrays), {SYSTEM: system, **about})
    return raw


def save(path: str | os.PathLike[str], system: str, arrays: Mapping[str, Array], about: Mapping[str, str]) -> None:
    """Writes an enrolled voice as safetensors, whole or not at all.

    ValueError as `check_target`; OSError as writing.
    """
    check_target(path)
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{secrets.token_hex(8)}.part")
    try:
        save_file(dict(arrays), part, {SYSTEM: system, **about})
        part.chmod(0o644)  # safetensors makes private files
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)


def load(
    path: str | os.PathLike[str], system: str, kinds: Mapping[str, tuple[str, int]], about: str
) -> tuple[dict[str, Array], str]:
    """(arrays, the metadata entry `about`) of an enrolled voice; `kinds`: type and number of axes of each array.

    Everything is checked in the file's header before an array is read. ValueError when it is no voice, or one of
    another system.
    """
    if not Path(path).is_file():
        raise ValueError(f"{path}: no such voice file; make one with `voxport enroll`")
    try:
        with safe_open(path, framework="numpy") as file:
            entries = file.metadata() or {}
            if entries.get(SYSTEM) != system:
                of = entries.get(SYSTEM, "something else")
                raise ValueError(
                    f"{path}: a voice of {of}, this bundle is {system}; enroll the reference with this bundle"
                )
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 - not a dict
            found = {name: (part.get_dtype(), len(part.get_shape())) for name, part in slices.items()}
            if found != kinds or about not in entries:
                raise ValueError(f"{path}: not a voice of this version; enroll the reference again")
            return {name: file.get_tensor(name) for name in kinds}, entries[about]
    except SafetensorError as error:
        raise ValueError(f"{path}: not an enrolled voice: {error}") from None
