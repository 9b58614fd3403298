"""How T5Gemma-TTS chooses a token: against upstream's choices, and against its definition written in torch."""

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tests.conftest import golden
from torch import Tensor

from voxport import bounds, draws
from voxport.systems.t5gemma.rules import NEVER, Rule, Tail

EOS, SILENCE = 259, 79  # of the fixture
EARLY = 11  # tokens before which the fixture's generations do not end
RELEASE = Rule(EOS, temperature=0.8, top_k=30, top_p=0.9)


def test_the_best_tokens_are_upstreams() -> None:
    upstream, tail, rule = golden("t5gemma"), Tail(), Rule(EOS, greedy=True)
    for step, logits in enumerate(upstream["t5.logits"]):
        scores = rule.adjusted(logits, tail, step < EARLY)
        np.testing.assert_array_equal(scores, upstream["t5.logits_adj"][step])
        token = rule.draw(scores, None)
        assert token == upstream["t5.greedy.tokens"][step]
        tail = rule.follow(tail, token)


def test_drawn_tokens_are_upstreams() -> None:
    upstream = golden("t5gemma")
    last = len(upstream["sample.tokens"]) - 1
    for step, scores in enumerate(upstream["sample.logits_adj"]):
        ids, p = RELEASE.chances(scores)
        expected = upstream["sample.probs"][step]
        np.testing.assert_array_equal(ids, np.flatnonzero(expected))
        np.testing.assert_allclose(p, expected[ids], rtol=0, atol=bounds.LM_CHANCES.absolute)
        token = RELEASE.draw(scores, upstream["sample.exp_q"][step].__getitem__)
        assert token == upstream["sample.tokens"][step]
        assert RELEASE.ends(scores, token) == (step == last)  # another was drawn, but the end is the best


def test_a_silence_that_goes_on_is_held_back_as_upstream_does() -> None:
    upstream, tail, rule = golden("t5gemma"), Tail(), Rule(EOS, silence=(SILENCE,), greedy=True)
    changed = 0
    for step, token in enumerate(upstream["silence.tokens"].tolist()):
        if 0 <= step - 10 < len(upstream["silence.logits_before"]):
            logits = upstream["silence.logits_before"][step - 10]
            scores = rule.adjusted(logits, tail, step < EARLY)
            np.testing.assert_allclose(scores, upstream["silence.logits_adj"][step - 10], rtol=1e-6)
            assert rule.draw(scores, None) == token
            changed += int(scores[SILENCE] != logits[SILENCE])
        tail = rule.follow(tail, token)
    assert changed >= 2


def tails(rule: Rule, tokens: list[int]) -> list[int]:
    """The run of silence after each of the tokens."""
    tail, runs = Tail(), list[int]()
    for token in tokens:
        tail = rule.follow(tail, token)
        runs.append(tail.silent)
    return runs


def test_runs_of_silence_are_counted_per_code() -> None:
    tokens = [7, 7, 8, 8, 8, 3, 3, 7]
    assert tails(Rule(EOS, silence=(7,)), tokens) == [1, 2, 0, 0, 0, 0, 0, 1]
    assert tails(Rule(EOS, silence=(7,), compatible=True), tokens) == [1, 2, 0, 0, 0, 0, 0, 1]
    assert tails(Rule(EOS, silence=(7, 8)), tokens) == [1, 2, 1, 2, 3, 0, 0, 1]
    assert tails(Rule(EOS, silence=(7, 8), compatible=True), tokens) == [0, 0, 1, 1, 1, 0, 0, 0]
    assert tails(Rule(EOS), tokens) == [0] * 8


@pytest.mark.parametrize(("score", "expected"), [(6.0, 2.0), (-2.0, -6.0)])
def test_silence_becomes_less_likely_the_longer_it_lasts(score: float, expected: float) -> None:
    rule, scores = Rule(EOS, silence=(7,)), np.full(261, score, np.float32)
    assert rule.adjusted(scores, Tail(7, 3), False)[7] == score
    changed = rule.adjusted(scores, Tail(7, 5), False)
    assert changed[7] == np.float32(expected)
    assert np.count_nonzero(changed != score) == 1
    assert (scores == score).all()
    assert Rule(EOS, silence=(7,), stop_repetition=0).adjusted(scores, Tail(7, 9), False)[7] == score
    assert rule.adjusted(scores, Tail(8, 9), True)[EOS] == NEVER


def textbook(scores: Tensor, rule: Rule) -> Tensor:
    """Probabilities float32 [ids], written as upstream's filters are described."""
    scores = scores / rule.temperature
    likely = scores.softmax(dim=0) >= rule.min_p
    if 0 < rule.min_p < 1 and likely.any():
        return torch.where(likely, scores, -torch.inf).softmax(dim=0)
    if rule.top_k:
        scores = torch.where(scores < scores.topk(min(rule.top_k, len(scores))).values[-1], -torch.inf, scores)
    if rule.top_p < 1:
        values, order = scores.sort(descending=True, stable=True)
        sums = values.softmax(dim=0).cumsum(dim=0)
        assume(not ((sums - rule.top_p).abs() < 1e-5).any())  # another rounding of the sum cuts such a case elsewhere
        before = torch.cat((torch.zeros(1), sums[:-1]))
        scores = scores.scatter(0, order[before > rule.top_p], -torch.inf)
    return scores.softmax(dim=0)


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    ids=st.sampled_from([2, 3, 31, 443]),
    sharp=st.sampled_from([0.0, 0.3, 3.0, 30.0]),
    rule=st.builds(
        Rule,
        eos=st.just(1),
        temperature=st.sampled_from([0.1, 0.8, 1.0, 3.0]),
        top_k=st.sampled_from([0, 1, 2, 30, 500]),
        top_p=st.sampled_from([0.01, 0.5, 0.9, 1.0]),
        min_p=st.sampled_from([0.0, 0.02, 0.3, 0.999, 1.0]),
    ),
)
def test_chances_and_draws_are_those_of_the_definition(seed: int, ids: int, sharp: float, rule: Rule) -> None:
    scores = draws.normals(seed, "test.scores", 0, ids) * np.float32(sharp)
    e = draws.exponentials(seed, "test.draws", 0, ids)
    expected = textbook(torch.from_numpy(scores), rule).numpy()
    assume(not (np.abs(expected - rule.min_p) < 1e-6).any())
    allowed, p = rule.chances(scores)
    likely = expected > 1e-30  # less is next to nothing, of which float32 may be left with nothing
    np.testing.assert_array_equal(allowed[p > 1e-30], np.flatnonzero(likely))
    np.testing.assert_allclose(p, expected[allowed], atol=1e-6)
    ratios = expected / e
    token = rule.draw(scores, e.__getitem__)
    assert ratios[token] >= ratios.max() * (1 - 1e-5)
    assert rule.draw(scores, None) == scores.argmax()


@pytest.mark.parametrize(
    ("name", "value"), [("temperature", 0.0), ("top_k", -1), ("top_p", 0.0), ("top_p", 1.5), ("min_p", -0.1)]
)
def test_a_value_that_cannot_be_is_named(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"^{name} {value}: wanted"):
        Rule(EOS, **{name: value})  # type: ignore[arg-type]
