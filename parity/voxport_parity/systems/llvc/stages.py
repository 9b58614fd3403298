"""LLVC: both stages called by hand, so that every state and layer is seen, in the layout upstream wrote them."""

import re
from collections.abc import Iterator

import numpy as np

from voxport.bundle import Bundle
from voxport.graphs.session import Array, State
from voxport.systems.llvc.section import Section
from voxport_parity.reference import taps_of
from voxport_parity.systems.llvc.waves import recording
from voxport_parity.trace import Golden, Trace

SLICE = re.compile(r"\w\[(\d*):(\d+)\]")


class Stages:
    """The pre-net's output feeds the converter; the states of both are kept from call to call."""

    def __init__(self, bundle: Bundle) -> None:
        self.prenet = bundle.session("prenet") if "prenet" in bundle.manifest.stages else None
        self.convert = bundle.session("convert")
        self.before = self.prenet.start() if self.prenet else None
        self.state = self.convert.start()
        self.chunk = int(self.convert.stage.inputs[0].shape[1])
        self.hop = bundle.section(Section).hop
        self.context = len(self.state["context"]) if "context" in self.state else 0

    def run(self, samples: Array, frames: int) -> tuple[Array, Trace]:
        """samples [context + chunks * chunk] -> converted [chunks * chunk], taps of both nets (torch only)."""
        filtered, taps = samples, Trace()
        if self.prenet is not None and self.before is not None:
            outputs, self.before = self.prenet(self.before, audio=samples)
            filtered = outputs["filtered"]
            taps |= taps_of(self.prenet)
        if self.context:
            self.state["context"][:] = filtered[: self.context]
        chunks = filtered[self.context :].reshape(-1, self.chunk)
        outputs, self.state = self.convert(self.state, audio=chunks, frames=np.array([frames]))
        taps |= taps_of(self.convert)
        return outputs["converted"].reshape(-1), taps


def whole(bundle: Bundle, golden: Golden) -> Trace:
    """`<run>.output` and `<run>.<tap>`: a whole signal in one call, padded as upstream pads it."""
    outputs: Trace = {}
    for run, start, stop in _whole_runs(golden):
        stages = Stages(bundle)
        samples = recording(golden)[start:stop]
        lead, length = stages.context // 2, len(samples)
        frames = -(-length // stages.hop)
        size = stages.context + -(-frames * stages.hop // stages.chunk) * stages.chunk
        padded = np.zeros(size, np.float32)
        padded[lead : lead + length] = samples
        # upstream's pre-net ends with the look-ahead; what follows is the decoder's padding and never heard
        converted, taps = stages.run(padded, frames)
        outputs |= {f"{run}.output": converted[:length]} | _laid_out(run, taps, golden)
    return outputs


def _whole_runs(golden: Golden) -> Iterator[tuple[str, int, int]]:
    """(run, start, stop) of the recording's samples: runs of which the golden has layers, or an `output` of its own
    that the notes say nothing about."""
    for run in dict.fromkeys(name.split(".")[0] for name in golden.tensors):
        texts = [golden.meaning(n) for n in golden.tensors if n.startswith(f"{run}.")]
        found = next((SLICE.search(text) for text in texts if "intermediate for" in text), None)
        output = golden.tensors.get(f"{run}.output")
        if found is not None:
            yield run, int(found[1] or 0), int(found[2])
        elif output is not None and not golden.meaning(f"{run}.output"):
            yield run, 0, len(output)


def chunks(bundle: Bundle, golden: Golden) -> Trace:
    """`<run>.chunks.*` and `<run>.tap<k>.*`: upstream's streaming, state by state, fed its own chunks."""
    outputs: Trace = {}
    for run in sorted(name.removesuffix(".chunks.chunk_in") for name in golden.tensors if name.endswith(".chunk_in")):
        stages = Stages(bundle)
        steps: dict[str, list[Array]] = {}
        for k, samples in enumerate(golden.tensors[f"{run}.chunks.chunk_in"]):
            out, taps = stages.run(samples, (len(samples) - stages.context) // stages.hop)
            for name, value in {"out": out, **_buffers(stages, golden.tensors, run)}.items():
                steps.setdefault(f"{run}.chunks.{name}", []).append(value)
            outputs |= _laid_out(f"{run}.tap{k}", taps, golden)
        outputs |= {name: np.stack(values) for name, values in steps.items()}
    return outputs


def _buffers(stages: Stages, golden: Trace, run: str) -> Trace:
    """Our per-layer states in upstream's four buffers."""
    state = stages.state
    enc = [state[n].T for n in state if n.startswith("enc.")]
    dec = [state[n] for n in state if n.startswith("dec.")]
    buffers = {
        "enc_buf": np.concatenate(enc, axis=1),
        "dec_buf": np.stack(dec),
        "out_buf": state["out"].T.copy(),
    }
    if stages.before is not None and f"{run}.chunks.pre_ctx" in golden:
        buffers["pre_ctx"] = _pre_context(stages.before, golden[f"{run}.chunks.pre_ctx"].shape[1])
    return buffers


def _pre_context(state: State, height: int) -> Array:
    """[height, all contexts]: every layer's past side by side, missing channels zero."""
    return np.concatenate([np.pad(p, ((0, height - p.shape[0]), (0, 0))) for p in state.values()], axis=1)


def _laid_out(prefix: str, taps: Trace, golden: Golden) -> Trace:
    names = {f"{prefix}.{name}": value for name, value in taps.items()}
    return {name: _like(value, golden.tensors[name]) for name, value in names.items() if name in golden.tensors}


def _like(value: Array, expected: Array) -> Array:
    """A tap in upstream's axes, cut to upstream's length (ours is padded to whole chunks)."""
    if value.ndim < expected.ndim:
        if expected.shape[1] == 1:  # one channel of samples
            value = value.reshape(1, 1, -1)
        elif value.ndim == 1:
            value = value[None]
        else:  # [frames, channels] -> [1, channels, frames]
            value = value.T[None]
    return value[..., : expected.shape[-1]]
