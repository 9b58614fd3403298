"""Fun-CosyVoice3's vocoder, given upstream's mels (docs/systems/cosyvoice3.md 5): layer by layer, whole, in chunks."""

import re
from collections.abc import Iterable, Mapping

import numpy as np

from voxport import bounds, draws
from voxport.bounds import Bound
from voxport.bundle import Bundle
from voxport.graphs.session import Array, Session, State
from voxport.systems.cosyvoice3.noise import SineNoise, SourceNoise
from voxport.systems.cosyvoice3.section import Section
from voxport.systems.cosyvoice3.vocoder import Samples, Vocoder
from voxport_parity.reference import taps_of
from voxport_parity.trace import Golden, Trace

SHORT, MEL, BLOCK, PHASES = "hift_short.", "flow.mel", "hift.sine_noise_block", "hift.rand_ini"
PITCH, WHOLE = "hift.f0_full_f64", "pipeline.wav_nonstream"
STREAM = re.compile(r"pipeline\.(wav_stream_(every\d+|boundaries)|stream_chunk_samples|stream_hift_frames)")
CHUNK, EVERY = re.compile(r"pipeline\.stream_mel(\d+)"), re.compile(r"pipeline\.wav_stream_every(\d+)")
STAGES = {"f0_f64": "f0", "f0_full_f64": "f0", "source": "source", "sin_gen": "source", "rand_ini": "noise"}
QUIET = re.compile(r"f0|_conv_pre$|_ups0$|_samples$|_frames$")  # tensors that no noise reaches
FRAMES = 40  # of a made-up mel


def owns(name: str) -> bool:
    """Whether a golden tensor is the vocoder's."""
    return name.startswith(("hift.", SHORT)) or name == WHOLE or STREAM.fullmatch(name) is not None


def bound(name: str) -> Bound:
    """See `Feeds`."""
    if name in (PHASES, BLOCK) or name.endswith(("_samples", "_frames")):
        return bounds.EQUAL
    if "f0" in name:
        return bounds.PITCH
    return bounds.VOCODER_AUDIO if "wav" in name else bounds.VOCODER_LAYER


def stage(name: str) -> str:
    """See `Feeds`."""
    last = name.rpartition(".")[2].removeprefix("final_").removeprefix("stream_")
    return STAGES.get(last, "vocoder")


def rounded(_name: str) -> Bound | None:
    """See `Feeds`. As of the 12 Hz codec: a flip moves an int8 vocoder's samples as far as all roundings together."""
    return None


def input_reason(name: str) -> str | None:
    """See `Feeds`."""
    if name == f"{SHORT}mel":
        return "a mel that is decoded"
    return "noise of the source" if name == BLOCK else None


def stand_in(bands: int) -> Trace:
    """A mel for a checkpoint nobody has goldens for."""
    return {f"{SHORT}mel": draws.normals(0, "parity.mel", 0, (1, bands, FRAMES)) * 2 - 5}


def trace(bundle: Bundle, golden: Golden) -> Trace:
    """See `Feeds`."""
    tensors, section = golden.tensors, bundle.section(Section).vocoder
    noise = source_noise(golden, section.skip)
    outputs = Trace()
    if PHASES in tensors and section.skip >= tensors[PHASES].size:
        phases = SineNoise(section.skip - tensors[PHASES].size).take(1, tensors[PHASES].size)
        outputs[PHASES] = np.where(np.arange(phases.size) == 0, 0, phases)  # upstream sets the first to 0
    if f"{SHORT}mel" in tensors:
        for kind in ("final", "stream"):
            outputs |= _short(Vocoder(bundle, 1, section), golden, kind, noise)
    if MEL in tensors:
        listener = Listener.of(vocoder := Vocoder(bundle, 1, section))
        outputs[WHOLE] = vocoder.decode(tensors[MEL][0].T, noise)[None]
        outputs[PITCH] = listener["f0"].record["f0"][None]
    return _comparable(golden, outputs | chunks(Vocoder(bundle, 1, section), golden))


def streamed(bundle: Bundle, golden: Golden) -> Trace:
    """See `Feeds`: the whole mel in random pieces."""
    if MEL not in golden.tensors:
        return Trace()
    section, mel = bundle.section(Section).vocoder, golden.tensors[MEL][0].T
    edges = np.sort(np.random.default_rng(0).integers(0, len(mel), 9))
    stream = Vocoder(bundle, 1, section).stream(source_noise(golden, section.skip))
    pieces = [stream.feed(piece) for piece in np.split(mel, edges)]
    return _comparable(golden, {WHOLE: np.concatenate([*pieces, stream.flush()])[None]})


def _comparable(golden: Golden, outputs: Trace) -> Trace:
    """Without what follows from the source's noise, where upstream had another one and the golden lacks it."""
    if BLOCK in golden.tensors or not golden.meaning(BLOCK):
        return outputs
    return {name: array for name, array in outputs.items() if name == PHASES or QUIET.search(name)}


def source_noise(golden: Golden, skip: int) -> SourceNoise:
    """The golden's: a block over and over where it has one, else upstream's."""
    return Tile(golden.tensors[BLOCK]) if BLOCK in golden.tensors else SineNoise(skip)


def waves(vocoder: Vocoder, mels: Iterable[Array], noise: SourceNoise) -> list[Samples]:
    """The samples that each chunk of a mel [frames, bands] adds; the last one ends the stream."""
    stream = vocoder.stream(noise)
    out = [stream.feed(mel) for mel in mels]
    return [*out[:-1], np.concatenate((out[-1], stream.flush()))] if out else out


