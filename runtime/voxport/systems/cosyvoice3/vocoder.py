"""Mel to samples (docs/systems/cosyvoice3.md 5): f0, the source it drives, and the net that shapes the source.

A mel is float32 [frames, bands], samples are float32 [n] at the bundle's rate. The graphs carry their state, so a
stream gives what one call gives, whatever the pieces, and computes nothing twice. They look ahead, too: of `n` frames
that are not the last ones a stream gives the samples of the first `n - lookahead`, as upstream does.
"""

import numpy as np
import numpy.typing as npt

from voxport.bundle import Bundle
from voxport.graphs.session import Array, Session, State
from voxport.systems.cosyvoice3.noise import SineNoise, SourceNoise
from voxport.systems.cosyvoice3.section import VocoderSection

Samples = npt.NDArray[np.float32]

# Most frames of a step. On two threads the elementwise half of the net gains from long tensors: with 8, 16, 32, 50 and
# 100 frames its RTF is 0.132, 0.116, 0.100, 0.097 and 0.098; on one, 50 take 4 % longer than 16 (Zen 5, real size).
PIECE = 50
SPARE = 1  # frames that upstream decodes and keeps back, since the ISTFT lacks what comes after them
ALL = np.array([np.iinfo(np.int64).max])  # steps of a call: however many it has
ONE = np.array([1])  # after the last frame: an STFT has one frame more than hops


class Vocoder:
    """The graphs. Any number of streams may run over them at once."""

    def __init__(self, bundle: Bundle, threads: int, section: VocoderSection) -> None:
        self.f0, self.source, self.net = (bundle.session(name, threads) for name in ("f0", "source", "vocoder"))
        self.hop, self.skip = section.hop, section.skip
        self.bands = int(_shape(self.net, "mel")[1])
        self.harmonics = int(_shape(self.source, "noise")[2])
        self.half = int(_shape(self.net, "samples")[0]) // 2  # of an STFT window
        self.pitch_ahead, self.net_ahead = (int(_shape(s, "ahead")[0]) for s in (self.f0, self.net))

    @property
    def lookahead(self) -> int:
        """Frames whose samples a stream keeps back until more frames come, or its end."""
        return self.pitch_ahead + self.net_ahead + SPARE

    def stream(self, noise: SourceNoise | None = None) -> "VocoderStream":
        """A vocoder that takes a mel as it comes. `noise`: of its source; by default upstream's, from its start."""
        return VocoderStream(self, SineNoise(self.skip) if noise is None else noise)

    def decode(self, mel: npt.ArrayLike, noise: SourceNoise | None = None) -> Samples:
        """A whole mel [frames, bands] -> samples [frames * hop]."""
        stream = self.stream(noise)
        return np.concatenate((stream.feed(mel), stream.flush()))

    def checked(self, mel: npt.ArrayLike) -> Array:
        """The mel as float32 [frames, bands]. ValueError when it is none of this vocoder's."""
        array = np.asarray(mel)
        if array.ndim != 2 or array.shape[1] != self.bands or array.dtype.kind != "f":
            raise ValueError(f"wanted a mel float [frames, {self.bands}], got {array.dtype}{list(array.shape)}")
        return np.ascontiguousarray(array, np.float32)


