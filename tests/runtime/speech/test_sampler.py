"""The sampler against a slow one in float64, written from the definitions."""

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from transformers.generation.logits_process import TopPLogitsWarper

from voxport import draws
from voxport.speech.sampler import RANGE, Sampling

Array = np.ndarray


def textbook(scores: Array, history: Array, s: Sampling) -> Array:
    """Probability of every id: penalty, temperature, top-k, top-p, one after the other over all ids."""
    x = scores.astype(np.float64)
    x = np.where(history, np.where(x > 0, x / s.repetition_penalty, x * s.repetition_penalty), x) / s.temperature
    if s.top_k:
        x = np.where(x >= np.sort(x)[-min(s.top_k, len(x))], x, -np.inf)
    p = np.exp(x - x.max()) / np.exp(x - x.max()).sum()
    order = np.argsort(p)[:-1]  # worst first; the best always stays
    inside = np.cumsum(p[order])
    assume(np.abs(inside - (1 - s.top_p)).min() > 1e-5)  # float32 may cut such a case elsewhere, as upstream's does
    p[order[inside <= 1 - s.top_p]] = 0
    chances: Array = p / p.sum()
    return chances


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    n=st.sampled_from([2, 3, 50, 4097]),
    s=st.builds(
        Sampling,
        temperature=st.floats(0.1, 3),
        top_k=st.sampled_from([0, 1, 2, 50, 5000]),
        top_p=st.sampled_from([0.05, 0.5, 0.8, 0.95, 1.0]),
        repetition_penalty=st.sampled_from([0.8, 1.0, 1.1, 1.3]),
    ),
)
def test_chances_are_those_of_the_textbook(seed: int, n: int, s: Sampling) -> None:
    scores = 3 * draws.normals(seed, "scores", 0, (n,))
    history = draws.uniforms(seed, "said", 0, n) < 0.3
    want = textbook(scores, history, s)
    got = np.zeros(n)
    ids, p = s.chances(s.penalized(scores, history))
    got[ids] = p
    assert np.abs(got - want).max() <= 1e-5


def test_a_draw_is_the_first_id_whose_cumulative_chance_exceeds_it() -> None:
    s = Sampling(temperature=1.0, top_k=0, top_p=1.0, repetition_penalty=1.0)
    scores = np.log(np.array([0.2, 0.5, 0.3], np.float32))
    history = np.zeros(3, bool)
    assert [s.choose(scores, history, u) for u in (0.0, 0.19, 0.21, 0.69, 0.71, 0.9999999)] == [0, 0, 1, 1, 2, 2]


def test_draws_and_top_p_are_transformers() -> None:
    for top_p in (1.0, 0.95):
        s = Sampling(temperature=1.0, top_k=0, top_p=top_p, repetition_penalty=1.0)
        for seed in range(1000):
            scores, u = draws.normals(seed, "scores", 0, (4097,)), draws.uniforms(seed, "u", 0, 1)[0]
            warped = torch.from_numpy(scores)[None]
            if top_p < 1:
                warped = TopPLogitsWarper(top_p)(None, warped)
            ids, p = s.chances(scores)
            assert np.array_equal(ids, np.flatnonzero(np.isfinite(warped[0].numpy())))
            at = int((torch.from_numpy(p).cumsum(-1) <= float(u)).sum())
            assert s.draw(scores, u) == ids[min(at, len(ids) - 1)]


def test_the_least_and_the_most_that_is_allowed_keep_scores_finite() -> None:
    scores = np.array([-1e4, 3, 2e4], np.float32)
    for temperature in RANGE:
        for penalty in RANGE:
            ids, p = Sampling(temperature, 0, 1.0, penalty).chances(
                Sampling(temperature, 0, 1.0, penalty).penalized(scores, np.ones(3, bool))
            )
            assert np.isfinite(p).all()
            assert len(ids) == 3


def test_an_id_that_cannot_be_is_never_drawn() -> None:
    s = Sampling(temperature=1.0, top_k=0, top_p=1.0, repetition_penalty=1.0)
    scores = np.array([-np.inf, 0, -np.inf, 0, -np.inf], np.float32)
    assert {s.choose(scores, np.zeros(5, bool), u) for u in (0.0, 0.3, 0.7, 1 - 2**-24)} == {1, 3}


def test_greedy_takes_the_best_after_the_penalty_and_the_lowest_of_equals() -> None:
    s = Sampling(temperature=0.6, top_k=50, top_p=0.95, repetition_penalty=2.0)
    history = np.array([False, True, False])
    assert s.choose(np.array([1, 1.5, 1], np.float32), history, None) == 0
    assert s.choose(np.array([-1, -0.6, -1], np.float32), history, None) == 0  # a negative score is multiplied
    assert s.choose(np.array([-1.3, -0.6, -1.3], np.float32), history, None) == 1


def test_scores_and_marks_are_left_as_they_are() -> None:
    s = Sampling(temperature=0.6, top_k=2, top_p=0.9, repetition_penalty=1.3)
    scores, history = draws.normals(0, "s", 0, (100,)), np.ones(100, bool)
    before = scores.copy()
    s.choose(scores, history, 0.5)
    assert np.array_equal(scores, before)
    assert history.all()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", 0.0),
        ("temperature", float("nan")),
        ("temperature", 1e-40),
        ("temperature", 1e39),
        ("top_k", -1),
        ("top_p", 0.0),
        ("top_p", 1.1),
        ("repetition_penalty", 0.0),
        ("repetition_penalty", float("inf")),
        ("repetition_penalty", 1e-40),
    ],
)
def test_a_setting_that_cannot_be_is_named(name: str, value: float) -> None:
    good = {"temperature": 0.6, "top_k": 50, "top_p": 0.95, "repetition_penalty": 1.1}
    with pytest.raises(ValueError, match=name):
        Sampling.of({**good, name: value})
