"""T5Gemma-TTS's language model on torch nets: upstream's tokens, and rows that are what each would be alone."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from tests.conftest import golden
from tests.t5gemma_nets import FIXTURE, language_model

from voxport import bounds, draws
from voxport.graphs.session import Array
from voxport.speech import limits
from voxport.systems.t5gemma.lm import NOTHING, LanguageModel, Row
from voxport.systems.t5gemma.rules import Rule
from voxport_exporters.systems.t5gemma.checkpoint import open_checkpoint
from voxport_exporters.systems.t5gemma.config import config_of

EMPTY, EOS, Y_SEP = 256, 259, 260
BEST = Rule(EOS, greedy=True)
DRAWN = Rule(EOS, temperature=0.8, top_k=30, top_p=0.9)


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    checkpoint = open_checkpoint(FIXTURE)
    return language_model(checkpoint.weights, checkpoint.config)


def row(model: LanguageModel, seed: int = 0, **changes: Any) -> Row:
    """A row of a text, prompt and limit of its own."""
    rng = np.random.default_rng(seed)
    fields: dict[str, Any] = {
        "memory": model.encode(rng.integers(3, 500, 3 + seed * 5 % 17).tolist()),
        "prompt": np.array([EMPTY, *rng.integers(0, 256, seed % 4), *[Y_SEP] * (seed % 4 > 0)]),
        "expected": 20 + seed,
        "least": 0,
        "most": 12 + 7 * seed % 9,
        "draws": lambda step, ids: draws.exponentials_at(seed, "test", step, ids),
    }
    return Row(**fields | changes)


def together(model: LanguageModel, rows: list[Row], rule: Rule) -> list[list[int]]:
    """The tokens of every row; nothing comes of a row that has stopped."""
    tokens: list[list[int]] = [[] for _ in rows]
    for step in model.generate(rows, rule):
        for mine, token in zip(tokens, step.tolist(), strict=True):
            mine += [token] if token != NOTHING else []
    return tokens


def upstream_row(model: LanguageModel, draw: Any = None) -> Row:
    """The generation of the golden."""
    upstream = golden("t5gemma")
    prompt = np.array([EMPTY, *upstream["t5.prompt_codes"][0, :, 0]])
    memory = model.encode(upstream["t5.text_ids"][0].tolist())
    return Row(memory, prompt, int(upstream["t5.target_total"][0]) + 1, 11, 65, draw)


def test_the_best_tokens_are_upstreams(model: LanguageModel) -> None:
    upstream, logits = golden("t5gemma"), list[Array]()
    mine = upstream_row(model)
    tokens = [int(token) for (token,) in model.generate([mine], BEST, lambda _, array: logits.append(array[0]))]
    assert [*tokens, EOS] == upstream["t5.greedy.tokens"].tolist()
    assert mine.stopped == limits.END
    np.testing.assert_allclose(logits, upstream["t5.logits"], rtol=0, atol=bounds.LM_LOGITS.absolute)


def test_drawn_tokens_are_upstreams(model: LanguageModel) -> None:
    """The last of upstream's draws is no token: the end was the best."""
    upstream = golden("t5gemma")
    mine = upstream_row(model, lambda step, ids: upstream["sample.exp_q"][step, ids])
    assert together(model, [mine], DRAWN) == [upstream["sample.codes"][0, 0].tolist()]


def test_forced_tokens_have_upstreams_scores(model: LanguageModel) -> None:
    upstream, mine = golden("t5gemma"), upstream_row(model)
    tokens = upstream["t5.greedy.tokens"][:-1].tolist()
    logits = list(model.read(mine.memory, mine.prompt, mine.expected, tokens))
    np.testing.assert_allclose(logits, upstream["t5.logits"], rtol=0, atol=bounds.LM_LOGITS.absolute)


@pytest.mark.parametrize("rule", [BEST, DRAWN])
def test_rows_together_are_the_rows_alone(model: LanguageModel, rule: Rule) -> None:
    """Texts, prompts and limits of many lengths, one without a limit that matters, one that never begins."""
    seeds = [3, 1, 4, 2, 6, 5]
    rows = [row(model, seed, most=0 if seed == 2 else 60 if seed == 6 else 12 + 7 * seed % 9) for seed in seeds]
    alone = [
        together(model, [row(model, seed, most=mine.most)], rule)[0] for seed, mine in zip(seeds, rows, strict=True)
    ]
    assert together(model, rows, rule) == alone
    assert [len(tokens) for tokens in alone][3] == 0
    assert len({len(tokens) for tokens in alone}) > 3
    assert all(mine.stopped for mine in rows)


