"""The log-mel spectrogram of Whisper: 100 frames a second of 16 kHz speech (docs/systems/cosyvoice3.md 2.2)."""

import numpy as np
import numpy.typing as npt

from voxport.audio import features
from voxport.audio.files import Samples

RATE, WINDOW, HOP = 16000, 400, 160  # Hz, samples, samples
LEAST = WINDOW // 2 + 1  # samples: fewer leave nothing to reflect at the ends
FLOOR = 1e-10  # of the power
RANGE = 8.0  # decades below the loudest value of the recording that are kept


def log_mel(samples: npt.ArrayLike, bands: int) -> Samples:
    """Speech float32 [n] at 16 kHz, at least `LEAST` samples -> [n // 160, bands], about -1.5 .. 1.5.

    Every value depends on the loudest one, so that a recording must come as a whole. Whisper pads a recording to 30 s
    first; what takes it here does not.
    """
    padded = np.pad(np.asarray(samples, np.float64), WINDOW // 2, mode="reflect")
    spectra = features.stft(padded, WINDOW, HOP, features.hann(WINDOW))[:-1]  # Whisper drops the last frame
    power = (spectra.real**2 + spectra.imag**2) @ features.mel_filters(RATE, WINDOW, bands, even=True)
    decades = np.log10(np.maximum(power, FLOOR))
    mel: Samples = ((np.maximum(decades, decades.max() - RANGE) + 4) / 4).astype(np.float32)
    return mel
