"""Where tokens stand: how far through its utterance each is, and how far it is turned (docs/systems/t5gemma.md 3).

All float32, as upstream computes them but for the step's position, which it computes in double precision. Angles go up
to 2,000 radians, where another order of operations is another angle, so no graph computes them.
"""

import numpy as np

from voxport.graphs.session import Array
from voxport.systems.t5gemma.section import RopeSection, Section


class Positions:
    """The positions of one model: progress from 0 to `progress_scale`, or, without progress, plain counts."""

    def __init__(self, section: Section) -> None:
        self._progress, self._scale = section.progress, section.progress_scale

    def text(self, count: int) -> Array:
        """Of the ids of a text: float32 [count]."""
        return self._through(count, max(1, count - 1))

    def prompt(self, count: int, expected: int) -> Array:
        """Of the `count` tokens that the decoder is fed first: float32 [count].

        `expected`: tokens of prompt and speech, at the last of which the utterance is through.
        """
        return self._through(count, max(1, expected - 1))

    def token(self, index: int, expected: int) -> np.float32:
        """Of token `index` behind a prompt, counted from the start of that. An utterance that has become longer than
        was expected stays at its end."""
        if not self._progress:
            return np.float32(index)
        return np.float32(min(index / max(1, expected - 1) * self._scale, self._scale))

    def _through(self, count: int, last: int) -> Array:
        places = np.arange(count, dtype=np.float32)
        return places / np.float32(last) * np.float32(self._scale) if self._progress else places


class Turns:
    """How far heads of `rope.size` channels are turned at a position."""

    def __init__(self, rope: RopeSection) -> None:
        halves = np.arange(0, rope.size, 2, dtype=np.float32) / np.float32(rope.size)
        self._speeds = (np.float32(1) / np.float32(rope.theta) ** halves).astype(np.float32)

    def at(self, positions: Array) -> dict[str, Array]:
        """positions float32 [...] -> `cos` and `sin`, float32 [..., size / 2] each."""
        angles = positions[..., None] * self._speeds
        return {"cos": np.cos(angles), "sin": np.sin(angles)}