class VocoderStream:
    """One utterance, decoded as its mel comes. The samples are the same however the mel is split."""

    def __init__(self, vocoder: Vocoder, noise: SourceNoise) -> None:
        self._vocoder, self._fresh = vocoder, noise
        self._begin()

    def _begin(self) -> None:
        v = self._vocoder
        self._noise = self._fresh.copy()
        self._pitch, self._cycles, self._state = v.f0.start(), v.source.start(), v.net.start()
        self._frames = 0  # that came
        self._at = 0  # frames the net has seen
        self._start = 0  # samples handed out
        self._mel = np.empty((0, v.bands), np.float32)  # that the net has not seen yet
        self._source = np.empty(0, np.float32)  # as the mel
        self._end = np.empty(0, np.float32)  # of the source so far
        self._wave = np.empty(0, np.float32)  # what the net made that was not handed out

    def feed(self, mel: npt.ArrayLike) -> Samples:
        """The next frames [frames, bands], any number -> the samples that are certain by now and were not given."""
        v, frames = self._vocoder, self._vocoder.checked(mel)
        self._excite(frames)
        self._mel = np.concatenate((self._mel, frames))
        sounding = max(0, self._frames - v.pitch_ahead)  # frames that have a source
        self._decode(min(sounding - v.net_ahead, (sounding * v.hop - v.half) // v.hop))
        return self._give((self._frames - v.lookahead) * v.hop)

    def flush(self) -> Samples:
        """Ends the stream: the samples of all frames that were kept back. Then the stream starts anew.

        ValueError when the whole mel is shorter than half an STFT window.
        """
        v, frames = self._vocoder, self._frames
        if frames == 0:
            return np.empty(0, np.float32)
        if frames * v.hop <= v.half:
            raise ValueError(f"a mel of {frames} frames is too short: it makes {frames * v.hop} samples")
        self._excite(np.zeros((v.pitch_ahead, v.bands), np.float32))
        mirrored = self._end[-2::-1][: v.half]  # what torch.stft pads with
        self._source = np.concatenate((self._source, mirrored))
        self._mel = np.concatenate((self._mel, np.zeros((v.net_ahead, v.bands), np.float32)))
        self._decode(frames)
        more = -(-v.half // v.hop)  # frames until the last samples are out
        self._call(np.zeros((more, v.bands), np.float32), np.zeros((more, v.hop), np.float32), ONE)
        wave = self._give(frames * v.hop)
        self._begin()
        return wave

    def fork(self) -> "VocoderStream":
        """A stream that goes on from here, as this one still can."""
        other = object.__new__(VocoderStream)
        other.__dict__.update(self.__dict__)  # no array is written to
        other._noise = self._noise.copy()
        other._pitch, other._cycles, other._state = self._pitch.copy(), self._cycles.copy(), self._state.copy()
        return other

    def _excite(self, mel: Array) -> None:
        """Makes the source of the frames whose f0 the next frames of the mel complete."""
        v, filled = self._vocoder, min(self._frames, self._vocoder.pitch_ahead)
        rows = mel[_fill(self._pitch, filled, mel) :]
        self._frames += len(mel)
        if len(rows) == 0:
            return
        hertz, self._pitch = v.f0(self._pitch, mel=rows)
        noise = self._noise.take(len(rows) * v.hop, v.harmonics).reshape(len(rows), v.hop, v.harmonics)
        sound, self._cycles = v.source(self._cycles, f0=hertz["f0"], noise=noise)
        source = sound["source"].reshape(-1)
        self._source = np.concatenate((self._source, source))
        self._end = np.concatenate((self._end, source))[-v.half - 1 :]

    def _decode(self, until: int) -> None:
        """Runs the net up to frame `until`, in steps of at most PIECE frames."""
        v = self._vocoder
        if until <= self._at:
            return
        if self._at == 0:
            self._state["ahead"][:] = self._mel[: v.net_ahead]
            self._state["samples"][:] = np.concatenate((self._source[v.half : 0 : -1], self._source[: v.half]))
            self._mel, self._source = self._mel[v.net_ahead :], self._source[v.half :]
        while self._at < until:
            n = min(PIECE, until - self._at)
            source = self._source[: n * v.hop].reshape(n, v.hop)
            self._call(self._mel[:n], source, ALL)
            self._mel, self._source = self._mel[n:], self._source[n * v.hop :]
            self._at += n

    def _call(self, mel: Array, source: Array, steps: Array) -> None:
        v = self._vocoder
        outputs, self._state = v.net(self._state, mel=mel, source=source, steps=steps)
        self._wave = np.concatenate((self._wave, outputs["wave"].reshape(-1)))

    def _give(self, until: int) -> Samples:
        """The samples up to the one `until`, as far as they are decoded, that were not given yet."""
        first = self._vocoder.half if self._start == 0 else 0  # these are before the start
        count = max(0, min(until - self._start, len(self._wave) - first))
        if count == 0:
            return np.empty(0, np.float32)
        samples, self._wave = self._wave[first : first + count], self._wave[first + count :]
        self._start += count
        return samples


def _shape(session: Session, name: str) -> tuple[int | str, ...]:
    return next(t.shape for t in session.stage.feeds if t.name == name)


def _fill(state: State, count: int, rows: Array) -> int:
    """Puts the first rows of a stream where the state holds what is ahead; `count` are there. How many it took."""
    ahead = state["ahead"]
    taken = min(len(ahead) - count, len(rows))
    ahead[count : count + taken] = rows[:taken]
    return taken
