"""Generations of T5Gemma-TTS: their rows, draws and limits, and the events of one, or of several that go on together.

Rows that go through the decoder together share one pass over its weights per step, which costs little more than one
row's; every row is what it would be alone.
"""

import math
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from threading import Lock

from voxport import draws
from voxport.speech.limits import END, LIMIT, RUNAWAY, Limit
from voxport.speech.longtext import Piece, address
from voxport.speech.speech import Ended, Events, Token, Warned
from voxport.systems.t5gemma.lm import NOTHING, LanguageModel, Memory, Row
from voxport.systems.t5gemma.prompt import Prompt
from voxport.systems.t5gemma.request import Request
from voxport.systems.t5gemma.rules import Rule, first_end
from voxport.systems.t5gemma.section import Section

CLOSED = "closed"  # nobody listens any more


@dataclass(frozen=True)
class Generation:
    """One try of a piece of text. `codes`: audio ids below it are codes."""

    row: Row
    limit: Limit
    request: Request
    piece: Piece
    codes: int

    def events(self, tokens: Iterable[int]) -> Events:
        """Its tokens as events, up to its end or its limit. Special ids are left out: no codec has them."""
        for token in tokens:
            if token < self.codes:
                yield Token(token)
        if self.row.stopped == END:
            yield Ended(END)
            return
        yield Ended(self.limit.why)
        if self.limit.why != LIMIT or not self.request.limited:
            yield Warned(self.piece.cut(self.limit))


class Generator:
    """Makes generations and runs them. Any number of threads may use it."""

    def __init__(self, model: LanguageModel, section: Section) -> None:
        self.model, self._section = model, section

    def generation(
        self, prompt: Prompt, request: Request, piece: Piece, attempt: int = 0, memory: Memory | None = None
    ) -> Generation:
        """One try of a piece. Its draws are those of the request's seed, the piece's index and the attempt.

        `memory`: the text of the prompt where it was read before: several samples of a text share one, and then their
        prompt is computed once, too.
        """
        section, settings = self._section, request.settings
        limit = self.limit(prompt, request)
        stream = address("t5gemma.tokens", piece.index, attempt)
        row = Row(
            memory or self.model.encode(prompt.text),
            prompt.audio,
            prompt.expected,
            max(first_end(section.frame_rate), int(settings["min_new_tokens"])),
            limit.tokens,
            lambda step, ids: draws.exponentials_at(request.seed, stream, step, ids),
        )
        return Generation(row, limit, request, piece, section.codes)

    def limit(self, prompt: Prompt, request: Request) -> Limit:
        """How many tokens may follow a prompt: what the caller allows, what its expected length and `extra_cutoff`
        leave, and what the model's guard allows a text of its length."""
        section, settings = self._section, request.settings
        rate = int(section.frame_rate)
        left = prompt.target_total - (prompt.frames + 1) + rate * float(settings["extra_cutoff"])
        limits = [
            Limit(int(settings["max_new_tokens"]), LIMIT),
            Limit(max(0, math.floor(left) + 1), RUNAWAY),  # upstream forces the end when more than `left` were made
        ]
        if section.guard:
            limits.append(Limit(len(prompt.text) * section.guard + 1, RUNAWAY))
        return min(limits)

    def run(self, generation: Generation, rule: Rule) -> Events:
        """The events of one generation, made while they are iterated."""
        (events,) = self.together([generation], rule)
        return events

    def together(self, generations: Sequence[Generation], rule: Rule) -> list[Events]:
        """The events of several generations, in their order.

        Whoever iterates any of them takes all of them further; the others' tokens wait until they are iterated, in this
        or in other threads. Closing one ends its row alone.
        """
        pump = _Pump(self.model, generations, rule)
        return [pump.events(i) for i in range(len(generations))]


class _Pump:
    """Steps of several rows, taken when one of them has no token left."""

    def __init__(self, model: LanguageModel, generations: Sequence[Generation], rule: Rule) -> None:
        self._generations = generations
        self._steps = model.generate([generation.row for generation in generations], rule)
        self._waiting: list[deque[int]] = [deque() for _ in generations]
        self._lock = Lock()

    def events(self, i: int) -> Events:
        generation = self._generations[i]
        try:
            yield from generation.events(self._tokens(i))
        finally:
            generation.row.stopped = generation.row.stopped or CLOSED

    def _tokens(self, i: int) -> Iterator[int]:
        row, waiting = self._generations[i].row, self._waiting[i]
        while True:
            with self._lock:
                if not waiting and (row.stopped or not self._advance()):
                    break
                token = waiting.popleft() if waiting else NOTHING
            if token != NOTHING:
                yield token
        if not row.stopped:
            raise RuntimeError("the generations that went on together with this one met an error")

    def _advance(self) -> bool:
        """One more step; False when all rows have stopped."""
        tokens = next(self._steps, None)
        if tokens is None:
            return False
        for waiting, token in zip(self._waiting, tokens.tolist(), strict=True):
            if token != NOTHING:
                waiting.append(token)
        return True
