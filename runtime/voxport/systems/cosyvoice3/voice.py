"""A voice of Fun-CosyVoice3: all that a recording is turned into, once (docs/systems/cosyvoice3.md 2.2)."""

import os
from dataclasses import dataclass

import numpy as np

from voxport import draws
from voxport.graphs.session import Array
from voxport.speech import voices
from voxport.systems.cosyvoice3.section import Section

SYSTEM = "cosyvoice3"
KINDS = {"tokens": ("I32", 1), "mel": ("F32", 2), "embedding": ("F32", 1)}


@dataclass(frozen=True)
class Voice:
    """A cloned voice: what is said in its recording, the recording's speech tokens int64 [L], its mel float32
    [T, bands], and the speaker's vector float32 [E], not normalised.

    Without a transcript `text` is empty: such a voice speaks in every mode but zero_shot.
    """

    text: str
    tokens: Array
    mel: Array
    embedding: Array

    def aligned(self, ratio: int) -> tuple[Array, Array]:
        """(tokens [P], mel [ratio * P, bands]) of the longest part of the recording that both have whole.

        `ratio`: frames of mel per token. Tokens and frames are counted from resampled copies of one recording, so that
        one of the two often has a little more. Converting a voice takes them as they are, as upstream does.
        """
        count = min(len(self.mel) // ratio, len(self.tokens))
        return self.tokens[:count], self.mel[: ratio * count]

    def check(self, ids: int, bands: int, width: int) -> None:
        """ValueError unless the tokens lie in 0 .. `ids` - 1, the mel has `bands`, and the vector is `width` long."""
        whole = np.isfinite(self.mel).all() and np.isfinite(self.embedding).all()
        in_range = ((self.tokens >= 0) & (self.tokens < ids)).all()
        if not (whole and in_range and self.mel.shape[1] == bands and self.embedding.shape == (width,)):
            raise ValueError(
                f"this voice has tokens up to {self.tokens.max(initial=0)}, {self.mel.shape[1]} bands and a vector of "
                f"{len(self.embedding)}, or NaN in one; wanted tokens below {ids}, {bands} and {width}: it is another "
                "model's, or damaged; enroll the recording with this bundle"
            )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes a .safetensors file."""
        voices.save(path, SYSTEM, self._arrays(), {"text": self.text})

    def contents(self) -> bytes:
        """What `save` writes."""
        return voices.contents(SYSTEM, self._arrays(), {"text": self.text})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Voice":
        """Reads what `save` wrote. ValueError in one line when it is not that."""
        arrays, text = voices.load(path, SYSTEM, KINDS, "text")
        return cls(text, arrays["tokens"].astype(np.int64), arrays["mel"], arrays["embedding"])

    def _arrays(self) -> dict[str, Array]:
        floats = {"mel": self.mel, "embedding": self.embedding}
        arrays = {name: np.ascontiguousarray(array, np.float32) for name, array in floats.items()}
        return arrays | {"tokens": self.tokens.astype(np.int32)}


def synthetic_voice(section: Section, width: int, seconds: float) -> Voice:
    """A voice that nobody has, for benchmarks and rehearsals: no recording is heard, no graph for it is loaded.

    `width`: of the speaker's vector; `seconds`: of the recording that there might have been.
    """
    count = max(1, round(seconds * section.token_rate))
    tokens = (draws.uniforms(0, "cosyvoice3.voice.tokens", 0, count) * section.llm.speech_tokens).astype(np.int64)
    mel = 2 * draws.normals(0, "cosyvoice3.voice.mel", 0, (count * section.flow.ratio, section.mel.bands)) - 5
    return Voice("Mmmm.", tokens, mel, draws.normals(0, "cosyvoice3.voice.embedding", 0, width))
