"""LLVC: how its goldens are fed, and in which layout upstream wrote them (docs/systems/llvc.md; golden.json's notes).

A trace is named and laid out as the goldens are: upstream is channels-first with a batch axis, our nets are
channels-last without.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from voxport import bounds
from voxport.audio import files, resample
from voxport.bounds import Bound
from voxport.bundle import Bundle
from voxport.graphs.session import Array
from voxport.systems.llvc.converter import Converter
from voxport.systems.llvc.stream import Stream
from voxport_parity.systems.llvc import stages
from voxport_parity.systems.llvc.waves import INPUT, waves
from voxport_parity.trace import Golden, Trace

# Parts of a name behind which lies one call of a stage: its layers, states and output. All else is a whole signal.
CALL = re.compile(r"\.(pre|in_conv|label|enc|dec|proj_\w+|mask|out_conv|output|chunks|tap\d+)(\.|$)")
RESAMPLED = ("mono", "kernel_rows", "audio_16k")  # kinds of tensors of a recording at another rate
PIECES = (0, 1, 7, 200, 1000)  # samples that a streamed signal is fed at once


def bound(name: str) -> Bound:
    """See `Feeds`."""
    if name.rpartition(".")[2] in RESAMPLED:
        return bounds.RESAMPLED
    audible = not CALL.search(name) or name.endswith((".chunks.out", ".out_conv.out", ".output"))
    return bounds.CONVERTER_AUDIO if audible else bounds.CONVERTER_STATE


def stage(name: str) -> str:
    """See `Feeds`."""
    if name.rpartition(".")[2] in RESAMPLED:
        return "resample"
    if not CALL.search(name):
        return "end to end"
    return "prenet" if ".pre" in name else "convert"


def rounded(_name: str) -> Bound:
    """See `Feeds`."""
    return bounds.QUANTIZED


def input_reason(name: str) -> str | None:
    """See `Feeds`."""
    if name.endswith(".chunks.chunk_in"):
        return "the samples that upstream's stream fed its model"
    return "the recording that is converted" if name == INPUT else None


def options(golden: Golden) -> Mapping[str, Any]:
    """See `Feeds`: nothing."""
    return {}


def without_golden(bundle: Bundle) -> Golden:
    """Inputs for a checkpoint nobody has goldens for: half a second of noisy glide, in every mode the model offers.

    A model without look-ahead cannot be streamed; one whose chunks are shorter than its context takes several chunks
    at a time in upstream's mode.
    """
    rate = bundle.manifest.sample_rate
    t = np.arange(rate // 2) / rate
    glide = 0.3 * np.sin(2 * np.pi * 120 * t * (1 + t)) + 0.05 * np.random.default_rng(0).standard_normal(len(t))
    names = ["ns"]
    calls = stages.Stages(bundle)
    if calls.context:
        least = -(-calls.context // calls.chunk)
        names += [f"s{least}", f"s{least + 1}", "al1", "al3"]
    empty = {f"{name}.out": np.empty(0, np.float32) for name in names}
    return Golden({INPUT: glide.astype(np.float32)} | empty, {}, None)


def live(_files: Sequence[Path], _golden: Golden, _trace: Trace) -> Iterator[tuple[str, Array, Array]]:
    """Nothing: upstream's own code is not a package that could be run beside the net."""
    return iter(())


def trace(bundle: Bundle, golden: Golden) -> Trace:
    """See `Feeds`."""
    return (
        dict(_converted(bundle, golden))
        | _resampling(golden)
        | stages.whole(bundle, golden)
        | stages.chunks(bundle, golden)
    )


def streamed(bundle: Bundle, golden: Golden) -> Trace:
    """See `Feeds`: the signals in pieces of random length, some of a single sample and some empty."""
    return dict(_converted(bundle, golden, pieces=np.random.default_rng(0)))


def _converted(
    bundle: Bundle, golden: Golden, pieces: np.random.Generator | None = None
) -> Iterator[tuple[str, Array]]:
    converter = Converter(bundle)
    for wave in waves(golden):
        stream = converter.stream(wave.mode, wave.factor)
        yield wave.name, stream.convert(wave.samples) if pieces is None else _piecewise(stream, wave.samples, pieces)


def _piecewise(stream: Stream, samples: Array, rng: np.random.Generator) -> Array:
    out, at = [], 0
    while at < len(samples):
        size = int(rng.choice(PIECES))
        out.append(stream.feed(samples[at : at + size]))
        at += size
    return np.concatenate([*out, stream.flush()])


def _resampling(golden: Golden) -> Trace:
    """A recording at another rate, mixed and resampled as upstream's loader does it."""
    names = [name for name in golden.tensors if name.rpartition(".")[2] in RESAMPLED]
    if not names or golden.folder is None:
        return {}
    mono, rate = files.read(golden.folder / golden.notes["other_rate_input"])
    target = int(golden.notes["sample_rate"])
    outputs = {}
    for name in names:
        kind = name.rpartition(".")[2]
        if kind == "kernel_rows":
            rows = [int(n) for n in re.findall(r"\d+", golden.meaning(name).split("]")[0])]
            outputs[name] = resample.sinc_kernel(rate, target)[0][rows]
        else:
            outputs[name] = mono if kind == "mono" else resample.resample(mono, rate, target)
    return outputs
