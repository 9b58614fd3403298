"""Settings and scores -> token. Every draw is an argument, so nothing here remembers or draws anything.

The order is that of transformers' processors: repetition penalty, what the grammar allows (the caller passes only the
allowed scores), temperature, top-k, top-p, softmax, one draw (docs/systems/vyvo.md 5). All float32, as
there; cumulative sums are added in float64, as there.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from voxport.graphs.session import Array

Scores = npt.NDArray[np.float32]

RANGE = 1e-9, 1e9  # of temperature and penalty: scores stay finite in float32 after both


@dataclass(frozen=True)
class Sampling:
    """How the next token follows from scores. Raises ValueError in one line when a value is out of its range."""

    temperature: float  # above 0; below 1 sharpens
    top_k: int  # only the k best are drawn from; 0: all
    top_p: float  # only the best that hold this much of the chance together; 1: all
    repetition_penalty: float  # above 0; above 1 makes ids that came before less likely

    def __post_init__(self) -> None:
        least, most = RANGE
        if not least <= self.temperature <= most:
            raise ValueError(
                f"temperature {self.temperature}: wanted above 0, {least:g} .. {most:g} "
                "(for the best token every time use --greedy)"
            )
        if self.top_k < 0:
            raise ValueError(f"top_k {self.top_k}: wanted 1 or more, or 0 for all")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p {self.top_p}: wanted above 0, up to 1")
        if not least <= self.repetition_penalty <= most:
            raise ValueError(
                f"repetition_penalty {self.repetition_penalty}: wanted above 0, {least:g} .. {most:g} (1 is none)"
            )

    def penalized(self, scores: Scores, history: npt.NDArray[np.bool_]) -> Scores:
        """scores [n], history bool [n] (the ids that came before, prompt included) -> scores [n], a copy."""
        scores = scores.copy()
        if self.repetition_penalty != 1:
            at = np.flatnonzero(history)
            s, penalty = scores[at], np.float32(self.repetition_penalty)
            scores[at] = np.where(s > 0, s / penalty, s * penalty)
        return scores

    def chances(self, scores: Scores) -> tuple[Array, Scores]:
        """scores [n] -> (ids that may be drawn, ascending; their probabilities, which sum to 1)."""
        ids = np.arange(len(scores))
        scores = scores / np.float32(self.temperature)
        if 0 < self.top_k < len(scores):
            least = np.partition(scores, -self.top_k)[-self.top_k]
            ids = np.flatnonzero(scores >= least)
            scores = scores[ids]
        p = _softmax(scores)
        if self.top_p < 1:
            # Upstream drops, worst first, while what is dropped holds no more than 1 - top_p; the best always stays.
            rising = np.sort(p)
            first = int(np.searchsorted(_sums(rising), np.float32(1 - self.top_p), side="right"))
            stays = p >= rising[min(first, len(p) - 1)]
            ids, p = ids[stays], _softmax(scores[stays])
        return ids, p

    def draw(self, scores: Scores, u: float) -> int:
        """scores [n], u even over [0, 1) -> the first id, ascending, whose cumulative probability exceeds u."""
        ids, p = self.chances(scores)
        at = int(np.searchsorted(_sums(p), np.float32(u), side="right"))
        return int(ids[min(at, len(ids) - 1)])  # the sum may round to a little below 1

    def choose(self, scores: Scores, history: npt.NDArray[np.bool_], u: float | None) -> int:
        """scores [n], history bool [n] -> id; the best when `u` is None (ties: the lowest id)."""
        scores = self.penalized(scores, history)
        return int(np.argmax(scores)) if u is None else self.draw(scores, u)

    @classmethod
    def of(cls, settings: dict[str, bool | int | float | str]) -> Self:
        """From settings with these names among others."""
        return cls(
            float(settings["temperature"]),
            int(settings["top_k"]),
            float(settings["top_p"]),
            float(settings["repetition_penalty"]),
        )


def _sums(p: Scores) -> Scores:
    """Cumulative, rounded once each, as torch's: added in float32, another id is drawn now and then."""
    return np.cumsum(p, dtype=np.float64).astype(np.float32)


def _softmax(scores: Scores) -> Scores:
    e = np.exp(scores - scores.max())
    p: Scores = e / e.sum()
    return p
