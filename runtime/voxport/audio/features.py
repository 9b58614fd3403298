"""Spectra of speech in numpy: framing, windows, mel filters. Each system puts its own front end together from these.

Samples are [n], spectra [frames, bins], mel spectra [frames, bands]. Everything is computed in float64, so that the
result depends neither on numpy's version (which decides in what precision an FFT runs) nor on the length of the input.
"""

from typing import Literal

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Scale = Literal["slaney", "htk"]

BLOCK = 1024  # frames transformed at once: bounds memory for recordings of any length

# Slaney's mel scale: linear up to 1 kHz (15 mel), then 27 steps to every factor of 6.4
LINEAR, BREAK, STEP = 200 / 3, 1000.0, np.log(6.4) / 27


def hann(size: int, periodic: bool = True) -> Array:
    """Hann window [size]; periodic for spectra, symmetric (both ends zero) for filter design."""
    if size == 1:
        return np.ones(1)
    return 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(size) / (size if periodic else size - 1))


def framed(samples: npt.ArrayLike, size: int, hop: int) -> npt.NDArray[np.floating]:
    """Whole frames [1 + (n - size) // hop, size], a read-only view; none when there are fewer than `size` samples."""
    x = np.asarray(samples)
    if len(x) < size:
        return np.empty((0, size), x.dtype)
    return np.lib.stride_tricks.sliding_window_view(x, size)[::hop]


def stft(samples: npt.ArrayLike, size: int, hop: int, window: Array) -> npt.NDArray[np.complex128]:
    """Spectra [frames, size // 2 + 1] of whole frames; pad the samples beforehand to centre them."""
    frames = framed(samples, size, hop)
    spectra = np.empty((len(frames), size // 2 + 1), np.complex128)
    for start in range(0, len(frames), BLOCK):
        spectra[start : start + BLOCK] = np.fft.rfft(frames[start : start + BLOCK].astype(np.float64) * window)
    return spectra


def to_mel(hertz: npt.ArrayLike, scale: Scale = "slaney") -> Array:
    """Frequencies in Hz on the mel scale."""
    f = np.asarray(hertz, np.float64)
    if scale == "htk":
        return np.asarray(2595 * np.log10(1 + f / 700), np.float64)
    return np.where(f < BREAK, f / LINEAR, BREAK / LINEAR + np.log(np.maximum(f, BREAK) / BREAK) / STEP)


def to_hertz(mel: npt.ArrayLike, scale: Scale = "slaney") -> Array:
    """Undoes `to_mel`."""
    m = np.asarray(mel, np.float64)
    if scale == "htk":
        return np.asarray(700 * (10 ** (m / 2595) - 1), np.float64)
    return np.where(m < BREAK / LINEAR, m * LINEAR, BREAK * np.exp(STEP * (m - BREAK / LINEAR)))


def mel_filters(
    rate: int, size: int, bands: int, low: float = 0, high: float | None = None, *, scale: Scale = "slaney", even: bool
) -> Array:
    """Triangles [size // 2 + 1, bands] for spectra of `size` samples at `rate` Hz, from `low` to `high` Hz.

    Their corners lie evenly on the mel scale and their sides are straight in Hz. `even`: every triangle has the same
    area (librosa's norm="slaney"); otherwise the same height, 1. `high` defaults to half the rate.
    """
    ends = to_mel((low, rate / 2 if high is None else high), scale)
    corners = to_hertz(np.linspace(ends[0], ends[1], bands + 2), scale)
    bins = np.arange(size // 2 + 1, dtype=np.float64) * (rate / size)
    filters = triangles(bins, corners)
    return filters * (2 / (corners[2:] - corners[:-2])) if even else filters


def triangles(points: Array, corners: Array) -> Array:
    """Triangles of height 1 at `points` [n]: number i rises from corner i to i + 1 and falls to i + 2 -> [n, bands].

    Points and corners are in the unit in which the sides are to be straight.
    """
    left, centre, right, x = corners[:-2], corners[1:-1], corners[2:], points[:, None]
    heights: Array = np.minimum((x - left) / (centre - left), (right - x) / (right - centre))
    return np.maximum(0, heights)