def test_samples_of_one_text_share_its_prompt(model: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    first = row(model, 3)
    rows = [row(model, 3, memory=first.memory, draws=row(model, seed).draws) for seed in range(4)]
    alone = [together(model, [row(model, 3, draws=row(model, seed).draws)], DRAWN)[0] for seed in range(4)]
    lengths = list[int]()
    monkeypatch.setattr(model, "_decoder", Counted(model._decoder, lengths))
    assert together(model, rows, DRAWN) == alone
    assert len({tuple(tokens) for tokens in alone}) == 4
    assert [length for length in lengths if length > 1] == [len(first.prompt)]


class Counted:
    """A session that writes down how many tokens, and rows, each call takes."""

    def __init__(self, session: Any, lengths: list[int]) -> None:
        self.session, self.lengths, self.stage, self.threads = session, lengths, session.stage, 1
        self.rows = list[int]()

    def start(self, *constants: Any, **axes: int) -> Any:
        return self.session.start(*constants, **axes)

    def __call__(self, state: Any, **inputs: Any) -> Any:
        self.lengths.append(inputs["embeds"].shape[1])
        self.rows.append(inputs["embeds"].shape[0])
        return self.session(state, **inputs)


def test_caches_grow_when_a_speech_is_longer_than_expected(
    model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [row(model, seed, expected=8, least=99, most=30) for seed in (1, 2)]
    expected = together(model, rows, DRAWN)
    monkeypatch.setattr("voxport.systems.t5gemma.lm.SPARE", 0)
    assert together(model, [row(model, seed, expected=8, least=99, most=30) for seed in (1, 2)], DRAWN) == expected
    assert list(map(len, expected)) == [30, 30]


def test_a_long_prompt_is_read_in_pieces(model: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    prompt = np.array([EMPTY, *range(10), Y_SEP])
    expected = together(model, [row(model, 1, prompt=prompt)], BEST)
    lengths = list[int]()
    monkeypatch.setattr(model, "_decoder", Counted(model._decoder, lengths))
    monkeypatch.setattr("voxport.speech.rows.PREFILL", 5)
    assert together(model, [row(model, 1, prompt=prompt)], BEST) == expected
    assert lengths[:3] == [5, 5, 2]


def test_rows_that_have_stopped_cost_nothing_once_they_are_half(
    model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = Counted(model._decoder, [])
    monkeypatch.setattr(model, "_decoder", counted)
    rows = [row(model, seed, least=99, most=most) for seed, most in enumerate((9, 3, 1, 5))]
    assert list(map(len, together(model, rows, BEST))) == [9, 3, 1, 5]
    assert counted.rows[4:] == [4, 4, 2, 2, 1, 1, 1, 1]


def test_nothing_is_computed_after_the_last_token(model: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    lengths = list[int]()
    monkeypatch.setattr(model, "_decoder", Counted(model._decoder, lengths))
    mine = row(model, 1, least=99, most=5)
    assert len(together(model, [mine], BEST)[0]) == len(lengths) == 5
    assert mine.stopped == limits.LIMIT


def test_a_row_that_nobody_wants_any_more_stops(model: LanguageModel) -> None:
    rows = [row(model, seed, least=99, most=9) for seed in (1, 2)]
    steps: Iterator[Array] = model.generate(rows, BEST)
    next(steps)
    rows[0].stopped = "closed"
    rest = list(steps)
    assert [tokens[0] for tokens in rest] == [NOTHING] * 8
    assert NOTHING not in [tokens[1] for tokens in rest]


def test_without_progress_the_text_is_not_turned() -> None:
    checkpoint = open_checkpoint(FIXTURE)
    config = config_of(checkpoint.fields | {"use_pm_rope": 0}, "config.json")
    model = language_model(checkpoint.weights, config)
    assert together(model, [row(model, 3)], BEST)[0]
