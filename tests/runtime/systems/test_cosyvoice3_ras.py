"""Repetition-aware sampling against upstream's, written in torch from its definition: one token after the other."""

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tests.conftest import golden
from torch import Tensor

from voxport import draws
from voxport.systems.cosyvoice3.ras import Choice, Ras

RELEASE = Ras(top_p=0.8, top_k=25, window=10, share=0.1)


def textbook(scores: Tensor, history: list[int], ras: Ras, numbers: list[Tensor]) -> tuple[int, list[int]]:
    """(the token, the size of each draw). `numbers`: exponential ones, more than enough, for each draw."""
    values, ids = scores.softmax(dim=0).sort(descending=True, stable=True)
    total, few = torch.zeros(()), list[Tensor]()
    for value in values:
        if not (total < ras.top_p and len(few) < ras.top_k):
            break
        total = total + value
        assume(abs(float(total) - ras.top_p) > 1e-5)  # another rounding of the sum may cut such a case elsewhere
        few.append(value)
    p = torch.stack(few)
    token = int(ids[(p / numbers[0][: len(p)]).argmax()])
    recent = history[-ras.window :]
    if sum(other == token for other in recent) < ras.window * ras.share:
        return token, [len(p)]
    others = scores.clone()
    others[token] = -torch.inf
    return int((others.softmax(dim=0) / numbers[1][: len(scores)]).argmax()), [len(p), len(scores)]


@settings(max_examples=200, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    ids=st.sampled_from([2, 3, 26, 443]),
    sharp=st.sampled_from([0.0, 0.3, 3.0, 30.0]),
    ties=st.booleans(),
    barred=st.integers(0, 30),
    past=st.integers(0, 14),
    ras=st.builds(
        Ras,
        top_p=st.sampled_from([0.01, 0.5, 0.8, 0.97]),
        top_k=st.sampled_from([1, 2, 25, 500]),
        window=st.sampled_from([1, 3, 10]),
        share=st.sampled_from([0.0, 0.1, 0.34, 2.0]),
    ),
)
def test_a_choice_is_upstreams(seed: int, ids: int, sharp: float, ties: bool, barred: int, past: int, ras: Ras) -> None:
    scores = sharp * draws.normals(seed, "scores", 0, ids)
    scores = np.round(scores) if ties else scores
    scores[: min(barred, ids - 2)] = -np.inf
    best = np.argsort(-scores, kind="stable")[:4]
    history = best[(draws.uniforms(seed, "history", 0, past) * len(best)).astype(np.int64)].tolist()
    numbers = [draws.exponentials(seed, "e", i, ids) for i in (0, 1)]
    sizes: list[int] = []

    def take(address: int, size: int) -> np.ndarray:
        assert address == 2 * len(history) + len(sizes)
        sizes.append(size)
        return numbers[len(sizes) - 1][:size]

    before = scores.copy()
    choice = ras.choose(scores, history, take)
    token, expected = textbook(torch.from_numpy(scores), history, ras, [torch.from_numpy(n) for n in numbers])
    assert (choice.token, sizes) == (token, expected)
    np.testing.assert_array_equal(scores, before)


def test_a_draw_is_torchs() -> None:
    """torch.multinomial takes the largest of p / e, where e are the numbers that its generator gives next."""
    p = torch.from_numpy(draws.uniforms(0, "p", 0, 443))
    likeliest = p.log().softmax(0).sort(descending=True, stable=True).indices
    for seed in range(20):
        numbers = torch.empty(443).exponential_(generator=torch.Generator().manual_seed(seed))[likeliest].numpy()
        drawn = int(p.multinomial(1, replacement=True, generator=torch.Generator().manual_seed(seed)))
        choice = Ras(1.0, 443, 1, 2.0).choose(p.log().numpy(), [], lambda _, size, e=numbers: e[:size])  # type: ignore[misc]
        assert choice.token == drawn


def test_a_repetition_is_drawn_again_from_all_but_itself() -> None:
    """An older form of upstream drew from all scores again, the repeated one included."""
    scores = np.log(np.array([0.9, 0.06, 0.04], np.float32))
    e = np.array([0.001, 1, 1], np.float32)  # so that id 0 wins wherever it may
    assert RELEASE.choose(scores, [2, 1], lambda _, size: e[:size]) == Choice(0, (0,))
    assert RELEASE.choose(scores, [0, 1], lambda _, size: e[:size]) == Choice(1, (0, 1))
    assert RELEASE.choose(scores, [0] + 10 * [1], lambda _, size: e[:size]) == Choice(0, (0,))  # too long ago


def test_the_release_has_the_settings_of_the_golden() -> None:
    tensors = golden("cosyvoice3")
    numbers = iter(np.split(tensors["sampler.draw_q"], np.cumsum(tensors["sampler.draw_len"])[:-1]))
    for row, history, token in zip(*(tensors[f"sampler.{n}"] for n in ("rows", "history", "pick")), strict=True):
        assert RELEASE.choose(row, history.tolist(), lambda *_: next(numbers)).token == token


@pytest.mark.parametrize(
    ("name", "value"), [("top_p", 0.0), ("top_p", 1.1), ("top_k", 0), ("window", 0), ("share", -0.1), ("share", np.nan)]
)
def test_a_setting_that_cannot_be_is_named(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"^{name} {value}: wanted"):
        Ras(**{"top_p": 0.8, "top_k": 25, "window": 10, "share": 0.1} | {name: value})  # type: ignore[arg-type]
