"""From a recording to speech tokens, a mel spectrogram and the speaker's vector (docs/systems/cosyvoice3.md 2.2)."""

import os
import threading

import numpy as np

from voxport.audio import files, kaldi, matcha, whisper
from voxport.audio.resample import resample
from voxport.bundle import Bundle
from voxport.graphs.session import Array, Session
from voxport.graphs.stage import TensorSpec
from voxport.speech import voices
from voxport.systems.cosyvoice3.section import Section
from voxport.systems.cosyvoice3.voice import Voice

TOKENIZER, SPEAKER = "speech_tokenizer", "campplus"  # the stages: graphs as they were released
# Hard-coded upstream (cosyvoice/cli/frontend.py, utils/file_utils.py)
MOST_SECONDS = 30  # of a recording
LEAST_RATE = 16000  # Hz
WHISPER_BANDS, FBANK_BANDS = 128, 80  # where a graph does not say how many it takes


class SpeechTokenizer:
    """The graph that hears what is said."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._mel, self._length = _input(session, axes=3), _input(session, axes=1)

    def features(self, samples: Array) -> Array:
        """Speech float32 [n] at 16 kHz -> what the graph takes, float32 [1, bands, frames]."""
        return whisper.log_mel(samples, _size(self._mel, 1, WHISPER_BANDS)).T[None]

    def tokens(self, features: Array) -> Array:
        """Features -> speech tokens int64 [L], one for four frames, rounded up in the release."""
        frames = np.array([features.shape[2]], self._length.dtype)
        return _output(self._session, {self._mel.name: features, self._length.name: frames}).astype(np.int64)


class SpeakerEncoder:
    """The graph that hears who speaks."""

    def __init__(self, session: Session) -> None:
        self._session, self._fbank = session, _input(session, axes=3)

    def features(self, samples: Array) -> Array:
        """Speech float32 [n] at 16 kHz -> what the graph takes, float32 [1, frames, bands]; every band's mean is 0."""
        fbank = kaldi.fbank(samples, _size(self._fbank, 2, FBANK_BANDS))
        centred: Array = fbank - fbank.mean(axis=0)
        return centred[None]

    def embedding(self, features: Array) -> Array:
        """Features -> the speaker's vector float32 [width], not normalised."""
        return _output(self._session, {self._fbank.name: features})


