"""A voice as a vector: the speaker encoder of Qwen3-TTS Base and its mel spectrogram (docs/systems/qwen3tts.md 7)."""

import numpy as np
import numpy.typing as npt

from voxport.audio import matcha
from voxport.codecs.codec12hz import checked_samples
from voxport.graphs.session import Session

Samples = npt.NDArray[np.float32]

# The speaker encoder's mel spectrogram, hard-coded upstream
WINDOW, HOP, HIGH = 1024, 256, 12000.0
LEAST_SECONDS = 0.1  # the encoder reflects the ends of its input, so there must be something to reflect


class SpeakerEncoder:
    """A voice as a vector."""

    def __init__(self, session: Session, rate: int, least: int = 1) -> None:
        """`session`: the stage speaker_encode; `rate`: of the samples it takes, in Hz; `least`: frames of mel it needs
        to reflect at the edges."""
        self._session, self.rate = session, rate
        self._least = max(round(LEAST_SECONDS * rate), least * HOP)
        (mel,), (embedding,) = session.stage.inputs, session.stage.outputs
        self.bands, self.width = int(mel.shape[1]), int(embedding.shape[0])

    def embed(self, samples: Samples) -> Samples:
        """float32 [n] at `rate` Hz, at least 0.1 s -> the voice's x-vector [width], not normalised."""
        samples = checked_samples(samples)
        if len(samples) < self._least:
            raise ValueError(
                f"the reference has {len(samples)} samples at {self.rate} Hz; wanted at least {self._least} "
                f"({self._least / self.rate:.1f} s)"
            )
        outputs, _ = self._session(self._session.start(), mel=speaker_mel(samples, self.rate, self.bands))
        embedding: Samples = outputs["embedding"]
        return embedding


def speaker_mel(samples: Samples, rate: int, bands: int = 128) -> Samples:
    """float32 [n] at `rate` Hz -> the natural logarithm of its mel spectrogram [frames, bands], 256 samples a frame."""
    return matcha.log_mel(samples, rate, window=WINDOW, fft=WINDOW, hop=HOP, bands=bands, high=HIGH)