def chunks(vocoder: Vocoder, golden: Golden, mels: list[Array] | None = None) -> Trace:
    """Upstream's streamed waveform, as its golden samples it. `mels`: of the chunks; by default the golden's."""
    tensors = golden.tensors
    mels = _mels(golden, vocoder.hop) if mels is None else mels
    if not mels:
        return Trace()
    out = waves(vocoder, mels, source_noise(golden, vocoder.skip))
    wave, sizes = np.concatenate(out), np.array([len(x) for x in out])
    outputs: Trace = {
        "pipeline.stream_chunk_samples": sizes.astype(np.int32),
        "pipeline.stream_hift_frames": np.cumsum([len(mel) for mel in mels]).astype(np.int32),
    }
    for name in tensors:
        if match := EVERY.fullmatch(name):
            outputs[name] = wave[None, :: int(match[1])]
        elif name == "pipeline.wav_stream_boundaries":
            half = tensors[name].shape[1] // 2
            outputs[name] = np.stack([wave[edge - half : edge + half] for edge in np.cumsum(sizes)[:-1]])
    return outputs


def _mels(golden: Golden, hop: int) -> list[Array]:
    """Of all chunks, [frames, bands]; none where the golden lacks one of them."""
    tensors = golden.tensors
    by_number = {int(match[1]): tensors[name][0].T for name in tensors if (match := CHUNK.fullmatch(name))}
    mels = [by_number[i] for i in sorted(by_number)]
    samples = sum(map(len, mels)) * hop
    counts = [len(tensors[name]) for name in tensors if STREAM.fullmatch(name) and tensors[name].ndim == 1]
    counts += [len(tensors[name]) + 1 for name in tensors if name.endswith("stream_boundaries")]
    whole = all(count == len(mels) for count in counts) and sorted(by_number) == list(range(len(mels)))
    for name in tensors:
        if match := EVERY.fullmatch(name):
            whole = whole and tensors[name].size == -(-samples // int(match[1]))
    return mels if whole else []


def _short(vocoder: Vocoder, golden: Golden, kind: str, noise: SourceNoise) -> Trace:
    """A short mel as the last of an utterance ("final") or as one that goes on ("stream"), layer by layer."""
    tensors, listeners = golden.tensors, Listener.of(vocoder)
    stream = vocoder.stream(noise)
    wave = stream.feed(tensors[f"{SHORT}mel"][0].T)
    rest = stream.flush()  # the net is one step of its last layers late: what follows completes them
    whole = np.concatenate((wave, rest)) if kind == "final" else wave
    frames = tensors[f"{SHORT}mel"].shape[2] - (0 if kind == "final" else vocoder.pitch_ahead)
    own = listeners["source"].record["source"].reshape(-1)[: frames * vocoder.hop]
    outputs: Trace = {"wav": whole[None], "source": own[None, None]}
    outputs["f0_f64"] = listeners["f0"].record["f0"][None, :frames]
    for name, values in (listeners["source"].record | listeners["vocoder"].record).items():
        last = name.replace(".", "")
        expected = tensors.get(f"{SHORT}{kind}_{last}")
        if last not in outputs and expected is not None:
            axis = _time(name)
            outputs[last] = values.take(range(min(values.shape[axis], expected.shape[axis])), axis)
    return {f"{SHORT}{kind}_{name}": values for name, values in outputs.items()}


def _time(name: str) -> int:
    """The axis of time in what a call gives."""
    return {"f0": 0, "source": 0, "wave": 0, "sin_gen": 1}.get(name, 2)


class Listener:
    """A Session that keeps what its calls gave, and what was tapped in them, joined along time."""

    def __init__(self, session: Session) -> None:
        self._session, self._calls = session, list[Trace]()
        self.stage, self.threads = session.stage, session.threads

    @classmethod
    def of(cls, vocoder: Vocoder) -> "Mapping[str, Listener]":
        """Puts one around every stage."""
        by_stage = {session.stage.name: cls(session) for session in (vocoder.f0, vocoder.source, vocoder.net)}
        vocoder.f0, vocoder.source, vocoder.net = (by_stage[name] for name in ("f0", "source", "vocoder"))
        return by_stage

    @property
    def record(self) -> Trace:
        """By name: the outputs, and what was tapped."""
        names = self._calls[0] if self._calls else ()
        return {name: np.concatenate([call[name] for call in self._calls], _time(name)) for name in names}

    def start(self, constants: Mapping[str, Array] | None = None, /, **axes: int) -> State:
        """See `Session.start`."""
        return self._session.start(constants, **axes)

    def __call__(
        self, state: State, *, into: Mapping[str, Array] | None = None, **inputs: Array
    ) -> tuple[dict[str, Array], State]:
        """See `Session`."""
        outputs, state = self._session(state, into=into, **inputs)
        self._calls.append(outputs | taps_of(self._session))
        return outputs, state


class Tile:
    """Noise that is a block [samples, harmonics] over and over, as the fixture's: upstream's own is 260 MB."""

    def __init__(self, block: Array, sample: int = 0) -> None:
        self._block, self._sample = block, sample

    def take(self, samples: int, harmonics: int) -> Array:
        """See `SourceNoise`."""
        rows = self._block[(self._sample + np.arange(samples)) % len(self._block), :harmonics]
        self._sample += samples
        return rows

    def copy(self) -> "Tile":
        """See `SourceNoise`."""
        return Tile(self._block, self._sample)
