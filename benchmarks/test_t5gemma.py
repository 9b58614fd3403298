"""T5Gemma-TTS 2b-2b at real size: PyTorch beside voxport, on as many threads.

    python -m pytest benchmarks/test_t5gemma.py --keep DIR

token   20 ms of speech in every row: a step of the decoder and the draws, after 3 seconds of prompt. Rows share each
        pass over the weights.
decode  5 seconds of codes to sound, at once.
encode  a recording of 5 seconds to codes, with the loading of the graphs that do it. Beside nothing: upstream's encoder
        is not rebuilt here.

PyTorch is references/t5gemma*.py, eager: the decoder in bfloat16, as upstream runs it and as it fits into memory, the
codec in float32. `of_limit`: the time this machine needs at the least for the bundle's weights and operations, over the
time it took; the caches come on top. The weights are random: the times are real, the speech is noise. Checkpoint and
bundles take 14 and 7 GB each.
"""

from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.conftest import Fulls, Timed
from benchmarks.references import t5gemma, t5gemma_codec
from benchmarks.steps import Step
from voxport import draws
from voxport.bench.cost import scale_of
from voxport.bench.probe import probe
from voxport.bench.run import of_limit
from voxport.bundle import Bundle
from voxport.codecs.xcodec2 import Codec
from voxport.codecs.xcodec2_encoder import Encoder
from voxport.systems.t5gemma.lm import LanguageModel, Row
from voxport.systems.t5gemma.rules import Rule
from voxport.systems.t5gemma.section import Section
from voxport_exporters.codecs.xcodec2.config import read_config as read_codec_config
from voxport_exporters.systems.t5gemma.config import read_config

VARIANT, THREADS = "2b-2b", 2
SECOND = 50  # tokens
TEXT, PROMPT, SPEECH = 100, 3 * SECOND, 10 * SECOND  # ids, tokens
FRAMES = 5 * SECOND
ROUNDS, WARM = 16, 4

Machine = Callable[[int], Mapping[str, Any]]


@pytest.fixture(scope="session")
def machine() -> Machine:
    """threads -> what the machine can do with so many."""
    return cache(probe)


@pytest.mark.parametrize("rows", [1, 4, 8])
@pytest.mark.parametrize("runner", ["pytorch bf16", "int4", "mixed", "int8"])
def test_token(
    runner: str, rows: int, full: Fulls, machine: Machine, timed: Timed, benchmark: BenchmarkFixture
) -> None:
    release = full("t5gemma", VARIANT)
    bundle = Bundle(release.bundle(runner)) if " " not in runner else None
    run = _token(bundle, rows) if bundle else _pytorch_token(release.checkpoint / "t5gemma_tts", rows)
    median = timed(run, f"t5gemma {VARIANT}, one token of {rows} row(s)", runner, THREADS, ROUNDS, WARM)
    benchmark.extra_info |= {"tokens_per_s": round(rows / median, 1), "rtf": round(median * SECOND / rows, 2)}
    if bundle:
        _note_limit(benchmark, bundle, "decoder", {"batch": rows, "time": 1, "text": TEXT}, median, machine(THREADS))


@pytest.mark.parametrize("runner", ["pytorch fp32", "fp32", "int8"])
def test_decode(runner: str, full: Fulls, machine: Machine, timed: Timed, benchmark: BenchmarkFixture) -> None:
    release = full("t5gemma", VARIANT)
    bundle = Bundle(release.bundle("int4", runner)) if " " not in runner else None
    run = _decode(bundle) if bundle else _pytorch_decode(release.checkpoint / "xcodec2")
    median = timed(run, f"t5gemma codec, {FRAMES} codes", runner, THREADS, 4, 1)
    benchmark.extra_info["rtf"] = round(median * SECOND / FRAMES, 3)
    if bundle:
        _note_limit(benchmark, bundle, "codec_decode", {"frames": FRAMES}, median, machine(THREADS))


@pytest.mark.parametrize("runner", ["fp32", "int8"])
def test_encode(runner: str, full: Fulls, timed: Timed, benchmark: BenchmarkFixture) -> None:
    bundle = Bundle(full("t5gemma", VARIANT).bundle("int4", runner))
    section = bundle.section(Section).codec
    encoder = Encoder(bundle, THREADS, section)
    sound = 0.1 * np.random.default_rng(0).standard_normal(section.rate * FRAMES // SECOND, np.float32)
    median = timed(lambda: encoder.encode(sound, section.rate), "t5gemma codec, 5 s to codes", runner, THREADS, 3, 1)
    benchmark.extra_info["rtf"] = round(median * SECOND / FRAMES, 3)


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


def _token(bundle: Bundle, rows: int) -> Step:
    lm, rng = LanguageModel(bundle, THREADS, bundle.section(Section)), np.random.default_rng(0)
    memory, eos = lm.encode(rng.integers(500, 2000, TEXT).tolist()), bundle.manifest.tokens["eos"]

    def row(index: int) -> Row:
        def draw(step: int, ids: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
            return draws.exponentials_at(0, f"bench.{index}", step, ids)

        return Row(memory, rng.integers(0, 60000, PROMPT), PROMPT + SPEECH, SPEECH, SPEECH, draw)

    tokens = lm.generate([row(index) for index in range(rows)], Rule(eos, temperature=0.8, top_k=30, top_p=0.9))
    next(tokens)
    return lambda: next(tokens)


def _pytorch_token(checkpoint: Path, rows: int) -> Step:
    config = read_config(checkpoint / "config.json")
    reference = t5gemma.Reference(checkpoint, config, torch.bfloat16, encodes=False)
    rng = torch.Generator().manual_seed(0)
    memory = torch.randn(1, TEXT, config.encoder.hidden_size, generator=rng).expand(rows, -1, -1)
    prompt = torch.randint(60000, (rows, PROMPT), generator=rng)
    speech = reference.speech(memory.to(torch.bfloat16), prompt, PROMPT + SPEECH)
    return lambda: speech.feed(t5gemma.draw(speech.logits))


def _decode(bundle: Bundle) -> Step:
    section = bundle.section(Section).codec
    codec = Codec(bundle.session("codec_decode", THREADS), section)
    codes = np.random.default_rng(0).integers(0, section.codes, FRAMES)
    return lambda: codec.decode(codes)


def _pytorch_decode(checkpoint: Path) -> Step:
    config = read_codec_config(checkpoint / "config.json")
    net = t5gemma_codec.load(checkpoint, config)
    codes = torch.randint(config.codes, (FRAMES,), generator=torch.Generator().manual_seed(0))
    return lambda: net(codes)
