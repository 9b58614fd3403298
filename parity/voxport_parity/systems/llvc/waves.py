"""LLVC: the whole signals among its goldens, how upstream converted each, and what went in.

A name says nothing by itself: the notes say whether a signal was streamed, by how many chunks at a time, and of which
samples. Where the notes say nothing, `ns`, `s<factor>` and `al<factor>` at the end of a name stand for the modes.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from voxport.audio import files
from voxport.graphs.session import Array
from voxport.systems.llvc.stream import Mode
from voxport_parity.trace import Golden

INPUT = "audio.input_16k"
CODE = re.compile(r"(?:^|\.)(?:(?P<offline>ns)|s(?P<upstream>\d+)|al(?P<exact>\d+))(?:\.out)?$")
FACTOR = re.compile(r"\b(?:chunk_factor|n)\W*(\d+)")
SOURCE = re.compile(r"\b(?:for|of) (?P<tensor>\w+(?:\.\w+)+)(?:\[(?P<start>\d*):)?")


@dataclass(frozen=True)
class Wave:
    """A converted signal: float32 `samples` [n] in, a signal of the same length out."""

    name: str
    mode: Mode
    factor: int  # chunks per step
    samples: Array


def waves(golden: Golden) -> Iterator[Wave]:
    """The signals among the golden's tensors that were converted whole; ValueError when what went in is missing."""
    for name, signal in golden.tensors.items():
        if signal.ndim != 1 or signal.dtype.kind != "f":
            continue
        mode = _mode(name, golden.meaning(name))
        if mode is None:
            continue
        samples = _samples(golden, name, len(signal))
        if len(samples):
            yield Wave(name, mode, _factor(name, golden.meaning(name)), samples)


def recording(golden: Golden) -> Array:
    """The samples most signals are made of, float32 [n]: a tensor, or the file that the notes say it was read from."""
    if INPUT not in golden.tensors:
        file = re.match(r"\S+\.wav", golden.meaning(INPUT))
        if file is not None and golden.folder is not None and (golden.folder / file[0]).is_file():
            return files.read(golden.folder / file[0])[0]
    return golden.tensors[INPUT]


def _mode(name: str, meaning: str) -> Mode | None:
    if "intermediate" in meaning:
        return None
    if "sample-aligned" in meaning:
        return "exact"
    if "non-streaming" in meaning:
        return "offline"
    if "streaming" in meaning or "infer_stream" in meaning:
        return "upstream"
    code = None if meaning else CODE.search(name)
    if code is None:
        return None
    return "offline" if code["offline"] else "upstream" if code["upstream"] else "exact"


def _factor(name: str, meaning: str) -> int:
    """Aligned signals are the same for every factor."""
    found, code = FACTOR.search(meaning), CODE.search(name)
    if found is not None:
        return int(found[1])
    return int((code["upstream"] or code["exact"] or 1) if code is not None else 1)


def _samples(golden: Golden, name: str, length: int) -> Array:
    """What was converted into a signal of `length` samples; all of the recording where `length` is 0."""
    group = name.removesuffix(".out").rpartition(".")[0]
    meanings = [golden.meaning(name), *(text for other, text in golden.meanings() if other.startswith(f"{group}."))]
    if "of zeros" in meanings[0]:
        return np.zeros(length, np.float32)
    for text in meanings if "same input" in meanings[0] else meanings[:1]:
        source = SOURCE.search(text)
        if source is not None:
            whole = _tensor(golden, source["tensor"], group)
            at = int(source["start"] or 0)
            return whole[at : at + length]
    return recording(golden)[: length or None]


def _tensor(golden: Golden, name: str, group: str) -> Array:
    """The tensor the notes name, or the one of that kind in the signal's own group."""
    beside = f"{group}.{name.rpartition('.')[2]}"
    found = name if name in golden.tensors else beside
    return golden.tensors[found] if found in golden.tensors else recording(golden)
