"""Voices that VyvoTTS clones: a recording's transcript and its codes."""

import os
from dataclasses import dataclass

import numpy as np

from voxport.graphs.session import Array
from voxport.speech import voices

KINDS = {"codes": ("I32", 2)}


@dataclass(frozen=True)
class Voice:
    """A cloned voice: what is said in the reference, and its codes int64 [frames, codes per frame] in LM order."""

    text: str
    codes: Array

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes a .safetensors file."""
        voices.save(path, "vyvo", {"codes": self.codes.astype(np.int32)}, {"text": self.text})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Voice":
        """Reads what `save` wrote. ValueError in one line when it is not that."""
        arrays, text = voices.load(path, "vyvo", KINDS, "text")
        return cls(text, arrays["codes"].astype(np.int64))
