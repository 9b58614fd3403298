"""The Qwen3-TTS 12 Hz codec and speaker encoder: codes to samples, samples to codes, a voice to a vector.

Samples are float32 [n] at the codec's rate (24 kHz in the releases), codes int64 [frames, books]: `frame` samples each.
The decoder looks only left and carries its state, so a stream gives what one call gives, whatever the pieces; only
upstream's own way of decoding in chunks, which forgets, is a mode of its own (`chunked`).
See docs/systems/qwen3tts.md 6, 7, 8.
"""

from itertools import pairwise

import numpy as np
import numpy.typing as npt
import soxr

from voxport.audio import features
from voxport.graphs.session import Session

Samples = npt.NDArray[np.float32]
Codes = npt.NDArray[np.int64]

PIECE = 8  # most frames per decoder step: fewer stream the weights more often, many more leave the cache
# (docs/performance.md 3.3; here 4 took 6 % longer per frame, 12 3 % less)
READ = 8  # frames per step of the encoder's convolutions
CHUNK, CONTEXT = 300, 25  # upstream's chunked_decode

# The speaker encoder's mel spectrogram, hard-coded upstream
RATE, WINDOW, HOP, HIGH = 24000, 1024, 256, 12000.0
LEAST_POWER, LEAST_MEL = 1e-9, 1e-5
LEAST_SAMPLES = 2400  # 0.1 s: the encoder reflects the ends of its input, so there must be something to reflect


