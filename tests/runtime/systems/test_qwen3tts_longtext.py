"""Qwen3-TTS: long text, speech that does not end, and further tries."""

import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from voxport.systems.qwen3tts.lm import LanguageModel, Row
from voxport.systems.qwen3tts.speaker import Speaker

Array = np.ndarray
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def test_speech_that_runs_away_is_cut_and_said_so(custom: Speaker) -> None:
    guard: dict[str, Any] = {"runaway_seconds": 0.4, "runaway_seconds_per_letter": 0, "min_new_tokens": 99}
    for text in ("Hi", iter(["Hi", " you"])):
        speech = custom.say(text, **guard)
        speech.samples()
        assert len(speech.tokens) == 5
        assert speech.stopped == "runaway"
        assert "was cut after 6 tokens (runaway)" in speech.warnings[-1]
    ways: list[dict[str, Any]] = [{"greedy": True}, {"max_new_tokens": 12}]
    for free in (*ways, {"do_sample": False, "subtalker_dosample": "false"}):
        speech = custom.say("Hi", voice="ryan", **guard | {"min_new_tokens": 8} | free)
        speech.samples()
        assert len(speech.tokens) >= 8
        assert speech.stopped != "runaway"


def test_what_ran_away_is_said_again_unless_it_was_heard(custom: Speaker, monkeypatch: pytest.MonkeyPatch) -> None:
    draws: list[float] = []

    def generate(self: LanguageModel, rows: list[Row], rule: object, watch: object = None) -> Iterator[list[Array]]:
        (row,) = rows
        draws.append(float(row.draws(0)[0]))
        yield [np.full(16, len(draws))]
        row.stopped = "end" if len(draws) == 2 else "max_new_tokens"

    monkeypatch.setattr(LanguageModel, "generate", generate)
    for stream, count, stopped in ((False, 2, "end"), (True, 1, "runaway")):
        draws.clear()
        speech = custom.say("Hi", stream=stream)
        assert len(speech.samples()) == 1920
        assert len(set(draws)) == len(draws) == count
        assert speech.tokens.tolist() == [[count] * 16]
        assert speech.stopped == stopped
    draws[:] = [0.0, 0.0]  # it never ends
    speech = custom.say("Hi", stream=False, retries=1)
    speech.samples()
    assert len(draws) == 4
    assert speech.stopped == "runaway"


def test_a_long_text_is_said_sentence_by_sentence(custom: Speaker) -> None:
    book = "This sentence has exactly ten words, and then it ends. " * 500
    short: dict[str, Any] = {"runaway_seconds": 0.17, "runaway_seconds_per_letter": 0, "min_new_tokens": 9}
    speech = custom.say(book, voice="ryan", **short)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        samples = speech.samples()
    parts, pause = len(speech.tokens) // 2, 4800
    assert 60 < parts < 80  # of 400 letters
    assert len(samples) == parts * 2 * 1920 + (parts - 1) * pause
    assert not samples[2 * 1920 : 2 * 1920 + pause].any()
    assert "was cut after 3 tokens (runaway), in piece 2 of" in speech.warnings[1]
    with pytest.raises(ValueError, match=r"tokens of text and voice do not fit the context of 32768"):
        custom.say(book * 3, voice="ryan", max_new_tokens=9)
