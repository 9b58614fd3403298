"""Resampling: torchaudio's samples, however the input is cut."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from voxport.audio.files import Samples
from voxport.audio.resample import Resampler, resample, sinc_kernel

PAIRS = [(rate, 16000) for rate in (44100, 48000, 24000, 22050, 8000, 11025)] + [(16000, 24000)]
COPRIME = (44101, 16000)


def noise(count: int, seed: int = 0) -> Samples:
    return np.random.default_rng(seed).uniform(-0.9, 0.9, count).astype(np.float32)


def test_kernel_is_torchaudios(llvc_golden: dict[str, Samples]) -> None:
    kernel, width = sinc_kernel(44100, 16000)
    assert width == 17
    assert np.abs(kernel[[0, 80, 159]] - llvc_golden["resample.kernel_rows"]).max() <= 1e-8


@pytest.mark.parametrize(
    ("source", "shape", "width"),
    [(44100, (160, 475), 17), (48000, (1, 41), 19), (24000, (2, 23), 10), (22050, (320, 459), 9), (8000, (2, 15), 7)],
)
def test_kernel_sizes_are_upstreams(source: int, shape: tuple[int, int], width: int) -> None:
    kernel, found_width = sinc_kernel(source, 16000)
    assert (kernel.shape, found_width) == (shape, width)
    assert kernel.dtype == np.float32


def test_resampled_audio_is_upstreams(llvc_golden: dict[str, Samples]) -> None:
    output = resample(llvc_golden["resample.mono"], 44100, 16000)
    assert output.dtype == np.float32
    np.testing.assert_allclose(output, llvc_golden["resample.audio_16k"], rtol=0, atol=3e-7)


@pytest.mark.parametrize(("source", "target"), PAIRS)
def test_resampling_is_the_textbook_sum(source: int, target: int) -> None:
    kernel, width = sinc_kernel(source, target)
    phases, step = len(kernel), kernel.shape[1] - 2 * width
    samples = noise(3000)
    padded = np.pad(samples.astype(np.float64), (width, width + step))
    frames = range(len(samples) // step + 1)
    expected = np.stack([kernel @ padded[f * step : f * step + kernel.shape[1]] for f in frames]).reshape(-1)
    output = resample(samples, source, target)
    assert len(output) == -(-phases * len(samples) // step)
    np.testing.assert_allclose(output, expected[: len(output)], rtol=0, atol=1e-6)


@pytest.mark.parametrize("pair", [*PAIRS, COPRIME, (16000, 44101)])
@settings(max_examples=10, deadline=None)
@given(count=st.integers(0, 30000), seed=st.integers(0, 9), cuts=st.lists(st.integers(0, 30000), max_size=12))
def test_any_split_gives_the_same_samples(pair: tuple[int, int], count: int, seed: int, cuts: list[int]) -> None:
    samples = noise(count, seed)
    whole = resample(samples, *pair)
    stream = Resampler(*pair)
    pieces = [stream.feed(piece) for piece in np.split(samples, sorted(min(cut, count) for cut in cuts))]
    split = np.concatenate([*pieces, stream.flush()])
    assert len(whole) == -(-pair[1] * count // pair[0])
    assert np.array_equal(split, whole)


@pytest.mark.parametrize("pair", [(44100, 16000), (16000, 24000), COPRIME])
def test_single_samples_give_the_same_and_flush_starts_afresh(pair: tuple[int, int]) -> None:
    samples, stream = noise(700), Resampler(*pair)
    for _ in range(2):
        pieces = [stream.feed(samples[i : i + 1]) for i in range(len(samples))]
        assert np.array_equal(np.concatenate([*pieces, stream.flush()]), resample(samples, *pair))


def test_a_sample_comes_out_as_soon_as_its_filter_is_full() -> None:
    stream = Resampler(44100, 16000)
    assert len(stream.feed(noise(16))) == 0
    assert len(stream.feed(noise(1))) == 1  # output 0 sees inputs -17..16
    assert len(stream.feed(noise(441))) == 160


@pytest.mark.parametrize("pair", [*PAIRS, COPRIME])
def test_a_tone_keeps_its_pitch_level_and_place(pair: tuple[int, int]) -> None:
    source, target = pair
    output = resample(np.sin(2 * np.pi * 440 * np.arange(source) / source), source, target)
    expected = np.sin(2 * np.pi * 440 * np.arange(target) / target)
    assert np.abs(output - expected)[500:-500].max() < 4e-3  # torchaudio's filter itself ripples by 0.3 %


def test_equal_rates_pass_samples_through() -> None:
    samples, stream = noise(100), Resampler(16000, 16000)
    output = stream.feed(samples)
    assert np.array_equal(output, samples)
    assert not np.shares_memory(output, samples)
    assert len(stream.flush()) == 0


@pytest.mark.parametrize("pair", [(0, 16000), (16000, -1)])
def test_rates_must_be_positive(pair: tuple[int, int]) -> None:
    for build in (Resampler, sinc_kernel):
        with pytest.raises(ValueError, match="above 0 Hz"):
            build(*pair)


def test_resampler_wants_one_channel() -> None:
    with pytest.raises(ValueError, match=r"one channel \[n\], not \[2, 5\]"):
        Resampler(8000, 16000).feed(np.zeros((2, 5)))


# Of a header: the least rate there is, and rates near the largest, with a table (8000 divides both) and without.
@pytest.mark.parametrize("pair", [(1, 16000), (2147480000, 16000), (7, 192000), (2147483647, 192000)])
def test_absurd_rates_take_little_memory(pair: tuple[int, int]) -> None:
    code = "import resource, numpy as np; from voxport.audio.resample import resample\n"
    code += "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
    code += (
        f"before = peak(); output = resample(np.ones(10), {pair[0]}, {pair[1]}); print(len(output), peak() - before)"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    count, kilobytes = map(int, ended.stdout.split())
    assert count == -(-10 * pair[1] // pair[0])
    assert kilobytes < 300_000
