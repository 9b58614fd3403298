"""VyvoTTS at real size: one decode step of transformers' own class beside voxport's, on as many threads.

    python -m pytest benchmarks/test_vyvo.py

PyTorch computes the logits of the whole vocabulary, as upstream does, in float32 and in bfloat16 (the faster one where
the CPU multiplies it); voxport computes those the grammar allows. Neither draws a token. The cache holds 100 to 190
tokens. The weights are random: the times are real, the speech is noise. Other runtimes: benchmarks/baselines/.
"""

from pathlib import Path

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.conftest import Fulls, Timed
from benchmarks.steps import PROMPT, TOKEN, Step, step

ROUNDS, WARM = 80, 10
NEEDED = 7 * 24000 / 2048  # tokens per second of audio
PYTORCH = {"pytorch fp32": torch.float32, "pytorch bf16": torch.bfloat16}


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("runner", [*PYTORCH, "fp32", "int4"])
@pytest.mark.parametrize("variant", ["lfm2-350m", "qwen3-0.6b"])
def test_decode_step(
    variant: str, runner: str, threads: int, full: Fulls, timed: Timed, benchmark: BenchmarkFixture
) -> None:
    release = full("vyvo", variant)
    if runner in PYTORCH:
        run = _pytorch(release.checkpoint, PYTORCH[runner])
    else:
        run = step(release.bundle(runner), threads, ROUNDS + WARM)
    rate = 1 / timed(run, f"vyvo {variant}, one token", runner, threads, ROUNDS, WARM)
    benchmark.extra_info["tokens_per_s"] = round(rate, 1)
    benchmark.extra_info["rtf_of_lm"] = round(NEEDED / rate, 3)


def _pytorch(checkpoint: Path, dtype: torch.dtype) -> Step:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(checkpoint / "lm", dtype=dtype).eval()
    with torch.inference_mode():
        cache = model(torch.randint(0, 60000, (1, PROMPT)), use_cache=True).past_key_values

    def run() -> None:
        with torch.inference_mode():
            model(torch.tensor([[TOKEN]]), past_key_values=cache, use_cache=True)

    return run
