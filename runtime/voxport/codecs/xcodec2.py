"""XCodec2: codes to samples, samples to codes (docs/systems/t5gemma.md 6).

The decoder looks at all of an utterance: its attention has no mask, and its norms average over all of the time. So only
`decode` is exact. `stream` decodes windows, each for itself, and is near it: how near is measured at export, and the
manifest says it (docs/systems/t5gemma.md 8).
"""

import copy
from typing import Annotated

import msgspec
import numpy as np
import numpy.typing as npt

from voxport.graphs.session import Session

Samples = npt.NDArray[np.float32]
Codes = npt.NDArray[np.int64]

FADE = 1  # codes over which one window of a stream goes over into the next

Positive = Annotated[int, msgspec.Meta(ge=1)]
Count = Annotated[int, msgspec.Meta(ge=0)]


class CodecSection(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The codec's part of its system's section of the manifest.

    `codes`: how many there are; `rate`: of the samples it reads, in Hz; `hop`: of these per code. How a stream decodes,
    in codes: `chunk` at a time, beside `context` before them and `ahead` after them.
    """

    codes: Positive
    rate: Positive
    hop: Positive
    chunk: Positive
    context: Count
    ahead: Annotated[int, msgspec.Meta(ge=FADE)]


class Codec:
    """The decoder's graph. It looks at all codes of an utterance at once. Any number of threads may use it."""

    def __init__(self, session: Session, section: CodecSection) -> None:
        """`session`: the stage codec_decode."""
        self.session, self.section = session, section
        self.frame = int(session.stage.outputs[0].shape[1])  # samples per code

    def stream(self, chunk: int | None = None, context: int | None = None) -> "Stream":
        """A decoder that takes codes as they come, near what `decode` gives.

        `chunk`, `context`: other than the section's. A shorter chunk is there sooner, and costs as many more windows.
        ValueError when there is no such schedule.
        """
        chunk, context = (
            self.section.chunk if chunk is None else chunk,
            (self.section.context if context is None else context),
        )
        if chunk < 1 or context < 0:
            raise ValueError(f"wanted a chunk of at least 1 code and a context of at least 0, got {chunk}, {context}")
        return Stream(self, chunk, context)

    def decode(self, codes: npt.ArrayLike) -> Samples:
        """All of an utterance: int [frames] -> float32 [frames * frame], not clipped.

        Longer by a few samples, always as many, where upstream's decoder makes more than `frame` per code. Memory grows
        with the length. ValueError when the codes are not this codec's.
        """
        codes = self.checked(codes)
        if not len(codes):
            return np.empty(0, np.float32)
        outputs, _ = self.session(self.session.start(), codes=codes)
        wave: Samples = outputs["wave"].reshape(-1)
        return np.concatenate((wave, outputs["rest"])) if "rest" in outputs else wave

    def checked(self, codes: npt.ArrayLike) -> Codes:
        """The codes as int64 [frames], contiguous. ValueError when they are not this codec's."""
        array = np.asarray(codes)
        if array.ndim != 1 or array.dtype.kind not in "iu":
            raise ValueError(f"wanted codes int [frames], got {array.dtype}{list(array.shape)}")
        if array.size and not 0 <= array.min() <= array.max() < self.section.codes:
            bad = array.min() if array.min() < 0 else array.max()
            raise ValueError(f"code {bad} is not one of 0 .. {self.section.codes - 1}")
        return np.ascontiguousarray(array, np.int64)


class Stream:
    """One utterance, decoded as its codes come, in windows.

    Each window is a chunk with the codes before it as context, and a few after it. Its samples begin where the chunk
    does, faded in while those of the window before are faded out. Windows lie where they lie whatever the pieces, so
    the audio is the same however the codes are split; what is no longer than the first window is exact.
    """

    def __init__(self, codec: Codec, chunk: int, context: int) -> None:
        self._codec, self._chunk, self._context = codec, chunk, context
        self._start()

    def _start(self) -> None:
        self._codes = np.empty(0, np.int64)  # the context, then those whose samples are owed
        self._before = 0  # how many are context
        self._tail = np.empty(0, np.float32)  # the last window's samples beyond its chunk, to be faded out

    def feed(self, codes: npt.ArrayLike) -> Samples:
        """The next codes, int [n] -> the samples that they settle, a multiple of a chunk's, maybe none."""
        self._codes = np.concatenate((self._codes, self._codec.checked(codes)))
        waves = [np.empty(0, np.float32)]
        window, frame = self._chunk + self._codec.section.ahead, self._codec.frame
        while len(self._codes) >= self._before + window:
            wave = self._window(self._codes[: self._before + window])
            waves.append(wave[: self._chunk * frame])
            self._tail = wave[self._chunk * frame :][: FADE * frame]
            past = self._before + self._chunk
            self._before = min(past, self._context)
            self._codes = self._codes[past - self._before :]
        return np.concatenate(waves)

    def flush(self) -> Samples:
        """Ends the stream: the samples that are still owed. Then the stream starts anew."""
        wave = self._window(self._codes) if len(self._codes) > self._before else np.empty(0, np.float32)
        self._start()
        return wave

    def fork(self) -> "Stream":
        """A stream that goes on from here, as this one still can."""
        return copy.copy(self)  # its arrays are replaced, never written to

    def _window(self, codes: Codes) -> Samples:
        """The samples of a window from its chunk on, the first of them faded in."""
        wave = self._codec.decode(codes)[self._before * self._codec.frame :]
        if len(self._tail):
            rise = (np.arange(len(self._tail), dtype=np.float32) + 0.5) / len(self._tail)
            wave[: len(rise)] = wave[: len(rise)] * rise + self._tail * (1 - rise)
        return wave


def streamed_db(codec: Codec, codes: npt.ArrayLike) -> float:
    """Signal-to-noise ratio in dB of a stream of `codes`, by the section's schedule, beside `decode`."""
    exact, stream = codec.decode(codes), codec.stream()
    wave = np.concatenate((stream.feed(codes), stream.flush()))
    noise = float(np.mean(np.square(wave - exact, dtype=np.float64)))
    return float(10 * np.log10(max(float(exact.var(dtype=np.float64)), 1e-30) / max(noise, 1e-30)))
