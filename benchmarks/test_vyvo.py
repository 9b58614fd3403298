"""VyvoTTS LFM2-350M at real size: one decode step of transformers' own class beside voxport's, on as many threads.

    python -m pytest benchmarks/test_vyvo.py

PyTorch computes all 93,083 logits, as upstream does; voxport those the grammar allows. Random weights: the times are
real, what is said is not.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

import voxport
from benchmarks import vyvo_fullsize
from voxport.lm import Rows
from voxport.vyvo import Speaker
from voxport_exporters import vyvo
from voxport_exporters.pack import pack

PROMPT = 100  # tokens in the cache before the first timed step
ROUNDS, WARM = 80, 10
NEEDED = 7 * 24000 / 2048  # tokens per second of audio


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("vyvo")
    vyvo_fullsize.write(folder, "lfm2-350m", seed=0)
    return folder


@pytest.fixture(scope="module")
def bundle(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    made: dict[str, Path] = {}

    def export(recipe: str) -> Path:
        if recipe not in made:
            made[recipe] = tmp_path_factory.mktemp("bundle") / recipe
            pack(vyvo.job(checkpoint), made[recipe], vyvo.RECIPES[recipe], "cpu")
        return made[recipe]

    return export


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("runner", ["pytorch", "fp32", "int4"])
def test_decode_step(
    runner: str, threads: int, checkpoint: Path, bundle: Callable[[str], Path], benchmark: BenchmarkFixture
) -> None:
    benchmark.group = f"vyvo LFM2-350M, one token, {threads} thread(s)"
    benchmark.name = runner
    step = _pytorch(checkpoint, threads) if runner == "pytorch" else _voxport(bundle(runner), threads)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        benchmark.pedantic(step, rounds=ROUNDS, warmup_rounds=WARM, iterations=1)
    finally:
        torch.set_num_threads(before)
    assert benchmark.stats is not None  # pytest-benchmark is off
    rate = 1 / benchmark.stats.stats.median
    benchmark.extra_info["tokens_per_s"] = round(rate, 1)
    benchmark.extra_info["rtf_of_lm"] = round(NEEDED / rate, 3)


def _pytorch(checkpoint: Path, threads: int) -> Callable[[], object]:
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(threads)
    model = AutoModelForCausalLM.from_pretrained(checkpoint / "lm", dtype=torch.float32).eval()
    with torch.inference_mode():
        cache = model(torch.randint(0, 60000, (1, PROMPT)), use_cache=True).past_key_values

    def step() -> None:
        with torch.inference_mode():
            model(torch.tensor([[64410]]), past_key_values=cache, use_cache=True)

    return step


def _voxport(path: Path, threads: int) -> Callable[[], object]:
    speaker = voxport.load(path, threads=threads, check=False)
    assert isinstance(speaker, Speaker)
    rows = Rows(speaker.model._lm, np.zeros(1, np.int64), PROMPT + ROUNDS + WARM + 1)
    rows.feed("tokens", np.random.default_rng(0).integers(0, 60000, (1, PROMPT)))
    token = np.array([[64410]])
    return lambda: speaker.model.logits("head.1", rows.feed("tokens", token)["hidden"])
