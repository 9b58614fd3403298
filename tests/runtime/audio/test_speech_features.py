"""Whisper's, Kaldi's and Matcha's spectra are those of upstream's goldens, and of torch at other sizes.

Every way in which ports of CosyVoice3 are known to compute them wrongly is told apart (docs/systems/cosyvoice3.md 10).
"""

from collections.abc import Callable

import numpy as np
import pytest
import soxr
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.bundles import FIXTURES
from tests.conftest import golden

from voxport import bounds
from voxport.audio import features, files, kaldi, matcha, whisper
from voxport.audio.files import Samples
from voxport.audio.resample import resample
from voxport.bounds import Bound

COSYVOICE3 = FIXTURES / "cosyvoice3"
RECORDING, RATE = files.read(COSYVOICE3 / "prompt.wav")
MEL = {"window": 1920, "fft": 1920, "hop": 480, "bands": 80}


def error(tensor: str, got: np.ndarray) -> float:
    """The largest error against a golden's only row."""
    expected = golden("cosyvoice3")[f"frontend.{tensor}"][0]
    assert got.shape == expected.shape
    return float(np.abs(got - expected).max())


def sound16k() -> Samples:
    return resample(RECORDING, RATE, 16000)


def centred(fbank: Samples) -> Samples:
    rest: Samples = fbank - fbank.mean(axis=0)
    return rest


def test_the_recording_and_its_three_spectra_are_upstreams() -> None:
    assert RATE == 24000
    assert error("wav16k", sound16k()) <= bounds.RESAMPLED.absolute
    assert error("whisper_mel", whisper.log_mel(sound16k(), 128).T) <= bounds.WHISPER_MEL.absolute
    assert error("fbank", centred(kaldi.fbank(sound16k(), 80))) <= bounds.LOG_MEL.absolute
    assert error("speech_feat_full", matcha.log_mel(RECORDING, RATE, **MEL)) <= bounds.LOG_MEL.absolute


def soxr16k() -> Samples:
    samples: Samples = soxr.resample(RECORDING, RATE, 16000, quality="VHQ")
    return samples


def whisper_without_pad() -> Samples:
    """Frames from the first sample on, as many as Whisper has."""
    spectra = features.stft(np.pad(sound16k(), (0, 400)), 400, 160, features.hann(400))[:93]
    decades = np.log10(np.maximum(np.abs(spectra) ** 2 @ features.mel_filters(16000, 400, 128, even=True), 1e-10))
    mel: Samples = ((np.maximum(decades, decades.max() - 8) + 4) / 4).astype(np.float32)
    return mel


def librosa_fbank() -> Samples:
    """20 .. 7600 Hz, no pre-emphasis, straight in Hz: 91 frames as Kaldi has them."""
    spectra = features.stft(sound16k(), 400, 160, features.hann(400))
    filters = features.mel_filters(16000, 400, 80, 20, 7600, even=True)
    return centred(np.log(np.maximum(np.abs(spectra) ** 2 @ filters, 1e-10)).astype(np.float32))


def stretched_mel() -> Samples:
    """n_fft 1024 and hop 256, interpolated to 46 frames."""
    mel = matcha.log_mel(RECORDING, RATE, window=1024, fft=1024, hop=256, bands=80)
    frames = np.linspace(0, len(mel) - 1, 46).round().astype(int)
    stretched: Samples = mel[frames]
    return stretched


