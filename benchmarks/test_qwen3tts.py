"""Qwen3-TTS 0.6B CustomVoice at real size: PyTorch beside voxport, on as many threads.

    python -m pytest benchmarks/test_qwen3tts.py

frame   80 ms of speech: a talker step, the predictor's 15 passes, and all 16 codes drawn as upstream draws them.
        PyTorch is references/qwen3tts.py, eager, in float32 and in bfloat16 (the faster one where the CPU multiplies
        it). It leaves out what upstream's `generate()` costs per token, so upstream itself (baselines/) is slower.
codec   8 frames of the 12 Hz decoder, which continue the ones before. Upstream's decoder has no state and would decode
        25 frames of context each time, so PyTorch is the exporter's own net, eager: float32, and under bf16 autocast.
The weights are random: the times are real, the speech is noise.
"""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from safetensors.torch import load_file

import voxport
from benchmarks.conftest import Fulls, Timed
from benchmarks.references.qwen3tts import Reference
from benchmarks.steps import Step, step
from voxport.codecs.codec12hz import PIECE
from voxport.systems.qwen3tts.speaker import Speaker
from voxport_exporters.codecs.codec12hz import stages as codec12hz

VARIANT = "0.6b-customvoice"
PYTORCH = {"pytorch fp32": torch.float32, "pytorch bf16": torch.bfloat16}
ROUNDS, WARM = 24, 4
PROMPT = 40  # rows: about what a sentence of 20 words takes
FRAME, GROUP = 0.08, PIECE  # seconds; frames per call of the codec
FIXTURE = Path(__file__).parent.parent / "tests" / "fixtures" / "qwen3tts-customvoice"


@pytest.fixture(scope="module")
def reference(full: Fulls) -> Callable[[str], Reference]:
    """runner -> its reference. Both keep their weights until the module ends: 3.5 GB."""
    return cache(lambda runner: Reference(full("qwen3tts", VARIANT).checkpoint, PYTORCH[runner]))


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("runner", [*PYTORCH, "int4", "mixed"])
def test_frame(
    runner: str,
    threads: int,
    full: Fulls,
    reference: Callable[[str], Reference],
    timed: Timed,
    benchmark: BenchmarkFixture,
) -> None:
    if runner in PYTORCH:
        run = _pytorch_frame(reference(runner))
    else:
        run = step(full("qwen3tts", VARIANT).bundle(runner), threads, ROUNDS + WARM)
    median = timed(run, f"qwen3tts {VARIANT}, one frame", runner, threads, ROUNDS, WARM)
    benchmark.extra_info["rtf"] = round(median / FRAME, 3)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("runner", [*PYTORCH, "fp32", "int8"])
def test_codec(runner: str, threads: int, full: Fulls, timed: Timed, benchmark: BenchmarkFixture) -> None:
    release = full("qwen3tts", VARIANT)
    codes = np.random.default_rng(0).integers(0, 2048, (GROUP, 16))
    if runner in PYTORCH:
        run = _pytorch_codec(release.checkpoint, codes, bf16=runner == "pytorch bf16")
    else:
        speaker = voxport.load(
            release.bundle("int4", "int8" if runner == "int8" else None), threads=threads, check=False
        )
        assert isinstance(speaker, Speaker)
        stream = speaker.codec.stream()
        run = lambda: stream.feed(codes)  # noqa: E731
    median = timed(run, f"qwen3tts codec, {GROUP} frames", runner, threads, ROUNDS, WARM)
    benchmark.extra_info["rtf"] = round(median / (GROUP * FRAME), 3)


def _pytorch_frame(net: Reference) -> Step:
    width, dtype = net.tables[0].shape[1], net.tables[0].dtype
    prompt = 0.02 * torch.randn(PROMPT, width, dtype=dtype)
    frames = net.frames(prompt, torch.zeros(width, dtype=dtype), ROUNDS + WARM + 1)
    return lambda: next(frames)


def _pytorch_codec(checkpoint: Path, codes: np.ndarray, bf16: bool) -> Step:
    part = next(codec12hz.parts(checkpoint / "speech_tokenizer", encode=False))
    net, frames = part.net.eval(), torch.from_numpy(codes)
    _, *state = part.feed()

    def run() -> None:
        nonlocal state
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            _, *state = net(frames, *state)

    return run


def test_the_reference_generates_upstreams_codes() -> None:
    """All 16 code streams equal upstream's greedy golden, so the benchmark times the right model."""
    golden = load_file(FIXTURE / "golden.safetensors")
    prompt, pad = (golden[f"cv_nonstream.{n}"].flatten(0, 1) for n in ("prefill_embeds", "tts_pad_embed"))
    frames = Reference(FIXTURE, torch.float32).frames(prompt, pad[0], least=2, sample=False)
    assert torch.equal(torch.stack(list(frames)), golden["cv_nonstream.codes"])