class Decoder:
    """A stream of codes as a stream of samples. `stream()` opens further ones over the same graph."""

    def __init__(self, session: Session, size: int) -> None:
        """`session`: the stage codec_decode; `size`: codes lie in 0 .. size - 1."""
        self._session, self.size = session, size
        self.books, self.frame = (int(t.shape[1]) for t in (*session.stage.inputs, *session.stage.outputs))
        self.reset()

    def stream(self) -> "Decoder":
        """An independent stream over the same graph."""
        return Decoder(self._session, self.size)

    def fork(self) -> "Decoder":
        """A stream that goes on from here, as this one still can."""
        other = self.stream()
        other._state = self._state.copy()
        return other

    def reset(self) -> None:
        """Forgets everything pushed so far."""
        self._state = self._session.start()

    def push(self, codes: npt.ArrayLike) -> Samples:
        """The next frames, int [frames, books], any number -> their samples [frames * frame]."""
        codes = self._checked(codes)
        wave = np.empty((len(codes), self.frame), np.float32)
        for at in _pieces(len(codes), PIECE):
            _, self._state = self._session(self._state, into={"wave": wave[at]}, codes=codes[at])
        return wave.reshape(-1)

    def decode(self, codes: npt.ArrayLike) -> Samples:
        """All of a recording's frames at once; the stream this object carries is left alone."""
        return self.stream().push(codes)

    def chunked(self, codes: npt.ArrayLike, chunk: int = CHUNK, context: int = CONTEXT) -> Samples:
        """As upstream decodes: chunks of `chunk` frames, each from nothing but `context` frames, whose samples are cut.

        Equal to `decode` up to `chunk` frames; beyond, upstream's context does not reach as far as the net looks.
        """
        if chunk < 1 or context < 0:
            raise ValueError(
                f"wanted a chunk of at least 1 frame and a context of at least 0, got {chunk} and {context}"
            )
        codes = self._checked(codes)
        waves = [np.empty(0, np.float32)]
        for start in range(0, len(codes), chunk):
            before = min(context, start)
            waves.append(self.decode(codes[start - before : start + chunk])[before * self.frame :])
        return np.concatenate(waves)

    def _checked(self, codes: npt.ArrayLike) -> Codes:
        given = np.asarray(codes)
        if given.ndim != 2 or given.shape[1] != self.books or given.dtype.kind not in "iu":
            raise ValueError(f"wanted codes int [frames, {self.books}], got {given.dtype}{list(given.shape)}")
        if given.size and not 0 <= given.min() <= given.max() < self.size:
            bad = given.min() if given.min() < 0 else given.max()
            raise ValueError(f"code {bad} is not one of 0 .. {self.size - 1}")
        return np.ascontiguousarray(given, np.int64)


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
        samples = _checked(samples)
        frames = -(-len(samples) // self.frame)
        audio = np.zeros((frames, self.frame), np.float32)
        audio.reshape(-1)[: len(samples)] = samples
        found = np.empty((frames, self._steps, self._width), np.float32)
        state = self._analyse.start()
        for at in _pieces(frames, READ):
            real = np.array([len(samples) - at.start * self.frame])  # beyond the piece means all of it
            _, state = self._analyse(state, into={"features": found[at]}, audio=audio[at], samples=real)
        steps = np.array([-(-len(samples) * self._steps // self.frame)])
        outputs, _ = self._encode(self._encode.start(), features=found, steps=steps)
        codes: Codes = outputs["codes"]
        return codes


class SpeakerEncoder:
    """A voice as a vector."""

    def __init__(self, session: Session, least: int = 1) -> None:
        """`session`: the stage speaker_encode; `least`: frames of mel it needs to reflect at the edges."""
        self._session, self._least = session, max(LEAST_SAMPLES, least * HOP)
        (mel,), (embedding,) = session.stage.inputs, session.stage.outputs
        self.bands, self.width = int(mel.shape[1]), int(embedding.shape[0])

    def embed(self, samples: Samples) -> Samples:
        """float32 [n] at 24 kHz, at least 0.1 s -> the voice's x-vector [width], not normalised."""
        samples = _checked(samples)
        if len(samples) < self._least:
            raise ValueError(
                f"the reference has {len(samples)} samples at {RATE} Hz; wanted at least {self._least} "
                f"({self._least / RATE:.1f} s)"
            )
        outputs, _ = self._session(self._session.start(), mel=speaker_mel(samples, self.bands))
        embedding: Samples = outputs["embedding"]
        return embedding


def speaker_mel(samples: Samples, bands: int = 128) -> Samples:
    """float32 [n] at 24 kHz -> the natural logarithm of its mel spectrogram [frames, bands], 256 samples per frame."""
    padded = np.pad(samples, (WINDOW - HOP) // 2, mode="reflect")
    spectra = features.stft(padded, WINDOW, HOP, features.hann(WINDOW))
    power = spectra.real**2 + spectra.imag**2
    mel = np.sqrt(power + LEAST_POWER) @ features.mel_filters(RATE, WINDOW, bands, 0, HIGH, even=True)
    return np.log(np.maximum(mel, LEAST_MEL)).astype(np.float32)


def reference(samples: Samples, rate: int, target: int = RATE) -> Samples:
    """A reference recording [n] at `rate` Hz as upstream resamples it: soxr HQ, [ceil(n * target / rate)] samples."""
    samples = _checked(samples)
    if rate == target:
        return samples
    length = int(np.ceil(len(samples) * (target / rate)))
    made: Samples = soxr.resample(samples, rate, target, quality="HQ")
    return np.pad(made[:length], (0, max(0, length - len(made))))


def _pieces(frames: int, most: int) -> list[slice]:
    """0 .. frames cut into as few pieces of at most `most` as possible, none much shorter than the others."""
    count = -(-frames // most)
    edges = [frames * i // count for i in range(count + 1)] if count else [0]
    return [slice(a, b) for a, b in pairwise(edges)]


def _checked(samples: Samples) -> Samples:
    given = np.asarray(samples)
    if given.ndim != 1 or given.dtype.kind != "f" or not len(given):
        raise ValueError(f"wanted float samples [n] in [-1, 1], got {given.dtype}{list(given.shape)}")
    if not np.isfinite(given).all():
        raise ValueError(f"sample {int(np.argmin(np.isfinite(given)))} is not a number (NaN or infinite)")
    return given.astype(np.float32, copy=False)
