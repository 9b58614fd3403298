"""Speech: what one call of `say` returns. A system yields events; Speech makes chunks and a record of them."""

import threading
import warnings
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self, assert_never

import numpy as np

from voxport.graphs.session import Array
from voxport.speech.limits import END

SENTENCE = (  # what benchmarks say: 20 words
    "The quick brown fox jumps over the lazy dog while seven wizards watch quietly from the old stone bridge above."
)


@dataclass(frozen=True)
class Chunk:
    """A piece of speech: float32 [n] in [-1, 1] at `sample_rate` Hz."""

    samples: Array
    sample_rate: int


@dataclass(frozen=True)
class Token:
    """One more generated id, or frame of codes int64 [books]."""

    value: int | Array


@dataclass(frozen=True)
class Samples:
    """More audio, float32 [n]. None (n = 0) means that work goes on; it lets a listener stop in between."""

    samples: Array


@dataclass(frozen=True)
class Ended:
    """A generation stopped: why, by the names in limits.py."""

    why: str


@dataclass(frozen=True)
class Warned:
    """Something that the caller should read."""

    text: str


Event = Token | Samples | Ended | Warned
Events = Generator[Event, None, None]


class Player(Protocol):
    """Turns the tokens of one generation into audio: float32 [n], maybe none, for each."""

    def feed(self, token: Array, /) -> Array:
        """The next token or frame of codes -> the samples that it settles."""

    def flush(self) -> Array:
        """The samples still owed."""


def synthesize(events: Events, player: Player) -> Events:
    """The events of one generation, with its audio."""
    for event in events:
        yield event
        if isinstance(event, Token):
            yield Samples(player.feed(np.asarray(event.value)))
    yield Samples(player.flush())


class Speech:
    """One call of `say`: iterate for chunks, made while you listen. `tokens`, `stopped` and `warnings` grow with it.

    `stopped`: "end" when the model ended by itself, "max_new_tokens", "runaway" or "context" when it was cut there, ""
    before that, and for good when the Speech was closed. Of several pieces, one that was cut counts.

        with voice.say("Hello.") as speech:
            for chunk in speech:
                ...                            # leaving the block stops the work
    """

    def __init__(
        self, sample_rate: int, events: Events, token: tuple[int, ...] = (), known_warnings: Sequence[str] = ()
    ) -> None:
        """`events`: from the system; `token`: shape of what it generates; `known_warnings`: before it begins."""
        self.sample_rate = sample_rate
        self.stopped = ""
        self.warnings: list[str] = []
        self._tokens: list[int | Array] = []
        self._token = token
        self._events = events
        self._closed = False
        self._running = threading.Lock()  # held while the system works
        for text in known_warnings:
            self._warn(text, depth=5)  # past a system's helper and its `say`

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Chunk:
        with self._running:
            while not self._closed:
                samples = self._fold(next(self._events))
                if len(samples):
                    return Chunk(samples, self.sample_rate)
            self._events.close()
        raise StopIteration

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Stops the work: no further step of the model runs, and iteration ends.

        From another thread than the one that iterates, at the latest after the step that is running.
        """
        self._closed = True
        if self._running.acquire(blocking=False):  # else whoever iterates closes it
            try:
                self._events.close()
            finally:
                self._running.release()

    def samples(self) -> Array:
        """All that is still to come, as one float32 [n]."""
        return np.concatenate([np.empty(0, np.float32), *(chunk.samples for chunk in self)])

    @property
    def tokens(self) -> Array:
        """The ids, or frames of codes, generated so far: int64 [n] or [n, books]; of a long text all its pieces."""
        return np.array(self._tokens, np.int64).reshape(-1, *self._token)

    def _fold(self, event: Event) -> Array:
        """Records an event. Returns its samples, float32 [n], none for most events."""
        match event:
            case Samples(samples):
                return samples
            case Token(value):
                self._tokens.append(value)
            case Ended(why):
                self.stopped = why if self.stopped in ("", END) else self.stopped
            case Warned(text):
                self._warn(text)
            case _:
                assert_never(event)
        return np.empty(0, np.float32)

    def _warn(self, text: str, depth: int = 4) -> None:
        """Keeps the text, and shows it as a Python warning where `say` was called, or the Speech was iterated."""
        self.warnings.append(text)
        warnings.warn(text, stacklevel=depth)
