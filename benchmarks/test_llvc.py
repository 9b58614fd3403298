"""LLVC at real size, one thread: voxport beside the PyTorch reference, chunk by chunk, and what int8 costs.

    python -m pytest benchmarks/test_llvc.py

Each group of the printed table is one chunk factor; the brackets are ratios within it. Random weights: the times are
real, the sound is noise, and the signal-to-noise ratios say how the arithmetic behaves, not how a voice sounds.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.conftest import Full, Fulls, Timed
from benchmarks.fullsize.llvc import speech_like
from benchmarks.references.llvc import LlvcReference, load
from voxport.bundle import Bundle
from voxport.systems.llvc.converter import Converter

ROUNDS = 400  # chunks timed per case


@pytest.fixture(scope="module")
def llvc(full: Fulls) -> Full:
    return full("llvc", "llvc")


@pytest.fixture(scope="module")
def reference(llvc: Full) -> LlvcReference:
    return load(llvc.checkpoint)


@pytest.mark.parametrize("factor", [1, 2, 4])
@pytest.mark.parametrize("runner", ["pytorch", "fp32", "int8"])
def test_step(
    runner: str,
    factor: int,
    reference: LlvcReference,
    llvc: Full,
    timed: Timed,
    benchmark: BenchmarkFixture,
) -> None:
    """One step of a live stream: `factor` chunks of 13 ms in, as many out."""
    size = 208 * factor
    samples = speech_like(1.0)[:size]
    step = _pytorch(reference, samples) if runner == "pytorch" else _voxport(llvc.bundle(runner), samples, factor)
    median = timed(step, f"llvc, {13 * factor} ms per step", runner, 1, ROUNDS // factor, 20)
    assert benchmark.stats is not None
    ordered = sorted(benchmark.stats.stats.data)
    benchmark.extra_info["rtf"] = round(median / (0.013 * factor), 4)
    benchmark.extra_info["p99_ms"] = round(ordered[int(0.99 * len(ordered))] * 1e3, 3)


def _pytorch(net: LlvcReference, samples: torch.Tensor) -> Callable[[], object]:
    audio = torch.cat((torch.zeros(32), samples))[None, None]
    state = net.zeros

    def step() -> None:
        nonlocal state
        with torch.inference_mode():
            _, state = net(audio, state)

    return step


def _voxport(bundle: Path, samples: torch.Tensor, factor: int) -> Callable[[], object]:
    stream = Converter(Bundle(bundle)).stream("exact", factor)
    piece = samples.numpy()
    stream.feed(piece)
    return lambda: stream.feed(piece)


def test_int8_keeps_40_db_of_fp32(llvc: Full) -> None:
    audio = speech_like(3.0).numpy()
    expected, actual = (Converter(Bundle(llvc.bundle(r))).stream("offline").convert(audio) for r in ("fp32", "int8"))
    snr = 10 * np.log10(np.mean(expected**2) / np.mean((actual - expected) ** 2))
    print(f"\nint8 against fp32, offline, 3 s: {snr:.1f} dB")
    assert snr >= 40


@pytest.mark.parametrize("factor", [1, 2, 4])
def test_exact_streaming_is_offline_at_real_size(factor: int, llvc: Full) -> None:
    converter = Converter(Bundle(llvc.bundle("fp32")))
    audio = speech_like(2.0).numpy()
    whole = len(audio) // 208 * 208 - 208  # the last, partial chunk is padded differently
    offline = converter.stream("offline").convert(audio)[:whole]
    streamed = converter.stream("exact", factor).convert(audio)[:whole]
    worst = np.abs(streamed - offline).max()
    print(f"\nexact against offline, chunk factor {factor}: {worst:.1e}")
    assert worst <= 1e-5


def test_bundles_stay_small(llvc: Full) -> None:
    mb = {recipe: Bundle(llvc.bundle(recipe)).bytes / 1e6 for recipe in ("fp32", "int8")}
    print(f"\nbundles: {mb['fp32']:.2f} MB fp32, {mb['int8']:.2f} MB int8")
    assert mb["fp32"] <= 13
    assert mb["int8"] <= 4
