"""One language model serves many threads: each gets the tokens it gets alone, and every step is counted."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from tests.bundles import Export

from voxport.bundle import Bundle
from voxport.graphs.session import Array
from voxport.speech.sampler import Sampling
from voxport.systems.qwen3tts import lm as qwen3tts
from voxport.systems.qwen3tts.prompt import Prompt
from voxport.systems.vyvo import lm as vyvo

THREADS, STEPS = 8, 12
DRAWN = Sampling(temperature=1.0, top_k=50, top_p=0.95, repetition_penalty=1.1)


def hold_threads(run: Callable[[int], list[Array]], fresh: Callable[[], object]) -> None:
    """`run(seed)` in threads is `run(seed)` alone; `fresh` renews the model between the two."""
    expected = [run(seed) for seed in range(THREADS)]
    fresh()
    with ThreadPoolExecutor(THREADS) as pool:
        together = list(pool.map(run, range(THREADS)))
    for wants, gots in zip(expected, together, strict=True):
        assert len(gots) == len(wants)
        for want, got in zip(wants, gots, strict=True):
            np.testing.assert_array_equal(got, want)


def test_vyvo_in_threads(vyvo_bundles: Export) -> None:
    """Two rows of different lengths each, without a grammar: the first step of all loads the whole head."""
    bundle = Bundle(vyvo_bundles("fp32", "cpu"), check=False)
    models: list[vyvo.LanguageModel] = []

    def fresh() -> None:
        models[:] = [vyvo.LanguageModel(bundle, 1, end=-1, pad=0)]

    def run(seed: int) -> list[Array]:
        rng = np.random.default_rng(seed)
        prompts = [rng.integers(0, 300, n).tolist() for n in rng.integers(1, 20, 2)]
        return list(models[0].generate(prompts, [STEPS, STEPS - 3], DRAWN, None, rng.random((2, STEPS), np.float32)))

    fresh()
    hold_threads(run, fresh)
    assert models[0].clock.steps == THREADS * STEPS


def test_qwen3tts_in_threads(qwen3tts_bundles: Callable[[str, str, str], Path]) -> None:
    bundle = Bundle(qwen3tts_bundles("customvoice", "fp32", "cpu"), check=False)
    models: list[qwen3tts.LanguageModel] = []
    rule = qwen3tts.Rule(DRAWN, DRAWN, DRAWN, least=STEPS)

    def fresh() -> None:
        models[:] = [qwen3tts.LanguageModel(bundle, 1)]

    def row(rng: np.random.Generator, steps: int, width: int, books: int) -> qwen3tts.Row:
        embeds = rng.standard_normal((int(rng.integers(1, 20)), width), np.float32)
        u = rng.random((steps, books), np.float32)
        prompt = Prompt(embeds, iter(embeds), np.zeros(width, np.float32))
        return qwen3tts.Row(prompt, steps, lambda: steps, lambda frame: u[frame])

    def run(seed: int) -> list[Array]:
        rng, model = np.random.default_rng(seed), models[0]
        width = int(bundle.session("talker").stage.inputs[0].shape[2])
        rows = [row(rng, steps, width, model.books) for steps in (STEPS, STEPS - 3)]
        frames = model.generate(rows, rule)
        return [codes for step in frames for codes in step if codes is not None]

    fresh()
    hold_threads(run, fresh)
    assert models[0].clock.steps == THREADS * STEPS
