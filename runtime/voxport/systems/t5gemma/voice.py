"""Voices that T5Gemma-TTS clones: a recording's transcript, its codes and how long it is."""

import os
from dataclasses import dataclass

import numpy as np

from voxport import draws
from voxport.graphs.session import Array
from voxport.speech import voices

KINDS = {"codes": ("I32", 1), "seconds": ("F64", 1)}


@dataclass(frozen=True)
class Voice:
    """What is said in the reference, its codes int64 [frames], and its length in seconds, which sets the pace."""

    text: str
    codes: Array
    seconds: float

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes a .safetensors file."""
        arrays = {"codes": self.codes.astype(np.int32), "seconds": np.array([self.seconds])}
        voices.save(path, "t5gemma", arrays, {"text": self.text})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Voice":
        """Reads what `save` wrote. ValueError in one line when it is not that."""
        arrays, text = voices.load(path, "t5gemma", KINDS, "text")
        if not len(arrays["codes"]) or len(arrays["seconds"]) != 1 or not arrays["seconds"][0] > 0:
            raise ValueError(f"{path}: a voice without sound; enroll the reference again")
        return cls(text, arrays["codes"].astype(np.int64), float(arrays["seconds"][0]))


def synthetic_voice(codes: int, frames: int, rate: float) -> Voice:
    """Nobody's voice, for benchmarks and goldens: `frames` random codes below `codes`, `rate` of them per second."""
    u = draws.uniforms(0, "t5gemma.voice", 0, frames)
    return Voice("One, two, three.", (u * codes).astype(np.int64), frames / rate)
