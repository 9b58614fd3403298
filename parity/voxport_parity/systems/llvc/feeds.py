"""LLVC: how its goldens are fed, and in which layout upstream wrote them (docs/systems/llvc.md; fixtures' golden.json).

A trace is named and laid out as the goldens are: upstream is channels-first with a batch axis, our nets are
channels-last without.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from voxport import bounds
from voxport.audio import files as audio
from voxport.audio import resample
from voxport.bounds import Bound
from voxport.bundle import Bundle
from voxport.graphs.session import Array, State
from voxport.systems.llvc.converter import Converter, Mode
from voxport.systems.llvc.section import Section
from voxport_parity.reference import taps_of
from voxport_parity.trace import Golden, Trace

INPUT = "audio.input_16k"
WAVE = re.compile(r"^(?:(?P<group>resample|silence|edge\.\d+)\.)?(?P<kind>ns|s(?P<s>\d+)|al(?P<al>\d+))(?:\.out)?$")
WITHOUT_GOLDEN = ("ns.out", "s1.out", "s2.out", "al1.out", "al3.out")


def bound(name: str) -> Bound:
    if name.startswith("resample.kernel") or name == "resample.audio_16k":
        return bounds.RESAMPLED
    if name.endswith((".chunks.out", ".out_conv.out", "nst.output")) or WAVE.match(name):
        return bounds.LLVC_AUDIO
    return bounds.LLVC_STATE


def stage(name: str) -> str:
    if WAVE.match(name):
        return "end to end"
    if name.startswith("resample."):
        return "resample"
    return "prenet" if ".pre" in name else "convert"


def rounded(name: str) -> Bound:
    """Of a quantized graph to the torch net that rounds as it does."""
    return bounds.QUANTIZED


def without_golden(bundle: Bundle) -> Golden:
    """Inputs for a checkpoint nobody has goldens for: half a second of noisy glide, three edge lengths, silence."""
    rate = bundle.manifest.sample_rate
    t = np.arange(rate // 2) / rate
    glide = 0.3 * np.sin(2 * np.pi * 120 * t * (1 + t)) + 0.05 * np.random.default_rng(0).standard_normal(len(t))
    wanted = {name: np.empty(0, np.float32) for name in WITHOUT_GOLDEN}
    return Golden({INPUT: glide.astype(np.float32)} | wanted, {}, None)  # type: ignore[arg-type]


def live(_files: Sequence[Path], _golden: Golden, _trace: Trace) -> Iterator[tuple[str, Array, Array]]:
    """Nothing: upstream's own code is not a package that could be run beside the net."""
    return iter(())


def trace(bundle: Bundle, golden: Golden) -> Trace:
    """Everything the bundle's stages can produce of the golden's names."""
    converter = Converter(bundle)
    made = dict(_waves(converter, golden))
    made |= _resampling(golden)
    if "nst.output" in golden.tensors:
        made |= _whole(bundle, golden)
    for group in sorted({name.split(".")[0] for name in golden.tensors if ".chunks." in name}):
        made |= _chunks(bundle, golden, group)
    return made


def streamed(bundle: Bundle, golden: Golden) -> Trace:
    """The waves again, fed in pieces of random length, some of a single sample and some empty."""
    return dict(_waves(Converter(bundle), golden, pieces=np.random.default_rng(0)))


def _waves(
    converter: Converter, golden: Golden, pieces: np.random.Generator | None = None
) -> Iterator[tuple[str, Array]]:
    for name in golden.tensors:
        match = WAVE.match(name)
        if match is None:
            continue
        mode: Mode = "offline" if match["kind"] == "ns" else "upstream" if match["s"] else "exact"
        samples = _input(golden, name, match["group"] or "")
        if not len(samples):
            continue
        stream = converter.stream(mode, int(match["s"] or match["al"] or 1))
        yield name, stream.convert(samples) if pieces is None else _piecewise(stream, samples, pieces)


def _piecewise(stream: Converter, samples: Array, rng: np.random.Generator) -> Array:
    out, at = [], 0
    while at < len(samples):
        size = int(rng.choice([0, 1, 7, 200, 1000]))
        out.append(stream.feed(samples[at : at + size]))
        at += size
    return np.concatenate([*out, stream.flush()])


def _input(golden: Golden, name: str, group: str) -> Array:
    if group == "resample":
        return golden.tensors["resample.audio_16k"]
    wanted = golden.tensors[name]
    if group == "silence":
        return np.zeros_like(wanted)
    if group.startswith("edge"):
        start = re.search(r"\[(\d+):", golden.meaning(f"{group}.ns"))
        at = int(start[1]) if start else 0
        return golden.tensors[INPUT][at : at + len(wanted)]
    return golden.tensors[INPUT]


