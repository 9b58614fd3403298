"""VyvoTTS: long text, speech that does not end, and further tries."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.runtime.test_bundle import edited

from voxport.bundle import Bundle
from voxport.systems.vyvo.lm import LanguageModel
from voxport.systems.vyvo.speaker import Speaker

Array = np.ndarray
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def test_what_does_not_end_is_cut_kept_and_said(vyvo: Speaker) -> None:
    speech = vyvo.say("Hm.", seed=0, min_audio_frames=10**6)
    samples = speech.samples()
    assert speech.stopped == "runaway"
    assert "did not end" in speech.warnings[-1]
    assert len(samples) == int((3.0 + 0.25 * 3) * 24000 / 2048) * 2048
    assert samples[-1] == 0  # faded like any other end
    others: tuple[dict[str, Any], ...] = ({"greedy": True}, {"max_new_tokens": 1100})
    for options in others:
        free = vyvo.say("Hm.", min_audio_frames=10**6, **options)
        free.samples()
        assert len(free.tokens) == options.get("max_new_tokens", 1200)
        assert free.stopped == "max_new_tokens"


def test_long_text_is_said_in_pieces_unless_upstreams_limit_is_asked_for(vyvo: Speaker) -> None:
    text = "This is a sentence of some length. " * 3
    speech = vyvo.say(text, seed=5, split_letters=40)
    speech.samples()
    assert np.count_nonzero(speech.tokens == 405) == 3
    others: tuple[dict[str, Any], ...] = ({"greedy": True}, {"max_new_tokens": 30}, {"split_letters": 0})
    for options in others:
        whole = vyvo.say(text, seed=5, **{"split_letters": 40, **options})
        whole.samples()
        assert np.count_nonzero(whole.tokens == 405) == 1


def fixed(monkeypatch: pytest.MonkeyPatch, *generations: Array) -> list[float | None]:
    """The model makes these ids, call by call, the last ones for ever. Returns the first draw of each call."""
    draws: list[float | None] = []

    def generate(_: object, prompts: object, limits: list[int], sampling: object, grammar: object, u: Any) -> Any:
        ids = generations[min(len(draws), len(generations) - 1)]
        draws.append(None if u is None else float(u[0, 0]))
        return (np.array([i]) for i in ids[: limits[0]])

    monkeypatch.setattr(LanguageModel, "generate", generate)
    return draws


def test_pieces_have_pauses_between_them_and_draws_and_noise_of_their_own(
    vyvo: Speaker, vyvo_golden: dict[str, Array], monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = vyvo_golden["greedy.tokens"][0]
    draws = fixed(monkeypatch, ids)
    text, pause, piece = "The very same sentence. " * 2, 12000, 20480

    def parts(**options: Any) -> tuple[Array, Array]:
        samples = vyvo.say(text, seed=5, split_letters=30, split_pause=0.5, **options).samples()
        assert len(samples) == 2 * piece + pause
        assert not samples[piece : piece + pause].any()
        return samples[:piece], samples[piece + pause :]

    first, second = parts()
    assert len(set(draws)) == 2
    assert np.array_equal(first, vyvo.say("The very same sentence.", seed=5).samples())  # piece 0 is what it was
    assert not np.array_equal(first, second)
    first, second = parts(noise=False)
    assert np.array_equal(first, second)
    assert len(vyvo.say(text, seed=5, split_letters=30, split_pause=0).samples()) == 2 * piece


def test_what_ran_away_is_said_again_unless_it_was_heard(
    vyvo: Speaker, vyvo_golden: dict[str, Array], monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = vyvo_golden["greedy.tokens"][0]
    endless = np.concatenate((ended[:2], np.tile(ended[2:9], 400)))
    for stream, stopped, calls in ((False, "end", 2), (True, "runaway", 1)):
        draws = fixed(monkeypatch, endless, ended)
        speech = vyvo.say("Hm.", stream=stream)
        assert len(speech.samples()) == (20480 if stopped == "end" else int(3.75 * 24000 / 2048) * 2048)
        assert speech.stopped == stopped
        assert bool(speech.warnings) == stream  # of a try that nobody heard nothing is said
        assert len(set(draws)) == len(draws) == calls
    draws = fixed(monkeypatch, endless)
    assert vyvo.say("Hm.", stream=False, retries=3).samples().size
    assert len(set(draws)) == 4
    others: tuple[dict[str, Any], ...] = ({"greedy": True}, {"max_new_tokens": 50})
    for options in others:
        draws = fixed(monkeypatch, endless)
        vyvo.say("Hm.", stream=False, **options).samples()
        assert len(draws) == 1


def test_a_book_is_split_before_it_is_measured_against_the_context(
    vyvo_copy: Path, vyvo_golden: dict[str, Array], monkeypatch: pytest.MonkeyPatch
) -> None:
    edited(vyvo_copy, lambda manifest: manifest["section"].update(context=150))
    speaker, book = Speaker(Bundle(vyvo_copy), threads=1), "This is a sentence of some length. " * 60
    fixed(monkeypatch, vyvo_golden["greedy.tokens"][0])
    speech = speaker.say(book, split_letters=40)
    speech.samples()
    assert np.count_nonzero(speech.tokens == 405) == 60
    whole: list[dict[str, Any]] = [{"greedy": True}, {"max_new_tokens": 20}, {"split_letters": 0}]
    for options in (*whole, {"split_letters": 2000}):
        with pytest.raises(ValueError, match="tokens of text and voice do not fit the context of 150"):
            speaker.say(book, **options)


def test_white_space_is_no_text_however_much_there_is(vyvo: Speaker) -> None:
    with pytest.raises(ValueError, match="the text is empty"):
        vyvo.say(" " * 999)


def test_a_warning_names_the_piece_that_was_cut(vyvo: Speaker) -> None:
    guard: dict[str, Any] = {"runaway_seconds": 0.2, "runaway_seconds_per_letter": 0, "min_audio_frames": 99}
    speech = vyvo.say("The first sentence. Number two is this.", split_letters=25, **guard)
    speech.samples()
    cut = "the model did not end: its speech was cut after 16 tokens (runaway), in piece"
    assert speech.warnings == [f"{cut} 1 of 2, 'The first sentence.'", f"{cut} 2 of 2, 'Number two is this.'"]