@pytest.mark.parametrize(
    ("tensor", "wrong", "bound"),
    [
        ("wav16k", soxr16k, bounds.RESAMPLED),
        ("whisper_mel", lambda: whisper_without_pad().T, bounds.WHISPER_MEL),
        ("whisper_mel", lambda: whisper.log_mel(soxr16k(), 128).T, bounds.WHISPER_MEL),
        ("fbank", librosa_fbank, bounds.LOG_MEL),
        ("fbank", lambda: kaldi.fbank(sound16k(), 80), bounds.LOG_MEL),  # the mean left in
        ("fbank", lambda: centred(kaldi.fbank(np.rint(sound16k() * 32768) / 32768**2, 80)), bounds.LOG_MEL),
        ("speech_feat_full", lambda: matcha.log_mel(RECORDING, RATE, **MEL, high=8000), bounds.LOG_MEL),
        ("speech_feat_full", stretched_mel, bounds.LOG_MEL),
    ],
)
def test_a_recipe_of_other_ports_is_far_out_of_bounds(tensor: str, wrong: Callable[[], Samples], bound: Bound) -> None:
    assert error(tensor, wrong()) > 20 * bound.absolute


def noise(length: int) -> Samples:
    return np.random.default_rng(length).uniform(-0.5, 0.5, length).astype(np.float32)


@given(st.integers(whisper.LEAST, 4000), st.sampled_from([20, 80, 128]))
@settings(max_examples=20, deadline=None)
def test_whispers_mel_is_torchs(length: int, bands: int) -> None:
    sound = torch.from_numpy(noise(length)).double()
    spectra = torch.stft(sound, 400, 160, window=torch.hann_window(400, dtype=torch.float64), return_complex=True)[
        :, :-1
    ]
    if spectra.shape[1] == 0:
        return
    power = spectra.abs() ** 2
    mel = torch.from_numpy(features.mel_filters(16000, 400, bands, even=True)).T @ power
    decades = mel.clamp(min=1e-10).log10()
    expected = ((torch.maximum(decades, decades.max() - 8) + 4) / 4).T
    np.testing.assert_allclose(whisper.log_mel(noise(length), bands), expected, rtol=0, atol=1e-5)


@given(
    st.integers(1, 40), st.integers(2, 30), st.integers(0, 30), st.integers(1, 12), st.integers(100, 900), st.booleans()
)
@settings(max_examples=30, deadline=None)
def test_matchas_mel_is_torchs(hop: int, half: int, shorter: int, bands: int, length: int, limited: bool) -> None:
    fft = hop + 2 * half
    window = max(1, fft - shorter)
    if length <= half:
        return
    high = 3000.0 if limited else None
    sound = torch.nn.functional.pad(torch.from_numpy(noise(length)).double()[None], (half, half), mode="reflect")[0]
    curve = torch.hann_window(window, dtype=torch.float64)
    spectra = torch.stft(sound, fft, hop, window, curve, center=False, return_complex=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        filters = features.mel_filters(8000, fft, bands, 0, high, even=True)
    expected = ((spectra.abs() ** 2 + 1e-9).sqrt().T @ torch.from_numpy(filters)).clamp(min=1e-5).log()
    got = matcha.log_mel(noise(length), 8000, window=window, fft=fft, hop=hop, bands=bands, high=high)
    assert len(got) == length // hop
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("length", [0, 1, 399, 400, 559, 560, 4000])
def test_kaldi_has_whole_frames_only(length: int) -> None:
    fbank = kaldi.fbank(noise(length), 80)
    assert fbank.shape == (max(0, 1 + (length - 400) // 160), 80)
    assert np.isfinite(fbank).all()


def test_silence_lies_on_the_floors() -> None:
    silence = np.zeros(3200, np.float32)
    assert np.all(whisper.log_mel(silence, 128) == -1.5)
    np.testing.assert_allclose(kaldi.fbank(silence, 80), np.log(1.1920929e-7), rtol=1e-6)
    np.testing.assert_allclose(matcha.log_mel(silence, 24000, **MEL), np.log(1e-5), rtol=1e-6)


def test_what_cannot_be_reflected_is_refused() -> None:
    with pytest.raises(ValueError, match="720 samples at 24000 Hz are too short; wanted more than 720"):
        matcha.log_mel(noise(720), 24000, **MEL)
    assert len(matcha.log_mel(noise(721), 24000, **MEL)) == 1
