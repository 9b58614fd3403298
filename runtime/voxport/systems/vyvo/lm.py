"""A language model that speaks: the graph `lm`, its heads, and the loop that makes tokens from them.

`lm` gives the hidden state of the last token. `head.<p>` turns it into the logits of the ids that a Grammar allows at
place p of a frame: its codes in order, then the end. `head` gives all logits, for generation without a grammar.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from threading import Lock

import numpy as np

from voxport.bundle import Bundle
from voxport.graphs.session import Array, Session
from voxport.speech.rows import Rows, Stopwatch
from voxport.speech.sampler import Sampling


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
    """Prompts to tokens. Several threads may use one at once; `clock` times the steps of all (without prefill)."""

    def __init__(self, bundle: Bundle, threads: int, end: int, pad: int) -> None:
        """`end`: the id that ends a row; `pad`: what a row yields after its end."""
        self._bundle, self._threads, self._end, self._pad = bundle, threads, end, pad
        self._lm = bundle.session("lm", threads)
        # `head` is as large as the vocabulary, and loaded when somebody generates without a grammar
        names = [name for name in bundle.manifest.stages if name.startswith("head.")]
        self._heads = {name: bundle.session(name, threads) for name in names}
        self._lock = Lock()
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
        forced = list(grammar.forced if grammar else ())
        starts = [np.array([*prompt, *forced], np.int64) for prompt in prompts]
        room = [len(start) + max(limit - len(forced), 0) for start, limit in zip(starts, limits, strict=True)]
        rows = Rows(self._lm, len(prompts), max(room))
        history = np.zeros((len(prompts), self._width(grammar)), bool)  # the ids of each row that a penalty can meet
        for row, start in enumerate(starts):
            _add(history[row], start)
        active = np.ones(len(prompts), bool)
        for step, token in enumerate(forced[: max(limits)]):
            yield np.where(active, token, self._pad)
            active &= step + 1 < np.array(limits)
        if not active.any():
            return
        hidden = rows.begin(tokens=starts)["hidden"]
        for step in range(len(forced), max(limits)):
            with self.clock.timing(steps=1):
                draws = None if u is None else u[:, step]
                tokens = self._choose(hidden, history, active, sampling, grammar, step, draws)
            yield tokens
            active &= (tokens != self._end) & (step + 1 < np.array(limits))
            if not active.any():
                return
            with self.clock.timing():
                for row in range(len(prompts)):
                    if active[row]:
                        _add(history[row], tokens[row : row + 1])
                    else:
                        rows.stop(row)
                hidden = rows.step(tokens=tokens)["hidden"]

    def read(self, prompt: Sequence[int], tokens: Sequence[int]) -> Iterator[Array]:
        """Hidden float32 [1, width] after the prompt, then after each of the tokens but the last."""
        rows = Rows(self._lm, 1, len(prompt) + len(tokens))
        yield rows.prefill(0, tokens=np.array(prompt, np.int64))["hidden"]
        for token in tokens[:-1]:
            yield rows.step(tokens=np.array([token], np.int64))["hidden"]

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
        history: Array,
        active: Array,
        sampling: Sampling,
        grammar: Grammar | None,
        step: int,
        draws: Array | None,
    ) -> Array:
        tokens = np.full(len(hidden), self._pad, np.int64)
        ids, logits = self.allowed(hidden, grammar, step)
        for i in np.flatnonzero(active):
            tokens[i] = ids[sampling.choose(logits[i], history[i, ids], None if draws is None else float(draws[i]))]
        return tokens

    def _head(self, name: str) -> Session:
        with self._lock:
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


def _add(history: Array, ids: Array) -> None:
    """Marks ids in history, bool [n]; ids from n on are left out."""
    history[ids[ids < len(history)]] = True
