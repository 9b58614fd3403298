"""The Qwen3-TTS 12 Hz codec: codes to samples, samples to codes.

Samples are float32 [n] at the codec's rate (24 kHz in the releases), codes int64 [frames, books]: `frame` samples each.
The decoder looks only left and carries its state, so a stream gives what one call gives, whatever the pieces; only
upstream's own way of decoding in chunks, which forgets, is a mode of its own (`chunked`). See
docs/systems/qwen3tts.md 6, 8.
"""

from itertools import pairwise

import numpy as np
import numpy.typing as npt

from voxport.graphs.session import Session

Samples = npt.NDArray[np.float32]
Codes = npt.NDArray[np.int64]

PIECE = 8  # most frames per decoder step: fewer stream the weights more often, many more leave the cache
# (docs/performance.md 3.3; here 4 took 6 % longer per frame, 12 3 % less)
READ = 8  # frames per step of the encoder's convolutions
CHUNK, CONTEXT = 300, 25  # upstream's chunked_decode


class Codec:
    """The decoder's graph. Any number of streams may run over it at once."""

    def __init__(self, session: Session, size: int) -> None:
        """`session`: the stage codec_decode; `size`: codes lie in 0 .. size - 1."""
        self.session, self.size = session, size
        self.books, self.frame = (int(t.shape[1]) for t in (*session.stage.inputs, *session.stage.outputs))

    def stream(self) -> "Stream":
        """A decoder that takes codes as they come."""
        return Stream(self)

    def decode(self, codes: npt.ArrayLike) -> Samples:
        """All of a recording's frames at once: int [frames, books] -> float32 [frames * frame]."""
        return self.stream().feed(codes)

    def chunked(self, codes: npt.ArrayLike, chunk: int = CHUNK, context: int = CONTEXT) -> Samples:
        """As upstream decodes: chunks of `chunk` frames, each from nothing but `context` frames, whose samples are cut.

        Equal to `decode` up to `chunk` frames; beyond, upstream's context does not reach as far as the net looks.
        """
        if chunk < 1 or context < 0:
            raise ValueError(
                f"wanted a chunk of at least 1 frame and a context of at least 0, got {chunk} and {context}"
            )
        codes = self.checked(codes)
        waves = [np.empty(0, np.float32)]
        for start in range(0, len(codes), chunk):
            before = min(context, start)
            waves.append(self.decode(codes[start - before : start + chunk])[before * self.frame :])
        return np.concatenate(waves)

    def checked(self, codes: npt.ArrayLike) -> Codes:
        """The codes as int64 [frames, books], contiguous. ValueError when they are not this codec's."""
        array = np.asarray(codes)
        if array.ndim != 2 or array.shape[1] != self.books or array.dtype.kind not in "iu":
            raise ValueError(f"wanted codes int [frames, {self.books}], got {array.dtype}{list(array.shape)}")
        if array.size and not 0 <= array.min() <= array.max() < self.size:
            bad = array.min() if array.min() < 0 else array.max()
            raise ValueError(f"code {bad} is not one of 0 .. {self.size - 1}")
        return np.ascontiguousarray(array, np.int64)


class Stream:
    """One utterance, decoded as its codes come. The audio is the same however the codes are split."""

    def __init__(self, codec: Codec) -> None:
        self._codec, self._state = codec, codec.session.start()

    def feed(self, codes: npt.ArrayLike) -> Samples:
        """The next frames, int [frames, books], any number -> their samples [frames * frame]."""
        codec = self._codec
        codes = codec.checked(codes)
        wave = np.empty((len(codes), codec.frame), np.float32)
        for at in _pieces(len(codes), PIECE):
            _, self._state = codec.session(self._state, into={"wave": wave[at]}, codes=codes[at])
        return wave.reshape(-1)

    def flush(self) -> Samples:
        """Ends the stream: no samples are owed, as the decoder looks only left. Then the stream starts anew."""
        self._state = self._codec.session.start()
        return np.empty(0, np.float32)

    def fork(self) -> "Stream":
        """A stream that goes on from here, as this one still can."""
        other = Stream(self._codec)
        other._state = self._state.copy()
        return other


def after_reference(reference: int, frames: int, samples: int) -> int:
    """Where the new speech starts in `samples` decoded from `frames` frames, of which the first are the reference's.

    Upstream's formula: its floor lands one sample before the frame for some pairs (15 of 22), so it is kept as it is.
    """
    return int(reference / frames * samples)


class Encoder:
    """A recording as codes."""

    def __init__(self, analyse: Session, encode: Session) -> None:
        """The stages codec_analyse and codec_encode."""
        self._analyse, self._encode = analyse, encode
        shapes = {t.name: t.shape for t in (*analyse.stage.inputs, *analyse.stage.outputs)}
        self.frame, self._steps, self._width = int(shapes["audio"][1]), *map(int, shapes["features"][1:])

    def encode(self, samples: Samples) -> Codes:
        """float32 [n] -> codes [ceil(n / frame), books].

        The attention's memory grows with n squared: 72 MB of scores for a minute.
        """
        samples = checked_samples(samples)
        frames = -(-len(samples) // self.frame)
        audio = np.zeros((frames, self.frame), np.float32)
        audio.reshape(-1)[: len(samples)] = samples
        features = np.empty((frames, self._steps, self._width), np.float32)
        state = self._analyse.start()
        for at in _pieces(frames, READ):
            real = np.array([len(samples) - at.start * self.frame])  # beyond the piece means all of it
            _, state = self._analyse(state, into={"features": features[at]}, audio=audio[at], samples=real)
        steps = np.array([-(-len(samples) * self._steps // self.frame)])
        outputs, _ = self._encode(self._encode.start(), features=features, steps=steps)
        codes: Codes = outputs["codes"]
        return codes


def checked_samples(samples: npt.ArrayLike) -> Samples:
    """Samples as float32 [n]. ValueError when there are none, or some are no numbers."""
    array = np.asarray(samples)
    if array.ndim != 1 or array.dtype.kind != "f" or not len(array):
        raise ValueError(f"wanted float samples [n] in [-1, 1], got {array.dtype}{list(array.shape)}")
    if not np.isfinite(array).all():
        raise ValueError(f"sample {int(np.argmin(np.isfinite(array)))} is not a number (NaN or infinite)")
    return array.astype(np.float32, copy=False)


def _pieces(frames: int, most: int) -> list[slice]:
    """0 .. frames cut into as few pieces of at most `most` as possible, none much shorter than the others."""
    count = -(-frames // most)
    edges = [frames * i // count for i in range(count + 1)] if count else [0]
    return [slice(a, b) for a, b in pairwise(edges)]
