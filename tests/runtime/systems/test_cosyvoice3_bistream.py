"""Text in pieces: blocks of text and speech in turn, whatever the pieces are; and upstream's way with what it differs.

The model is one that says what a test tells it, so that what went in can be read word by word.
"""

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.cosyvoice3_script import CONTROLS, EOS, FILL, SOS, SPEECH, TASK, Fed, Script, Scripted, best, hashed
from tests.cosyvoice3_script import speech as s
from tests.cosyvoice3_script import text as t

from voxport.speech import limits
from voxport.systems.cosyvoice3.bistream import Dialogue, generate
from voxport.systems.cosyvoice3.lm import Rule
from voxport.systems.cosyvoice3.ras import Ras

RIGHT, UPSTREAM = Rule(None), Rule(None, compatible=True)
INSTRUCTION = [90, 91, 92]
Pieces = list[list[int]]


def draws(address: int, size: int) -> np.ndarray:
    return np.random.default_rng(address).exponential(size=size).astype(np.float32)


def dialogue(pieces: Pieces, transcript: list[int], tokens: list[int], limit: int = 1000, least: float = 0) -> Dialogue:
    return Dialogue(INSTRUCTION, transcript, tokens, iter(pieces), least, 20, limit, draws)


def talk(script: Script, row: Dialogue, rule: Rule, mix: tuple[int, int] = (5, 15)) -> tuple[list[int], Scripted]:
    """(the tokens, the model with what went in)."""
    bundle = Scripted(script)
    return list(generate(bundle.model(mix), row, rule)), bundle


def cut(ids: list[int], sizes: list[int]) -> Pieces:
    """The ids in pieces of these sizes, then the rest."""
    pieces, start = [], 0
    for size in sizes:
        pieces.append(ids[start : start + size])
        start += size
    return [*pieces, ids[start:]]


def until(count: int) -> Script:
    """A model that says token 7 until the text has ended and `count` tokens were said in all, then ends."""
    return lambda fed: best(EOS if f"s{TASK}" in fed and list(fed).count("s7") >= count else 7)


def layout(text: list[int], tokens: list[int], mix: tuple[int, int]) -> list[str]:
    """What a model is trained on (llm/llm.py, prepare_lm_input_target): blocks while there is text for whole ones."""
    words, text_block, speech_block = s([SOS]) + t(INSTRUCTION), *mix
    while len(text) >= text_block:
        words += t(text[:text_block]) + s(tokens[:speech_block])
        text, tokens = text[text_block:], tokens[speech_block:]
    return words + t(text) + s([TASK]) + s(tokens)


TEXTS = st.integers(0, 24).map(lambda n: list(range(n)))
PROMPTS = st.integers(0, 40).map(lambda n: [1 + i % 6 for i in range(n)])
MIXES = st.sampled_from([(5, 15), (2, 3), (1, 1), (3, 1)])
SIZES = st.lists(st.integers(0, 9), max_size=8)


