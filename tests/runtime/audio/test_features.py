"""Spectra and mel filters are those of torch and transformers."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.exporters.codecs.codec12hz_cases import (
    close,
)

from voxport.audio import features


@pytest.mark.parametrize(("size", "hop", "length"), [(16, 4, 16), (16, 5, 100), (15, 3, 80), (1024, 256, 400_000)])
def test_spectra_are_those_of_torch(size: int, hop: int, length: int) -> None:
    x = np.random.default_rng(0).standard_normal(length)
    window = torch.hann_window(size, dtype=torch.float64)
    close(features.hann(size), window, 1e-12)
    close(features.hann(size, periodic=False), torch.hann_window(size, periodic=False, dtype=torch.float64), 1e-12)
    expected = torch.stft(torch.from_numpy(x), size, hop, window=window, center=False, return_complex=True).T
    close(features.stft(x, size, hop, features.hann(size)), expected, 1e-9)


def test_too_few_samples_make_no_frame() -> None:
    assert features.stft(np.zeros(15), 16, 4, features.hann(16)).shape == (0, 9)


@pytest.mark.parametrize("scale", ["slaney", "htk"])
@pytest.mark.parametrize("even", [False, True])
@pytest.mark.parametrize("spectrum", [(24000, 1024, 128, 0, 12000), (16000, 400, 80, 20, 7600)])
def test_mel_filters_are_those_of_transformers(
    spectrum: tuple[int, int, int, int, int], scale: Any, even: bool
) -> None:
    from transformers.audio_utils import mel_filter_bank

    rate, size, bands, low, high = spectrum
    norm = "slaney" if even else None
    expected = mel_filter_bank(size // 2 + 1, bands, low, high, rate, norm=norm, mel_scale=scale)
    close(features.mel_filters(rate, size, bands, low, high, scale=scale, even=even), expected, 1e-9)


@given(st.floats(0, 24000))
def test_the_mel_scales_are_undone(hertz: float) -> None:
    for scale in ("slaney", "htk"):
        close(features.to_hertz(features.to_mel(hertz, scale), scale), np.array(hertz), 1e-6)
