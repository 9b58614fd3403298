"""Filter banks as Kaldi computes them, 100 frames a second of 16 kHz speech (docs/systems/cosyvoice3.md 2.2).

What differs from a mel spectrogram of librosa's: every frame is centred on zero and pre-emphasised on its own, the
window is Povey's, no frame reaches beyond the ends, the triangles are straight on the mel scale and not in Hz, and
nothing is reflected.
"""

import numpy as np
import numpy.typing as npt

from voxport.audio import features
from voxport.audio.files import Samples

RATE, WINDOW, HOP, SIZE = 16000, 400, 160, 512  # Hz; samples: of a frame, between two, of its transform
LOW, HIGH = 20.0, RATE / 2  # Hz, where the lowest triangle begins and the highest ends
EMPHASIS = 0.97
LEAST_POWER = float(np.finfo(np.float32).eps)


def fbank(samples: npt.ArrayLike, bands: int) -> Samples:
    """Speech float32 [n] at 16 kHz, full scale -1..1 -> [1 + (n - 400) // 160, bands], natural logarithms of power.

    Without dither and without energy. No frame when there are fewer than 400 samples.
    """
    frames = features.framed(np.asarray(samples, np.float64), WINDOW, HOP)
    frames = frames - frames.mean(axis=1, keepdims=True)
    frames = frames - EMPHASIS * np.concatenate([frames[:, :1], frames[:, :-1]], axis=1)
    spectra = np.fft.rfft(frames * features.hann(WINDOW, periodic=False) ** 0.85, SIZE)
    low, high = features.to_mel((LOW, HIGH), "htk")
    bins = features.to_mel(np.arange(SIZE // 2 + 1) * (RATE / SIZE), "htk")
    filters = features.triangles(bins, np.linspace(low, high, bands + 2))
    power = (spectra.real**2 + spectra.imag**2) @ filters
    return np.log(np.maximum(power, LEAST_POWER)).astype(np.float32)
