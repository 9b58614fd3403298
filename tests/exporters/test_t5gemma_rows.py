"""T5Gemma-TTS's graphs take rows of several texts together as they take each alone, for both targets."""

import numpy as np
import pytest
from tests.bundles import Export

from voxport.bundle import Bundle
from voxport.systems.t5gemma.lm import NOTHING, LanguageModel, Row
from voxport.systems.t5gemma.rules import Rule
from voxport.systems.t5gemma.section import Section

EMPTY, EOS, Y_SEP = 256, 259, 260


def row(model: LanguageModel, seed: int) -> Row:
    rng = np.random.default_rng(seed)
    memory = model.encode(rng.integers(3, 500, 3 + 9 * seed).tolist())
    prompt = np.array([EMPTY, *rng.integers(0, 256, 3 * seed), *[Y_SEP] * (seed > 0)])
    return Row(memory, prompt, 24 + len(prompt), 0, 5 + 6 * seed, lambda _, ids: rng.exponential(size=len(ids)))


def speech(model: LanguageModel, rows: list[Row], rule: Rule) -> tuple[list[list[int]], list[list[np.ndarray]]]:
    """Tokens and logits of every row."""
    tokens: list[list[int]] = [[] for _ in rows]
    logits: list[np.ndarray] = []
    for step in model.generate(rows, rule, lambda _, array: logits.append(array)):
        for mine, token in zip(tokens, step.tolist(), strict=True):
            mine += [token] if token != NOTHING else []
    return tokens, [[step[i] for step in logits if len(step) == len(rows)] for i in range(len(rows))]


@pytest.mark.parametrize("target", ["cpu", pytest.param("portable", marks=pytest.mark.slow)])
@pytest.mark.parametrize("rule", [Rule(EOS, greedy=True), Rule(EOS, temperature=2.0)], ids=["best", "drawn"])
def test_rows_together_are_the_rows_alone(t5gemma_bundles: Export, target: str, rule: Rule) -> None:
    bundle = Bundle(t5gemma_bundles("fp32", target))
    model = LanguageModel(bundle, 1, bundle.section(Section))
    seeds = [1, 0, 3, 2]
    tokens, logits = speech(model, [row(model, seed) for seed in seeds], rule)
    alone = [speech(model, [row(model, seed)], rule) for seed in seeds]
    assert tokens == [one[0] for one, _ in alone]
    assert len({len(mine) for mine in tokens}) > 1
    for mine, (_, (expected,)) in zip(logits, alone, strict=True):
        together = min(len(mine), len(expected))
        assert together >= 2
        np.testing.assert_allclose(mine[:together], expected[:together], rtol=0, atol=1e-4)