class Listener:
    """Turns recordings into voices.

    The tokenizer's graph is large (970 MB) and needed once for a voice: graphs are loaded when they are needed and
    dropped at the end of the call, unless they are to be kept. Any number of threads may use it.
    Every method raises ValueError, in one line, for a recording that has no samples, NaN, a rate below 16 kHz, more
    than 30 s or less than a frame.
    """

    def __init__(self, bundle: Bundle, threads: int, section: Section, *, keep: bool = False) -> None:
        """`keep`: graphs stay loaded from their first use until `release`."""
        self._bundle, self._threads, self._section, self._keep = bundle, threads, section, keep
        self._lock = threading.Lock()
        self._sessions: dict[str, Session] = {}

    def release(self) -> None:
        """Drops the graphs that were kept."""
        with self._lock:
            self._sessions.clear()

    def tokens(self, samples: Array, rate: int) -> Array:
        """Speech float32 [n] at `rate` Hz -> its tokens int64 [L]."""
        sound = resample(_checked(samples, rate, whisper.LEAST / whisper.RATE), rate, whisper.RATE)
        tokenizer = SpeechTokenizer(self._session(TOKENIZER))
        return tokenizer.tokens(tokenizer.features(sound))

    def embedding(self, samples: Array, rate: int) -> Array:
        """Speech float32 [n] at `rate` Hz -> its speaker's vector float32 [width]."""
        sound = resample(_checked(samples, rate, kaldi.WINDOW / kaldi.RATE), rate, kaldi.RATE)
        encoder = SpeakerEncoder(self._session(SPEAKER))
        return encoder.embedding(encoder.features(sound))

    def mel(self, samples: Array, rate: int) -> Array:
        """Speech float32 [n] at `rate` Hz -> its mel spectrogram float32 [frames, bands], as the vocoder knows it."""
        target, mel = self._bundle.manifest.sample_rate, self._section.mel
        sound = resample(_checked(samples, rate, self._shortest), rate, target)
        return matcha.log_mel(
            sound,
            target,
            window=mel.window,
            fft=mel.fft,
            hop=mel.hop,
            bands=mel.bands,
            low=mel.low,
            high=mel.high,
        )

    def voice(self, samples: Array, rate: int, text: str | None) -> Voice:
        """The voice in speech float32 [n] at `rate` Hz; `text`: what is said in it.

        Without a transcript the voice speaks in every mode but zero_shot. ValueError also for silence, and for a
        transcript of white space.
        """
        samples = _checked(samples, rate, max(self._shortest, kaldi.WINDOW / kaldi.RATE))
        if np.abs(samples).max() < voices.SILENT:
            raise ValueError("the recording is silent; record it again")
        if text is not None and not text.strip():
            raise ValueError("its transcript is empty; give what is said in it, or no transcript at all")
        tokens = self.tokens(samples, rate)
        return Voice(text or "", tokens, self.mel(samples, rate), self.embedding(samples, rate))

    def enroll(self, path: str | os.PathLike[str], text: str | None) -> Voice:
        """The voice of an audio file (channels averaged). ValueError names the file."""
        return voices.enroll(path, MOST_SECONDS, lambda samples, rate: self.voice(samples, rate, text))

    @property
    def _shortest(self) -> float:
        """Seconds that a mel spectrogram needs: one frame, with something to reflect at its ends."""
        mel = self._section.mel
        return max(mel.hop, (mel.fft - mel.hop) // 2 + 1) / self._bundle.manifest.sample_rate

    def _session(self, stage: str) -> Session:
        if not self._keep:
            return self._bundle.once(stage, self._threads)
        with self._lock:
            if stage not in self._sessions:
                self._sessions[stage] = self._bundle.session(stage, self._threads)
            return self._sessions[stage]


def _checked(samples: Array, rate: int, shortest: float) -> Array:
    """The samples, float32 [n]. ValueError when upstream would not take them, or when they are no sound."""
    samples = files.mono(samples)
    if not np.isfinite(samples).all():
        raise ValueError("the recording holds NaN or infinite samples")
    if rate < LEAST_RATE:
        raise ValueError(f"a recording at {rate} Hz is too coarse; wanted {LEAST_RATE} Hz or more")
    seconds = len(samples) / rate
    if seconds > MOST_SECONDS:
        raise ValueError(f"{seconds:.1f} s are too long; cut the recording to {MOST_SECONDS} s or less")
    if seconds < shortest:
        raise ValueError(f"{len(samples)} samples at {rate} Hz are too short; wanted {shortest:.3f} s or more")
    return samples


def _input(session: Session, axes: int) -> TensorSpec:
    """The one input with this many axes, whatever its release calls it. ValueError when there is not one."""
    found = [tensor for tensor in session.stage.inputs if len(tensor.shape) == axes]
    if len(found) != 1:
        inputs = ", ".join(map(str, session.stage.inputs))
        raise ValueError(f"stage {session.stage.name}: takes {inputs}; wanted one input with {axes} axes")
    return found[0]


def _size(tensor: TensorSpec, axis: int, default: int) -> int:
    """The size of an axis as the graph fixes it; `default` where it leaves it open."""
    size = tensor.shape[axis]
    return default if isinstance(size, str) else size


def _output(session: Session, inputs: dict[str, Array]) -> Array:
    """The graph's first output, of its only row, without the axes of size 1."""
    outputs, _ = session(session.start(), into=None, **inputs)
    first: Array = outputs[session.stage.outputs[0].name]
    return first.reshape(-1)
