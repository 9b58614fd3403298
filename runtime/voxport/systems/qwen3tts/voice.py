"""Voices that Qwen3-TTS Base clones: what a reference is turned into once, and how (docs/systems/qwen3tts.md 7, 8)."""

import os
from dataclasses import dataclass

import numpy as np

from voxport.audio.resample import resample_reference
from voxport.bundle import Bundle
from voxport.codecs import codec12hz
from voxport.graphs.session import Array
from voxport.speech import voices
from voxport.systems.qwen3tts.section import Section
from voxport.systems.qwen3tts.xvector import SpeakerEncoder

MOST_SECONDS = 120  # of a reference: the codec encoder's memory grows with its square (290 MB of scores for these)
KINDS = {"codes": ("I32", 2), "embedding": ("F32", 1)}


@dataclass(frozen=True)
class Voice:
    """A cloned voice: its x-vector float32 [width]; what is said in the reference, and its codes int64 [frames, books].

    Without a transcript `text` is empty: such a voice can only be used by its x-vector (x_vector_only_mode).
    """

    text: str
    codes: Array
    embedding: Array

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes a .safetensors file."""
        arrays = {"codes": self.codes.astype(np.int32), "embedding": self.embedding.astype(np.float32)}
        voices.save(path, "qwen3tts", arrays, {"text": self.text})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Voice":
        """Reads what `save` wrote. ValueError in one line when it is not that."""
        arrays, text = voices.load(path, "qwen3tts", KINDS, "text")
        return cls(text, arrays["codes"].astype(np.int64), arrays["embedding"])


class Listener:
    """Turns recordings into codes and voices, as far as the bundle's stages can."""

    def __init__(self, bundle: Bundle, threads: int) -> None:
        stages, session = bundle.manifest.stages, bundle.session
        self.encoder: codec12hz.Encoder | None = None
        self.embedder: SpeakerEncoder | None = None
        self._rate = bundle.manifest.sample_rate
        if "codec_encode" in stages:
            self.encoder = codec12hz.Encoder(session("codec_analyse", threads), session("codec_encode", threads))
        section = bundle.section(Section).speaker_encoder
        if section is not None:
            self.embedder = SpeakerEncoder(session("speaker_encode", threads), section.rate, section.mel_frames)

    def codes(self, samples: Array, rate: int) -> Array:
        """Samples float32 [n] at `rate` Hz -> codes int64 [frames, books]. ValueError: too long, or no encoder."""
        if self.encoder is None:
            raise ValueError("this bundle has no codec encoder; that of a Base model has one")
        if len(samples) > MOST_SECONDS * rate:
            raise ValueError(f"{len(samples) / rate:.1f} s are too long; cut the recording to {MOST_SECONDS} s or less")
        return self.encoder.encode(resample_reference(codec12hz.checked_samples(samples), rate, self._rate))

    def voice(self, samples: Array, rate: int, text: str | None) -> Voice:
        """The voice in samples float32 [n] at `rate` Hz; without a transcript its x-vector alone."""
        if self.embedder is None:
            raise ValueError("this model clones no voices; a Base model does")
        samples = codec12hz.checked_samples(samples)
        embedding = self.embedder.embed(resample_reference(samples, rate, self.embedder.rate))
        if not (text or "").strip():
            return Voice("", np.empty((0, 0), np.int64), embedding)
        return Voice(text or "", self.codes(samples, rate), embedding)

    def enroll(self, path: str | os.PathLike[str], text: str | None) -> Voice:
        """The voice of a recording (any rate, channels averaged). ValueError names the file."""
        return voices.enroll(path, MOST_SECONDS, lambda samples, rate: self.voice(samples, rate, text))


def synthetic_voice(listener: Listener, rate: int) -> Voice | None:
    """A voice for models that have none of their own: 3 s of a buzzing glide at `rate` Hz, enrolled.

    None for a model that clones no voices.
    """
    if listener.embedder is None:
        return None
    t = np.arange(3 * rate) / rate
    phase = 2 * np.pi * (110 * t + 15 * t * t)
    hum = sum(np.sin(k * phase) / k for k in range(1, 12)) * (0.6 + 0.4 * np.sin(2 * np.pi * 4 * t)) / 4
    return listener.voice(hum.astype(np.float32), rate, "Mmmm.")
