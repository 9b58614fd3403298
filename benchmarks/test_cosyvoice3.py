"""Fun-CosyVoice3 0.5B at real size: PyTorch beside voxport, on as many threads.

    python -m pytest benchmarks/test_cosyvoice3.py

token    40 ms of speech: a step of the language model and the draw of a speech token, after a prompt of 3 seconds.
euler    one of the flow's steps from noise to mel, 3 seconds of prompt and 10 of speech, both rows of its guidance.
vocoder  a second of mel, as part of a stream. Upstream's decoder has no state and would decode all mel before that once
         more, so PyTorch decodes the second alone, the least it can.

PyTorch is references/cosyvoice3*.py, eager, in float32. `of_limit`: the time this machine needs at the least for the
bundle's weights and operations, over the time it took. The weights are random: the times are real, the speech is noise.
"""

from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.conftest import Fulls, Timed
from benchmarks.references import cosyvoice3, cosyvoice3_flow, cosyvoice3_hift
from benchmarks.steps import Step
from voxport import draws
from voxport.bench.cost import scale_of
from voxport.bench.probe import probe
from voxport.bench.run import of_limit
from voxport.bundle import Bundle
from voxport.systems.cosyvoice3.lm import LanguageModel, Row, Rule
from voxport.systems.cosyvoice3.ras import Ras
from voxport.systems.cosyvoice3.section import Section
from voxport.systems.cosyvoice3.vocoder import Vocoder
from voxport_exporters.systems.cosyvoice3.config import read_config

VARIANT, PYTORCH = "0.5b", "pytorch fp32"
TEXT, PROMPT, SPEECH = 40, 75, 250  # tokens
SECOND = 50  # frames of mel
FRAMES = 2 * (PROMPT + SPEECH)
ROUNDS, WARM = 24, 4
TOKENS = 2 * (ROUNDS + WARM)
SAMPLER = Ras(top_p=0.8, top_k=25, window=10, share=0.1)

Machine = Callable[[int], Mapping[str, Any]]


@pytest.fixture(scope="session")
def machine() -> Machine:
    """threads -> what the machine can do with so many."""
    return cache(probe)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("runner", [PYTORCH, "fp32", "int8", "mixed"])
def test_token(
    runner: str, threads: int, full: Fulls, machine: Machine, timed: Timed, benchmark: BenchmarkFixture
) -> None:
    release = full("cosyvoice3", VARIANT)
    run = _pytorch_token(release.checkpoint) if runner == PYTORCH else _token(Bundle(release.bundle(runner)), threads)
    median = timed(run, f"cosyvoice3 {VARIANT}, one token", runner, threads, ROUNDS, WARM)
    benchmark.extra_info["rtf"] = round(median * 25, 3)
    if runner != PYTORCH:
        _note_limit(benchmark, Bundle(release.bundle(runner)), "lm", {}, median, machine(threads))


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("runner", [PYTORCH, "fp32", "mixed"])
def test_euler_step(
    runner: str, threads: int, full: Fulls, machine: Machine, timed: Timed, benchmark: BenchmarkFixture
) -> None:
    release = full("cosyvoice3", VARIANT)
    run = _pytorch_step(release.checkpoint) if runner == PYTORCH else _step(Bundle(release.bundle(runner)), threads)
    median = timed(run, f"cosyvoice3 flow, a step of {FRAMES} frames", runner, threads, 3, 1)
    benchmark.extra_info["rtf of 10"] = round(10 * median * SECOND / (2 * SPEECH), 3)
    if runner != PYTORCH:
        _note_limit(benchmark, Bundle(release.bundle(runner)), "flow", {"frames": FRAMES}, median, machine(threads))


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("runner", [PYTORCH, "fp32"])
def test_vocoder(
    runner: str, threads: int, full: Fulls, machine: Machine, timed: Timed, benchmark: BenchmarkFixture
) -> None:
    release = full("cosyvoice3", VARIANT)
    run = _pytorch_sound(release.checkpoint) if runner == PYTORCH else _sound(Bundle(release.bundle(runner)), threads)
    median = timed(run, f"cosyvoice3 vocoder, {SECOND} frames", runner, threads, 8, 2)
    benchmark.extra_info["rtf"] = round(median, 3)
    if runner != PYTORCH:
        bundle = Bundle(release.bundle(runner))
        _note_limit(benchmark, bundle, "vocoder", {"frames": SECOND}, median, machine(threads))


def _note_limit(
    benchmark: BenchmarkFixture,
    bundle: Bundle,
    stage: str,
    sizes: Mapping[str, int],
    seconds: float,
    machine: Mapping[str, Any],
) -> None:
    """Of the stage that takes most of the time, for a call with axes of these sizes."""
    record = bundle.manifest.stages[stage]
    benchmark.extra_info["of_limit"] = of_limit(record, [(seconds, *scale_of(record, sizes))], machine)


def _pytorch_token(checkpoint: Path) -> Step:
    lm, rng = cosyvoice3.LanguageModel(checkpoint, read_config(checkpoint)), torch.Generator().manual_seed(0)
    text, speech = (torch.randint(6000, (count,), generator=rng) for count in (TEXT, PROMPT))
    tokens = lm.tokens(lm.prompt(text, speech), least=TOKENS)
    next(tokens)  # the prompt
    return lambda: next(tokens)


def _token(bundle: Bundle, threads: int) -> Step:
    lm, rng = LanguageModel(bundle, threads, bundle.section(Section).llm), np.random.default_rng(0)
    prompt = lm.prompt(rng.integers(0, 6000, TEXT).tolist(), rng.integers(0, 6000, PROMPT).tolist())

    def exponentials(index: int, size: int) -> np.ndarray:
        return -np.log1p(-draws.uniforms(0, "bench", index, size)).astype(np.float32)

    tokens = lm.generate(Row(prompt, TOKENS, TOKENS, exponentials), Rule(SAMPLER))
    next(tokens)
    return lambda: next(tokens)


def _pytorch_step(checkpoint: Path) -> Step:
    config = read_config(checkpoint).flow
    net, rng = cosyvoice3_flow.load(checkpoint, config), torch.Generator().manual_seed(0)
    x, mu, cond = (torch.randn(1, config.output_size, FRAMES, generator=rng) for _ in range(3))
    spks = torch.randn(1, config.output_size, generator=rng)

    def run() -> None:
        with torch.inference_mode():
            net.step(x, mu, spks, cond, 0.1, 0.04)

    return run


def _step(bundle: Bundle, threads: int) -> Step:
    flow, rng = bundle.session("flow", threads), np.random.default_rng(0)
    feeds: dict[str, Any] = {
        t.name: rng.standard_normal(t.sized({"frames": FRAMES}), np.float32) for t in flow.stage.inputs
    }
    return lambda: flow(flow.start(), **feeds)


def _pytorch_sound(checkpoint: Path) -> Step:
    config = read_config(checkpoint).hift
    net, rng = cosyvoice3_hift.load(checkpoint, config), torch.Generator().manual_seed(0)
    mel = 2.5 * torch.randn(1, config.in_channels, SECOND, generator=rng) - 5
    noise = torch.rand(1, SECOND * config.hop, config.harmonics, generator=rng)
    return lambda: net(mel, noise)


def _sound(bundle: Bundle, threads: int) -> Step:
    vocoder = Vocoder(bundle, threads, bundle.section(Section).vocoder)
    mel = 2.5 * np.random.default_rng(0).standard_normal((SECOND, vocoder.bands), np.float32) - 5
    stream = vocoder.stream()
    return lambda: stream.feed(mel)
