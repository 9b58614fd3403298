"""The features of w2v-BERT are those of upstream's golden, and of transformers' class for other recordings."""

import warnings

import numpy as np
import pytest
from tests.bundles import FIXTURES
from tests.conftest import golden

from voxport import bounds
from voxport.audio import files, seamless
from voxport.audio.files import Samples


def test_the_recordings_features_are_upstreams() -> None:
    expected = golden("t5gemma")["codec.enc.input_features"][0]
    got = seamless.features(np.pad(golden("t5gemma")["codec.enc.wav_padded"][0, 0], 160), 80, 2)
    assert got.dtype == np.float32
    assert got.shape == expected.shape
    np.testing.assert_allclose(got, expected, atol=bounds.SEAMLESS_FEATURES.absolute, rtol=0)


def speech(seconds: float) -> Samples:
    samples, _ = files.read(FIXTURES / "t5gemma" / "reference.wav")
    return np.resize(samples, round(seconds * 16000))


def noise(level: float) -> Samples:
    drawn: Samples = np.random.default_rng(0).standard_normal(20000).astype(np.float32) * np.float32(level)
    return drawn


CASES = {
    "quiet": lambda: speech(1) * np.float32(1e-3),
    "with a gap": lambda: np.concatenate([speech(0.6), np.zeros(5000, np.float32), speech(0.6)]),
    "noise": lambda: noise(0.3),
    "whole 16-bit numbers": lambda: np.round(noise(0.1) * 32768) / np.float32(32768),
    "a tenth of a second": lambda: speech(0.1),
    "half a minute": lambda: speech(30),
}


@pytest.mark.parametrize(("bands", "stride"), [(80, 2), (40, 3)])
@pytest.mark.parametrize("case", CASES)
def test_features_are_those_of_transformers(case: str, bands: int, stride: int) -> None:
    from transformers import SeamlessM4TFeatureExtractor

    extractor = SeamlessM4TFeatureExtractor(feature_size=bands, num_mel_bins=bands, padding_value=1, stride=stride)
    samples = CASES[case]()
    with warnings.catch_warnings(action="ignore"):
        expected = extractor(samples, sampling_rate=16000, pad_to_multiple_of=1, return_tensors="np").input_features[0]
    got = seamless.features(samples, bands, stride)
    assert got.shape == expected.shape
    np.testing.assert_allclose(got, expected, atol=bounds.SEAMLESS_FEATURES.absolute, rtol=0)


def test_fewer_than_two_frames_are_refused() -> None:
    with pytest.raises(ValueError, match="1 frames of speech are too few; wanted 2 or more"):
        seamless.features(np.zeros(559, np.float32), 80, 2)
