"""T5Gemma-TTS's generations: limits, draws, and events of several that go on together, as each would alone."""

import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.t5gemma_nets import FIXTURE, language_model, section

from voxport.speech import limits
from voxport.speech.limits import Limit
from voxport.speech.longtext import Piece
from voxport.speech.speech import Ended, Event, Events, Speech, Token, Warned
from voxport.systems.t5gemma.generation import Generation, Generator
from voxport.systems.t5gemma.prompt import Prompt
from voxport.systems.t5gemma.request import Request, request
from voxport.systems.t5gemma.rules import Rule
from voxport_exporters.systems.t5gemma.checkpoint import open_checkpoint

EMPTY, EOS = 256, 259
STORED = {"extra_cutoff": 0.2}
DRAWN = Rule(EOS, temperature=3.0)


@pytest.fixture(scope="module")
def generator() -> Generator:
    checkpoint = open_checkpoint(FIXTURE)
    return Generator(language_model(checkpoint.weights, checkpoint.config), section(checkpoint.config))


def prompt(seed: int = 0, target: int = 12, codes: int = 0) -> Prompt:
    rng = np.random.default_rng(seed)
    audio = np.array([EMPTY, *rng.integers(0, 256, codes)])
    return Prompt(rng.integers(3, 500, 4 + seed).tolist(), audio, codes + target)


def plan(seed: int = 0, greedy: bool = False, **options: Any) -> Request:
    return request(STORED, options, seed, greedy, stream=True)


def tokens(events: Sequence[Event]) -> list[int]:
    return [int(event.value) for event in events if isinstance(event, Token)]


@pytest.mark.parametrize(
    ("changes", "options", "expected"),
    [
        ({}, {}, Limit(40 - 4 + 10 + 1, limits.RUNAWAY)),  # 40 expected, 3 frames and empty before, 0.2 s beyond
        ({}, {"extra_cutoff": 0.21}, Limit(47, limits.RUNAWAY)),  # 46.5 may be made before one more is the last
        ({}, {"extra_cutoff": 0}, Limit(37, limits.RUNAWAY)),
        ({}, {"max_new_tokens": 5}, Limit(5, limits.LIMIT)),
        ({"guard": 3}, {}, Limit(3 * 4 + 1, limits.RUNAWAY)),
        ({"frame_rate": 25.9}, {}, Limit(40 - 4 + 5 + 1, limits.RUNAWAY)),  # upstream counts whole frames a second
    ],
)
def test_limits(changes: dict[str, Any], options: dict[str, Any], expected: Limit, generator: Generator) -> None:
    limited = Generator(generator.model, section(**changes))
    assert limited.limit(prompt(target=37, codes=3), plan(**options)) == expected


def test_a_prompt_longer_than_what_is_expected_says_nothing(generator: Generator) -> None:
    long = replace(prompt(codes=30), target_total=10)
    generation = generator.generation(long, plan(extra_cutoff=0), Piece("a"))
    assert next(generator.run(generation, DRAWN)) == Ended(limits.RUNAWAY)


@pytest.mark.parametrize(("rate", "least"), [(50.0, 11), (25.0, 6), (24.0, 5), (4.0, 1)])
def test_nothing_ends_within_a_fifth_of_a_second(rate: float, least: int, generator: Generator) -> None:
    slow = Generator(generator.model, section(frame_rate=rate))
    assert slow.generation(prompt(), plan(), Piece("a")).row.least == least
    assert slow.generation(prompt(), plan(min_new_tokens=20), Piece("a")).row.least == 20


def test_special_ids_are_no_codes(generator: Generator) -> None:
    """Upstream takes y_sep out of what it decodes, and stumbles over the others."""
    generation = generator.generation(prompt(), plan(), Piece("a"))
    generation.row.stopped = limits.END
    assert list(generation.events([3, 260, 0, 256, 257, 258, 255])) == [
        *(Token(code) for code in (3, 0, 255)),
        Ended(limits.END),
    ]


def test_a_speech_that_is_cut_says_so_unless_it_was_asked_for(generator: Generator) -> None:
    def end(**options: Any) -> list[Event]:
        generation = generator.generation(prompt(), plan(min_new_tokens=99, **options), Piece("a"))
        return [e for e in generator.run(generation, DRAWN) if not isinstance(e, Token)]

    assert end(max_new_tokens=4) == [Ended(limits.LIMIT)]
    cut, warned = end()
    assert cut == Ended(limits.RUNAWAY)
    assert isinstance(warned, Warned)
    assert "was cut after 22 tokens (runaway)" in warned.text


def several(generator: Generator) -> list[Generation]:
    """Pieces of several lengths, each with draws of its own."""
    plans = [plan(seed=5, extra_cutoff=cutoff) for cutoff in (0.0, 0.3, 0.1, 0.5)]
    return [generator.generation(prompt(i, codes=i), request, Piece("a", i, 4)) for i, request in enumerate(plans)]


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(order=st.lists(st.integers(0, 3), max_size=60))
def test_together_is_alone_however_it_is_iterated(generator: Generator, order: list[int]) -> None:
    alone = [list(generator.run(generation, DRAWN)) for generation in several(generator)]
    iterators: list[Events] = generator.together(several(generator), DRAWN)
    got: list[list[Event]] = [[] for _ in iterators]
    for i in [*order, *(i for i in range(4) for _ in range(99))]:
        event = next(iterators[i], None)
        got[i] += [event] if event is not None else []
    assert got == alone
    assert len({len(tokens(events)) for events in alone}) > 1


def test_together_in_threads_is_alone(generator: Generator) -> None:
    alone = [list(generator.run(generation, DRAWN)) for generation in several(generator)]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(list, generator.together(several(generator), DRAWN))) == alone


def test_samples_of_a_text_are_those_of_their_seeds(generator: Generator) -> None:
    one = prompt(3)
    memory = generator.model.encode(one.text)
    samples = [generator.generation(one, plan(seed), Piece("a"), memory=memory) for seed in range(3)]
    got = [tokens(list(events)) for events in generator.together(samples, DRAWN)]
    assert got == [
        tokens(list(generator.run(generator.generation(one, plan(seed), Piece("a")), DRAWN))) for seed in range(3)
    ]
    assert len({tuple(sample) for sample in got}) == 3
    again = generator.generation(one, plan(0), Piece("a"), attempt=1, memory=memory)
    assert tokens(list(generator.run(again, DRAWN))) != got[0]


def test_closing_one_leaves_the_others(generator: Generator) -> None:
    alone = [list(generator.run(generation, DRAWN)) for generation in several(generator)]
    generations = several(generator)
    iterators = generator.together(generations, DRAWN)
    next(iterators[1])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        Speech(16000, iterators[1]).close()
        assert [list(iterators[i]) for i in (0, 2, 3)] == [alone[i] for i in (0, 2, 3)]
    assert generations[1].row.stopped == "closed"
    assert list(iterators[1]) == []


def test_an_error_reaches_everybody(generator: Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = generator.together(several(generator)[:2], DRAWN)
    next(first)
    monkeypatch.setattr(generator.model, "_step", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        list(first)
    assert isinstance(next(second), Token)  # it was made before
    with pytest.raises(RuntimeError, match="met an error"):
        list(second)
