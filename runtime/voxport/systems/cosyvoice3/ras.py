"""Repetition-aware sampling (docs/systems/cosyvoice3.md 3): a token from the best few, or, where that one was generated
just before, from all others.

Every draw is an argument: exponential numbers e with mean 1, one for each token that may be drawn; the token with the
largest probability / e is drawn, as torch.multinomial does it. All float32, as there.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from voxport.graphs.session import Array

# (address of the draw in its generation, size) -> float32 [size], exponential with mean 1, above 0
Draws = Callable[[int, int], Array]


@dataclass(frozen=True)
class Choice:
    """`token`: its id; `picks`: for one or two draws, which of the drawn numbers won."""

    token: int
    picks: tuple[int, ...]


@dataclass(frozen=True)
class Ras:
    """The sampler. Raises ValueError in one line when a value is out of its range."""

    top_p: float  # the best that hold this much of the chance together, the one that crosses it included
    top_k: int  # but no more than so many
    window: int  # tokens generated last, in which a repetition counts
    share: float  # of the window: from so many repetitions on, the token is drawn again from all others

    def __post_init__(self) -> None:
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p {self.top_p}: wanted above 0, up to 1")
        if self.top_k < 1:
            raise ValueError(f"top_k {self.top_k}: wanted 1 or more")
        if self.window < 1:
            raise ValueError(f"window {self.window}: wanted 1 or more")
        if not self.share >= 0:
            raise ValueError(f"share {self.share}: wanted 0 or more")

    def choose(self, scores: Array, history: Sequence[int], draws: Draws) -> Choice:
        """scores float32 [ids], -inf where an id may not come; history: the tokens generated before.

        The draws of a token have the addresses 2 n and 2 n + 1, where n tokens were generated before.
        """
        address = 2 * len(history)
        p = _softmax(scores)
        ids = self.nucleus(p)
        first = _winner(p[ids], draws(address, len(ids)))
        token = int(ids[first])
        repeats = history[-self.window :].count(token)
        if repeats < self.window * self.share:
            return Choice(token, (first,))
        others = scores.copy()
        others[token] = -np.inf
        second = _winner(_softmax(others), draws(address + 1, len(others)))
        return Choice(second, (first, second))

    def nucleus(self, p: Array) -> Array:
        """p float32 [ids] -> the ids to draw from, the likeliest first, of equals the lower one first."""
        few = min(self.top_k, len(p))
        least = np.partition(p, -few)[-few]
        ids = np.flatnonzero(p >= least)
        ids = ids[np.argsort(-p[ids], kind="stable")][:few]
        before = np.cumsum(p[ids])[:-1]  # one after the other in float32, as upstream adds
        count = 1 + int(np.count_nonzero(before < np.float32(self.top_p)))
        return ids[:count]


def _softmax(scores: Array) -> Array:
    e = np.exp(scores - scores.max())
    p: Array = e / e.sum()
    return p


def _winner(p: Array, e: Array) -> int:
    return int(np.argmax(p / e))
