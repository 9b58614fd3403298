"""How an audio token follows from its scores: what is held back, what may be drawn, the draw, what ends a generation.

The order is upstream's: the end is held back at first, a silence that goes on is held back, temperature, min-p, top-k,
top-p, softmax, one draw (docs/systems/t5gemma.md 5). All float32, as there. Every draw is an argument: exponential
numbers e with mean 1, one per id; the id with the largest probability / e is drawn, as torch.multinomial does it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np

from voxport.graphs.session import Array
from voxport.speech.sampler import RANGE
from voxport.speech.settings import Value

Draws = Callable[[Array], Array]  # ids int64 [n] -> float32 [n], exponential with mean 1, above 0
NEVER = np.float32(-10000)  # upstream's score of the end before it may come (models/t5gemma.py, inference_tts)


def first_end(frame_rate: float) -> int:
    """Tokens before which no speech ends: upstream's fifth of a second, and one more."""
    return int(frame_rate // 5) + 1


@dataclass(frozen=True)
class Tail:
    """What came last in a generation: the token, -1 before the first, and how often it was silence in a row."""

    token: int = -1
    silent: int = 0


@dataclass(frozen=True)
class Rule:
    """How a token follows from its scores. Raises ValueError in one line when a value is out of its range.

    `silence`: codes of which no more than `stop_repetition` in a row are left alone; more of them become the less
    likely the longer it lasts. `compatible`: of several such codes upstream forgets the run of each as it looks at the
    next, so that none is ever held back.
    """

    eos: int
    temperature: float = 1.0  # above 0; below 1 sharpens
    top_k: int = 0  # only the k best are drawn from; 0: all
    top_p: float = 1.0  # only the best up to the one with which they hold more than this of the chance; 1: all
    min_p: float = 0.0  # only what is at least this likely, and no top_k or top_p; 0 or 1: does not act
    stop_repetition: int = 3  # 0 or less: silence may last
    silence: tuple[int, ...] = ()
    greedy: bool = False  # the best token each time
    compatible: bool = False

    def __post_init__(self) -> None:
        least, most = RANGE
        if not least <= self.temperature <= most:
            raise ValueError(f"temperature {self.temperature}: wanted above 0, {least:g} .. {most:g}")
        if self.top_k < 0:
            raise ValueError(f"top_k {self.top_k}: wanted 1 or more, or 0 for all")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p {self.top_p}: wanted above 0, up to 1")
        if not 0 <= self.min_p <= 1:
            raise ValueError(f"min_p {self.min_p}: wanted 0 to 1")

    @classmethod
    def of(cls, settings: Mapping[str, Value], eos: int, silence: tuple[int, ...] = (), greedy: bool = False) -> Self:
        """From settings with these names among others. Whoever wants the best token at every choice compares with
        upstream."""
        return cls(
            eos,
            float(settings["temperature"]),
            int(settings["top_k"]),
            float(settings["top_p"]),
            float(settings["min_p"]),
            int(settings["stop_repetition"]),
            silence,
            greedy,
            compatible=greedy,
        )

    def adjusted(self, logits: Array, tail: Tail, early: bool) -> Array:
        """logits float32 [ids] -> a copy in which is held back what may not, or should not, come after `tail`.

        `early`: the end may not come yet.
        """
        scores = logits.copy()
        if early:
            scores[self.eos] = NEVER
        if tail.token in self.silence and tail.silent > self.stop_repetition > 0:
            factor = np.float32(tail.silent - (self.stop_repetition - 1))
            score = scores[tail.token]
            scores[tail.token] = score * factor if score < 0 else score / factor
        return scores

    def chances(self, scores: Array) -> tuple[Array, Array]:
        """scores float32 [ids] -> (ids that may be drawn, ascending; their probabilities, which sum to 1)."""
        ids = np.arange(len(scores))
        scores = scores / np.float32(self.temperature)
        if 0 < self.min_p < 1:
            likely = _softmax(scores) >= np.float32(self.min_p)
            if likely.any():
                return ids[likely], _softmax(scores[likely])
        if 0 < self.top_k < len(scores):
            least = np.partition(scores, -self.top_k)[-self.top_k]
            ids = np.flatnonzero(scores >= least)
            scores = scores[ids]
        if self.top_p < 1:
            best = np.argsort(-scores, kind="stable")
            sums = np.cumsum(_softmax(scores[best]), dtype=np.float64).astype(np.float32)  # added as torch adds
            count = 1 + int(np.count_nonzero(sums[:-1] <= np.float32(self.top_p)))
            stays = np.sort(best[:count])
            ids, scores = ids[stays], scores[stays]
        return ids, _softmax(scores)

    def draw(self, scores: Array, draws: Draws | None) -> int:
        """scores float32 [ids] -> the token; the best one without `draws`."""
        if draws is None:
            return int(np.argmax(scores))
        ids, p = self.chances(scores)
        return int(ids[np.argmax(p / draws(ids))])

    def ends(self, scores: Array, token: int) -> bool:
        """Whether a generation ends with this token, which was drawn from `scores` float32 [ids]."""
        return token == self.eos or int(np.argmax(scores)) == self.eos

    def follow(self, tail: Tail, token: int) -> Tail:
        """The tail after one more token."""
        if self.compatible:
            silent = tail.silent
            for code in self.silence:
                silent = silent + 1 if token == tail.token == code else int(token == code)
        else:
            silent = (tail.silent + 1 if token == tail.token else 1) if token in self.silence else 0
        return Tail(token, silent)


def _softmax(scores: Array) -> Array:
    e = np.exp(scores - scores.max())
    p: Array = e / e.sum()
    return p