@settings(max_examples=150, deadline=None)
@given(transcript=TEXTS, text=TEXTS, tokens=PROMPTS, sizes=SIZES, mix=MIXES)
def test_what_goes_in_is_what_the_model_was_trained_on(
    transcript: list[int], text: list[int], tokens: list[int], sizes: list[int], mix: tuple[int, int]
) -> None:
    text = [30 + i for i in text]
    generated, bundle = talk(until(60), row := dialogue(cut(text, sizes), transcript, tokens), RIGHT, mix)
    assert bundle.fed == layout(transcript + text, tokens + generated, mix)[: len(bundle.fed)]
    in_blocks = max(0, (len(transcript) + len(text)) // mix[0] * mix[1] - len(tokens))
    assert generated == [7] * max(in_blocks, min(60, 20 * len(text)))
    assert row.stopped in (limits.END, limits.LIMIT)


@settings(max_examples=100, deadline=None)
@given(
    transcript=TEXTS, text=TEXTS, tokens=PROMPTS, sizes=SIZES, mix=MIXES, ends=st.sampled_from([-9.0, 0.0, 2.0, 9.0]),
    sampled=st.booleans(),
)  # fmt: skip
def test_however_the_text_is_cut_the_tokens_are_the_same(
    transcript: list[int],
    text: list[int],
    tokens: list[int],
    sizes: list[int],
    mix: tuple[int, int],
    ends: float,
    sampled: bool,
) -> None:
    """Of a model that says anything at any time: a `fill` too early, an end before the text ends, ids that are none."""
    rule = Rule(Ras(0.8, 25, 10, 0.1) if sampled else None)
    runs = []
    for pieces in ([text], cut(text, sizes), [[i] for i in text]):
        row = dialogue(pieces, transcript, tokens, limit=60, least=2)
        generated, bundle = talk(lambda fed: hashed(fed, ends), row, rule, mix)
        runs.append((generated, bundle.fed, row.stopped))
    assert runs[0] == runs[1] == runs[2]
    assert all(token < SPEECH for token in runs[0][0])


@settings(max_examples=60, deadline=None)
@given(text=st.integers(1, 24), tokens=PROMPTS, ends=st.sampled_from([0.0, 3.0]), seed=st.integers(0, 100))
def test_nothing_but_speech_comes_before_the_least_length(text: int, tokens: list[int], ends: float, seed: int) -> None:
    row = dialogue([list(range(text))], [40 + seed], tokens, least=2)
    generated, _ = talk(lambda fed: hashed(fed, ends), row, RIGHT)
    assert 2 * text <= len(generated) <= 20 * text


def test_speech_comes_as_soon_as_there_is_text_for_a_block() -> None:
    taken = []

    def pieces() -> Iterator[list[int]]:
        for i in range(40):
            taken.append(i)
            yield [i]

    row = Dialogue(INSTRUCTION, [], [], pieces(), 0, 20, 1000, draws)
    tokens = generate(Scripted(until(500)).model(), row, RIGHT)
    for block in range(1, 4):
        for _ in range(15):
            next(tokens)
            assert len(taken) == 5 * block


def test_an_early_fill_takes_the_next_text_and_is_not_fed() -> None:
    def script(fed: Fed) -> np.ndarray:
        return best(EOS if f"s{TASK}" in fed else FILL if list(fed).count("s7") == 4 else 7)

    generated, bundle = talk(script, dialogue([list(range(12))], [], []), RIGHT)
    assert generated == [7] * 4
    assert bundle.fed == s([SOS]) + t(INSTRUCTION) + t(range(5)) + s([7] * 4) + t(range(5, 12)) + s([TASK])


@pytest.mark.parametrize("token", [SPEECH, EOS, TASK, SPEECH + CONTROLS - 1])
def test_an_end_while_text_may_come_is_upstreams_error_and_barred_otherwise(token: int) -> None:
    def script(fed: Fed) -> np.ndarray:
        return best(EOS if f"s{TASK}" in fed else token) + 0.5 * best(7)

    row = dialogue([list(range(7))], [], [])
    assert talk(script, row, RIGHT)[0] == [7] * 15
    assert row.stopped == limits.END
    if token != SPEECH:  # the one that upstream bars
        with pytest.raises(ValueError, match=f"the model said {token} before the text ended"):
            talk(script, dialogue([list(range(7))], [], []), UPSTREAM)


def test_a_prompt_that_is_longer_than_the_text_is_heard_to_its_end() -> None:
    """Upstream forgets what it has not fed when the text ends."""
    tokens = [1, 2, 3] * 12
    for rule, rest in ((RIGHT, tokens[15:]), (UPSTREAM, [])):
        generated, bundle = talk(until(3), dialogue([[30, 31, 32]], list(range(5)), tokens), rule)
        words = s([SOS]) + t(INSTRUCTION) + t(range(5)) + s(tokens[:15]) + t([30, 31, 32]) + s([TASK]) + s(rest)
        assert bundle.calls[0] == words
        assert generated == [7, 7, 7]


def test_upstream_feeds_the_last_input_twice_when_the_text_ends() -> None:
    generated, bundle = talk(until(20), dialogue([list(range(5)), [5, 6]], [], []), UPSTREAM)
    ending = next(i for i, call in enumerate(bundle.calls) if f"s{TASK}" in call)
    assert bundle.calls[ending - 1 : ending + 1] == [s([7]), s([7]) + t([5, 6]) + s([TASK])]
    assert bundle.fed.count("s7") == len(generated) + 1 == 31
    _, right = talk(until(20), dialogue([list(range(5)), [5, 6]], [], []), RIGHT)
    assert right.fed.count("s7") == 20


def test_upstreams_first_speech_does_not_wait_for_text() -> None:
    """Without a prompt, and after one of whole blocks, whose next token the model would have to say on no text."""
    begin = s([SOS]) + t(INSTRUCTION)
    for transcript, tokens in (([], []), (list(range(5)), 15 * [1])):
        block = t(transcript) + s(tokens)
        _, upstream = talk(until(40), dialogue([[20], [21]], transcript, tokens), UPSTREAM)
        assert upstream.calls[:2] == [begin + block, s([7])]
        _, right = talk(until(40), dialogue([[20], [21]], transcript, tokens), RIGHT)
        assert right.calls[0] == begin + block + t([20, 21]) + s([TASK])


@pytest.mark.parametrize("rule", [RIGHT, UPSTREAM])
def test_a_model_that_never_ends_is_cut(rule: Rule) -> None:
    row = dialogue([list(range(12))], [], [], limit=77)
    assert talk(lambda _: best(7), row, rule)[0] == [7] * 77
    assert row.stopped == limits.LIMIT


@pytest.mark.parametrize("rule", [RIGHT, UPSTREAM])
def test_a_full_context_is_the_end(rule: Rule) -> None:
    bundle, row = Scripted(lambda _: best(7)), dialogue([list(range(12))], [], [])
    tokens = list(generate(bundle.model(context=50), row, rule))
    assert row.stopped == limits.CONTEXT
    assert len(bundle.fed) == 50
    assert 20 < len(tokens) < 50


def test_the_ratio_limits_speech_once_the_text_has_ended() -> None:
    row = dialogue([list(range(3))], [], [])
    assert talk(lambda _: best(7), row, RIGHT)[0] == [7] * 60
    assert row.stopped == limits.LIMIT
