"""A Speech as a fold over events, and what closing it stops."""

import threading
from collections.abc import Iterator

import numpy as np
import pytest

from voxport.speech.speech import Ended, Event, Events, Samples, Speech, Token, Warned

RATE = 8000


def of(*events: Event) -> Events:
    yield from events


def sound(n: int, value: float = 0.5) -> Samples:
    return Samples(np.full(n, value, np.float32))


def test_events_become_chunks_tokens_a_reason_and_warnings() -> None:
    speech = Speech(RATE, of(Token(7), sound(3), Token(8), Warned("careful"), Ended("runaway"), sound(2)))
    assert len(next(speech).samples) == 3
    assert speech.tokens.tolist() == [7]
    assert speech.stopped == ""
    with pytest.warns(UserWarning, match="careful"):
        rest = list(speech)
    assert [(len(chunk.samples), chunk.sample_rate) for chunk in rest] == [(2, RATE)]
    assert speech.tokens.tolist() == [7, 8]
    assert speech.stopped == "runaway"
    assert speech.warnings == ["careful"]


def test_chunks_are_never_empty() -> None:
    assert [len(chunk.samples) for chunk in Speech(RATE, of(sound(0), sound(2), sound(0)))] == [2]
    assert Speech(RATE, of()).samples().shape == (0,)


def test_of_several_generations_one_that_was_cut_counts() -> None:
    speech = Speech(RATE, of(Ended("end"), Ended("context"), Ended("runaway"), Ended("end")))
    speech.samples()
    assert speech.stopped == "context"


def test_frames_of_codes_keep_their_shape() -> None:
    speech = Speech(RATE, of(Token(np.arange(4)), Token(np.arange(4))), (4,))
    assert speech.tokens.shape == (0, 4)
    speech.samples()
    assert speech.tokens.shape == (2, 4)


def test_what_is_known_before_is_warned_of_at_once() -> None:
    with pytest.warns(UserWarning, match="no such voice"):
        speech = Speech(RATE, of(), known_warnings=["no such voice"])
    assert speech.warnings == ["no such voice"]


# --------------------------------------------------------------------------------------------------------- closing


class Work:
    """A model: counts its steps, and says whether it was told to stop."""

    def __init__(self) -> None:
        self.steps, self.ended = 0, False

    def events(self) -> Iterator[Event]:
        try:
            while True:
                self.steps += 1
                yield Token(self.steps)
                yield sound(1)
        finally:
            self.ended = True


def opened(work: Work) -> Speech:
    def events() -> Events:
        yield from work.events()

    return Speech(RATE, events())


def test_after_close_no_step_runs_and_iteration_ends() -> None:
    work = Work()
    speech = opened(work)
    next(speech)
    speech.close()
    assert work.ended
    assert list(speech) == []
    assert work.steps == 1
    speech.close()  # again is fine
    assert speech.tokens.tolist() == [1]
    assert speech.stopped == ""


def test_leaving_the_with_block_closes_also_after_an_error() -> None:
    work = Work()

    def fail() -> None:
        with opened(work) as speech:
            for _ in speech:
                raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert work.ended
    assert work.steps == 1


def test_a_speech_that_was_never_begun_does_no_work_after_close() -> None:
    work = Work()
    speech = opened(work)
    speech.close()
    assert list(speech) == []
    assert work.steps == 0


def test_another_thread_may_close_while_a_step_runs() -> None:
    inside, go_on = threading.Event(), threading.Event()

    def events() -> Events:
        yield sound(1)
        inside.set()
        assert go_on.wait(30)
        yield Token(1)
        raise AssertionError("a further step ran")

    speech = Speech(RATE, events())
    chunks: list[int] = []
    listener = threading.Thread(target=lambda: chunks.extend(len(chunk.samples) for chunk in speech))
    listener.start()
    assert inside.wait(30)
    speech.close()  # does not wait for the step
    go_on.set()
    listener.join(30)
    assert not listener.is_alive()
    assert chunks == [1]
