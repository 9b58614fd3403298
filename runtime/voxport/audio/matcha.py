"""The mel spectrogram of HiFi-GAN, which Matcha-TTS took over: what vocoders are trained on.

Magnitudes, not power; librosa's filters; the samples are reflected at the ends so that a frame stands for one hop.
"""

import numpy as np
import numpy.typing as npt

from voxport.audio import features
from voxport.audio.files import Samples

LEAST_POWER, LEAST_MEL = 1e-9, 1e-5


def log_mel(
    samples: npt.ArrayLike,
    rate: int,
    *,
    window: int,
    fft: int,
    hop: int,
    bands: int,
    low: float = 0,
    high: float | None = None,
) -> Samples:
    """Speech float32 [n] at `rate` Hz -> natural logarithms [n // hop, bands].

    `window`, `fft`, `hop`: samples of the Hann window, of the transform it lies in the middle of (at least as many),
    and between two frames; `low`, `high`: Hz, half the rate where `high` is None. ValueError for a recording too short
    to be reflected at its ends.
    """
    whole, edge = np.asarray(samples, np.float64), (fft - hop) // 2
    if len(whole) <= edge:
        raise ValueError(f"{len(whole)} samples at {rate} Hz are too short; wanted more than {edge}")
    before = (fft - window) // 2
    curve = np.pad(features.hann(window), (before, fft - window - before))
    spectra = features.stft(np.pad(whole, edge, mode="reflect"), fft, hop, curve)
    magnitudes = np.sqrt(spectra.real**2 + spectra.imag**2 + LEAST_POWER)
    mel = magnitudes @ features.mel_filters(rate, fft, bands, low, high, even=True)
    return np.log(np.maximum(mel, LEAST_MEL)).astype(np.float32)
