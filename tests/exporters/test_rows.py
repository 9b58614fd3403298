"""Rows that go through a graph together, each at its own position, are the rows alone: whoever comes, stays or goes."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.exporters.decoders import CONFIGS, Decoder, checkpoint, graph_decoder

from voxport.graphs.session import Array
from voxport.recipe import Recipe, Rule
from voxport.speech import rows as speech_rows
from voxport.speech.rows import Rows
from voxport_exporters.graphs import caches

ROWS, CAPACITY, IDS = 3, 24, 60
INT8 = Recipe("caches", [Rule(caches.KIND, weights=f"{kind}.*") for kind in ("keys", "values")])
# Convolutions of two sizes beside attention; a window; heads that onnxruntime's operator takes and heads it does not.
CASES = [
    ("lfm2", "cpu", "fp32"),
    ("lfm2-bias", "cpu", "fp32"),
    ("lfm2-bias", "portable", "fp32"),
    ("qwen3-window", "cpu", "fp32"),
    ("qwen3-window", "portable", "fp32"),
    ("qwen3-window", "cpu", "int8"),
    ("llama", "portable", "fp32"),
]
SLOW = CASES[:2] + CASES[6:]
# (row, tokens): a free row begins with a prompt of as many, an active one goes on alone by them; no tokens stop it.
# None: all rows take a step together.
EVENTS = st.lists(st.none() | st.tuples(st.integers(0, ROWS - 1), st.integers(0, 7)), min_size=1, max_size=14)


@pytest.fixture(
    scope="module",
    params=[pytest.param(case, marks=[pytest.mark.slow] if case in SLOW else []) for case in CASES],
    ids="-".join,
)
def decoder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Decoder:
    name, target, recipe = request.param
    folder: Path = tmp_path_factory.mktemp(name)
    checkpoint(CONFIGS[name], folder)
    return graph_decoder(folder, folder, target, INT8 if recipe == "int8" else Recipe("fp32"))


def alone(decoder: Decoder, tokens: list[int]) -> Array:
    """The hidden state after these tokens, one after the other."""
    state = decoder.lm.start(batch=1, capacity=CAPACITY)
    for past, token in enumerate(tokens):
        outputs, state = decoder.lm(state, tokens=np.array([[token]]), past=np.array([past]))
    hidden: Array = outputs["hidden"][0]
    return hidden


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(events=EVENTS, seed=st.integers(0, 1000))
def test_rows_together_are_the_rows_alone(
    decoder: Decoder, monkeypatch: pytest.MonkeyPatch, events: list[tuple[int, int] | None], seed: int
) -> None:
    monkeypatch.setattr(speech_rows, "PREFILL", 3)  # so that prompts take one call, two or three
    rng, rows = np.random.default_rng(seed), Rows(decoder.lm, ROWS, CAPACITY)
    histories: list[list[int]] = [[] for _ in range(ROWS)]

    def hold(row: int, hidden: Array) -> None:
        expected = alone(decoder, histories[row])
        np.testing.assert_allclose(hidden, expected, rtol=0, atol=2e-5 * max(1.0, float(np.abs(expected).max())))

    for event in events:
        if event is None:
            if max(map(len, histories)) == CAPACITY:
                continue
            tokens = rng.integers(3, IDS, ROWS)
            hidden = rows.step(tokens=tokens)["hidden"]
            for row in range(ROWS):
                if rows.active[row]:
                    histories[row].append(int(tokens[row]))
                    hold(row, hidden[row])
        elif event[1] == 0:
            rows.stop(event[0])
            histories[event[0]].clear()
        elif len(histories[event[0]]) + event[1] <= CAPACITY:
            row, tokens = event[0], rng.integers(3, IDS, event[1])
            histories[row].extend(tokens.tolist())
            hold(row, rows.prefill(row, tokens=tokens)["hidden"][0])


def test_a_row_and_its_copy_go_on_apart(decoder: Decoder) -> None:
    rows, prompt = Rows(decoder.lm, 3, CAPACITY), [5, 6, 7, 8]
    rows.prefill(2, tokens=np.array([9, 9, 9, 9, 9]))  # what is replaced is longer
    rows.prefill(1, tokens=np.array(prompt))
    rows.copy(1, to=2)
    for step in range(3):
        hidden = rows.step(tokens=np.array([3, 10 + step, 20 + step]))["hidden"]
    for row, tokens in ((1, [10, 11, 12]), (2, [20, 21, 22])):
        expected = alone(decoder, prompt + tokens)
        np.testing.assert_allclose(hidden[row], expected, rtol=0, atol=2e-5 * max(1.0, float(np.abs(expected).max())))


def test_rows_that_are_kept_go_on_as_before(decoder: Decoder) -> None:
    rows, prompts = Rows(decoder.lm, 4, CAPACITY), [[5, 6], [7, 8, 9], [10], [11, 12, 13, 14]]
    for row, prompt in enumerate(prompts):
        rows.prefill(row, tokens=np.array(prompt))
    rows.stop(0)
    rows.keep([3, 1])
    assert rows.past.tolist() == [4, 3]
    for step in range(3):
        hidden = rows.step(tokens=np.array([10 + step, 20 + step]))["hidden"]
    for row, tokens in enumerate(([*prompts[3], 10, 11, 12], [*prompts[1], 20, 21, 22])):
        expected = alone(decoder, tokens)
        np.testing.assert_allclose(hidden[row], expected, rtol=0, atol=2e-5 * max(1.0, float(np.abs(expected).max())))


def test_threads_share_a_session(decoder: Decoder) -> None:
    def run(seed: int) -> list[Array]:
        rng, rows = np.random.default_rng(seed), Rows(decoder.lm, 2, CAPACITY)
        results = [rows.begin(tokens=[rng.integers(3, IDS, n) for n in rng.integers(1, 9, 2)])["hidden"]]
        return results + [rows.step(tokens=rng.integers(3, IDS, 2))["hidden"] for _ in range(12)]

    expected = [run(seed) for seed in range(8)]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(run, range(8)))
    for wants, gots in zip(expected, together, strict=True):
        np.testing.assert_array_equal(gots, wants)


def test_a_row_that_does_not_fit_its_caches_is_refused(decoder: Decoder) -> None:
    rows, tokens = Rows(decoder.lm, 2, 4), np.array([5, 6, 7])
    with pytest.raises(ValueError, match=r"^row 1: 5 tokens do not fit its caches of 4$"):
        rows.prefill(1, tokens=np.array([5, 6, 7, 8, 9]))
    rows.prefill(1, tokens=tokens)
    rows.step(tokens=tokens[:2])
    with pytest.raises(ValueError, match=r"^row 1: 5 tokens do not fit its caches of 4$"):
        rows.step(tokens=tokens[:2])
    with pytest.raises(ValueError, match=r"^row 0: a prompt has one token at least$"):
        rows.prefill(0, tokens=tokens[:0])
