"""Rows of tokens that go through a language model's graph together, with their caches; and how long that took."""

import time
from types import TracebackType
from typing import Self

import numpy as np

from voxport.graphs.session import Array, Session

PREFILL = 512  # tokens in one call: the mask grows with tokens x context. Several rows go in at once: onnxruntime's
# attention takes further tokens into a cache from one row only


class Stopwatch:
    """`with watch:` adds to `seconds`; `steps` is counted by hand."""

    def __init__(self) -> None:
        self.steps, self.seconds = 0, 0.0

    def __enter__(self) -> Self:
        self._since = time.perf_counter()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.seconds += time.perf_counter() - self._since


class Rows:
    """Rows that go through a graph together, padded on the left; their caches are allocated once."""

    def __init__(self, session: Session, pads: Array, capacity: int) -> None:
        """`pads` int64 [rows]: how many of a row's first tokens are padding; `capacity`: tokens in all, pads too."""
        self._session, self._pads = session, pads
        self._past = np.zeros(1, np.int64)
        self._state = session.start(batch=len(pads), capacity=capacity)

    def feed(self, name: str, tokens: Array) -> dict[str, Array]:
        """The graph's input `name`, tokens [rows, n, ...] -> its outputs at the last of them."""
        most = PREFILL if len(tokens) == 1 else tokens.shape[1]
        for start in range(0, tokens.shape[1], most):
            piece = np.ascontiguousarray(tokens[:, start : start + most])
            feed = {name: piece, "past": self._past, "pads": self._pads}
            made, self._state = self._session(self._state, into=None, **feed)
            self._past = self._past + piece.shape[1]
        return made