def _resampling(golden: Golden) -> Trace:
    if "resample.mono" not in golden.tensors:
        return {}
    file = golden.folder / golden.notes["other_rate_input"]
    mono, rate = audio.read(file)
    target = int(golden.notes["sample_rate"])
    rows = [int(n) for n in re.findall(r"\d+", golden.meaning("resample.kernel_rows").split("]")[0])]
    return {
        "resample.mono": mono,
        "resample.kernel_rows": resample.sinc_kernel(rate, target)[0][rows],
        "resample.audio_16k": resample.resample(mono, rate, target),
    }


# ------------------------------------------------------------------------------------------ stages, call by call


class _Stages:
    """Both stages driven by hand, with a record of what they saw: the pre-net's output feeds the converter."""

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
            out, self.before = self.prenet(self.before, audio=samples)
            filtered = out["filtered"]
            taps |= taps_of(self.prenet)
        if self.context:
            self.state["context"][:] = filtered[: self.context]
        chunks = filtered[self.context :].reshape(-1, self.chunk)
        out, self.state = self.convert(self.state, audio=chunks, frames=np.array([frames]))
        taps |= taps_of(self.convert)
        return out["converted"].reshape(-1), taps


def _whole(bundle: Bundle, golden: Golden) -> Trace:
    """`nst.*`: a whole signal in one call, padded as upstream pads it."""
    stages = _Stages(bundle)
    length = len(golden.tensors["nst.output"])
    lead = stages.context // 2
    frames = -(-length // stages.hop)
    size = stages.context + -(-frames * stages.hop // stages.chunk) * stages.chunk
    padded = np.zeros(size, np.float32)
    padded[lead : lead + length] = golden.tensors[INPUT][:length]
    # upstream's pre-net ends with the look-ahead; what follows is the decoder's padding and never heard
    out, taps = stages.run(padded, frames)
    return {"nst.output": out[:length]} | _laid_out("nst", taps, golden)


def _chunks(bundle: Bundle, golden: Golden, group: str) -> Trace:
    """`s<n>.chunks.*` and `s<n>.tap<k>.*`: upstream's streaming, state by state."""
    stages = _Stages(bundle)
    made: dict[str, list[Array]] = {}
    taps: Trace = {}
    for k, samples in enumerate(golden.tensors[f"{group}.chunks.chunk_in"]):
        out, seen = stages.run(samples, (len(samples) - stages.context) // stages.hop)
        for name, value in {"out": out, **_buffers(stages, golden.tensors, group)}.items():
            made.setdefault(f"{group}.chunks.{name}", []).append(value)
        taps |= _laid_out(f"{group}.tap{k}", seen, golden)
    return {name: np.stack(values) for name, values in made.items()} | taps


def _buffers(stages: _Stages, golden: Trace, group: str) -> Trace:
    """Our per-layer states in upstream's four buffers."""
    state = stages.state
    enc = [state[n].T for n in state if n.startswith("enc.")]
    dec = [state[n] for n in state if n.startswith("dec.")]
    made = {
        "enc_buf": np.concatenate(enc, axis=1),
        "dec_buf": np.stack(dec),
        "out_buf": state["out"].T.copy(),
    }
    if stages.before is not None:
        made["pre_ctx"] = _pre_context(stages.before, golden[f"{group}.chunks.pre_ctx"].shape[1])
    return made


def _pre_context(state: State, height: int) -> Array:
    """[height, all contexts]: every layer's past side by side, missing channels zero."""
    return np.concatenate([np.pad(p, ((0, height - p.shape[0]), (0, 0))) for p in state.values()], axis=1)


def _laid_out(prefix: str, taps: Trace, golden: Golden) -> Trace:
    made = {}
    for name, value in taps.items():
        wanted = golden.tensors.get(f"{prefix}.{name}")
        if wanted is not None:
            made[f"{prefix}.{name}"] = _like(value, wanted)
    return made


def _like(value: Array, wanted: Array) -> Array:
    """A tap in upstream's axes, cut to upstream's length (ours is padded to whole chunks)."""
    if value.ndim < wanted.ndim:
        if wanted.shape[1] == 1:  # one channel of samples
            value = value.reshape(1, 1, -1)
        elif value.ndim == 1:
            value = value[None]
        else:  # [frames, channels] -> [1, channels, frames]
            value = value.T[None]
    return value[..., : wanted.shape[-1]]
