"""A language model that speaks: the graph `lm`, its heads, and the loop that makes tokens from them.

`lm` gives the hidden state of the last token. `head.<p>` turns it into the logits of the ids that a Grammar allows at
place p of a frame: its codes in order, then the end. `head` gives all logits, for generation without a grammar.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from voxport.bundle import Bundle
from voxport.graphs.session import Array, Session
from voxport.speech.rows import Rows, Stopwatch
from voxport.speech.sampler import Sampling
from voxport.speech.text import left_padded


@dataclass(frozen=True)
class Grammar:
    """What may be generated: `forced` ids, then frames of one code per place, and the end between frames."""

    forced: tuple[int, ...]
    starts: tuple[int, ...]  # per place of a frame: id of its code 0
    size: int  # codes per place
    least: int  # frames that must come before the end

    def place(self, step: int) -> tuple[int, bool]:
        """(place in the frame, may it end here) of the id at `step`, forced ones counted."""
        frame, place = divmod(step - len(self.forced), len(self.starts))
        return place, place == 0 and frame >= self.least


class LanguageModel:
    """`generate` makes tokens; `clock` times its steps (without prefill)."""

    def __init__(self, bundle: Bundle, threads: int, end: int, pad: int) -> None:
        """`end`: the id that ends a row; `pad`: what a shorter prompt is padded with, on the left."""
        self._bundle, self._threads, self._end, self._pad = bundle, threads, end, pad
        self._lm = bundle.session("lm", threads)
        # `head` is as large as the vocabulary, and loaded when somebody generates without a grammar
        names = [name for name in bundle.manifest.stages if name.startswith("head.")]
        self._heads = {name: bundle.session(name, threads) for name in names}
        self.clock = Stopwatch()

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        limits: Sequence[int],
        sampling: Sampling,
        grammar: Grammar | None,
        u: Array | None,
    ) -> Iterator[Array]:
        """The next id of every row, int64 [rows], until each row has met the end or its limit; after that the pad.

        `limits`: ids per row, forced ones counted; `u` float32 [rows, steps]: a draw for each id, forced ones counted;
        None: the best id each time. Forced ids are not computed: they go through the model with the prompt.
        """
        forced = np.array(grammar.forced if grammar else (), np.int64)
        ids, pads = left_padded(prompts, self._pad)
        rows = Rows(self._lm, pads, ids.shape[1] + max(limits))
        start = np.concatenate((ids, np.tile(forced, (len(prompts), 1))), axis=1)
        said = np.zeros((len(prompts), self._width(grammar)), bool)  # by id; all that a penalty can meet
        _note(said, start)
        goes_on = np.ones(len(prompts), bool)
        for step, token in enumerate(forced[: max(limits)]):
            yield np.where(goes_on, token, self._pad)
            goes_on &= step + 1 < np.array(limits)
        if not goes_on.any():
            return
        hidden = rows.feed("tokens", start)["hidden"]
        for step in range(len(forced), max(limits)):
            with self.clock:
                tokens = self._choose(hidden, said, goes_on, sampling, grammar, step, None if u is None else u[:, step])
                self.clock.steps += 1
            yield tokens
            goes_on &= (tokens != self._end) & (step + 1 < np.array(limits))
            if not goes_on.any():
                return
            with self.clock:
                _note(said, tokens[:, None])
                hidden = rows.feed("tokens", tokens[:, None])["hidden"]

    def read(self, prompt: Sequence[int], given: Sequence[int]) -> Iterator[Array]:
        """Hidden float32 [1, width] after the prompt, then after each of the given ids but the last."""
        rows = Rows(self._lm, np.zeros(1, np.int64), len(prompt) + len(given))
        for ids in (prompt, *([token] for token in given[:-1])):
            yield rows.feed("tokens", np.array([ids], np.int64))["hidden"]

    def logits(self, head: str, hidden: Array) -> Array:
        """hidden [rows, width] -> float32 [rows, ids of the head]."""
        session = self._head(head)
        return session(session.start(), into=None, hidden=hidden)[0]["logits"]

    def allowed(self, hidden: Array, grammar: Grammar | None, step: int) -> tuple[Array, Array]:
        """hidden [rows, width] -> ids int64 [n] that may come at `step`, ascending; their logits float32 [rows, n]."""
        if grammar is None:
            logits = self.logits("head", hidden)
            return np.arange(logits.shape[1]), logits
        place, may_end = grammar.place(step)
        ids, logits = grammar.starts[place] + np.arange(grammar.size), self.logits(f"head.{place}", hidden)
        if not may_end:
            return ids, logits[:, : grammar.size]
        # draws go by ascending id, and the end has the lowest
        return np.append(self._end, ids), np.roll(logits, 1, axis=1)

    def _choose(
        self,
        hidden: Array,
        said: Array,
        goes_on: Array,
        sampling: Sampling,
        grammar: Grammar | None,
        step: int,
        u: Array | None,
    ) -> Array:
        tokens = np.full(len(hidden), self._pad, np.int64)
        ids, logits = self.allowed(hidden, grammar, step)
        for i in np.flatnonzero(goes_on):
            tokens[i] = ids[sampling.choose(logits[i], said[i, ids], None if u is None else float(u[i]))]
        return tokens

    def _head(self, name: str) -> Session:
        if name not in self._heads:
            self._heads[name] = self._bundle.session(name, self._threads)
        return self._heads[name]

    @property
    def vocabulary(self) -> int:
        """How many ids there are."""
        return int(self._head("head").stage.outputs[0].shape[1])

    def _width(self, grammar: Grammar | None) -> int:
        if grammar is None:
            return self.vocabulary
        return max(self._end + 1, *(start + grammar.size for start in grammar.starts))


def _note(said: Array, tokens: Array) -> None:
    for row, ids in zip(said, tokens, strict=True):
        row[ids[ids < said.shape[1]]] = True
