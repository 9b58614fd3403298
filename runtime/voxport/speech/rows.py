"""Rows of tokens that go through a language model's graph together, each at its own position; and a stopwatch."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from threading import Lock

import numpy as np

from voxport.graphs.session import Array, Session

PREFILL = 512  # tokens in one call: attention's scores grow with tokens x context
Outputs = dict[str, Array]


class Stopwatch:
    """Adds up the seconds of steps, which may run in several threads at once."""

    def __init__(self) -> None:
        self.steps, self.seconds = 0, 0.0
        self._lock = Lock()

    @contextmanager
    def timing(self, steps: int = 0) -> Iterator[None]:
        """Within: the time that passes is added to `seconds`, and `steps` to `steps`."""
        start = time.perf_counter()
        try:
            yield
        finally:
            passed = time.perf_counter() - start
            with self._lock:
                self.seconds += passed
                self.steps += steps


class Rows:
    """Places for `count` rows whose caches are allocated once, for `capacity` tokens each.

    A row begins with `prefill`, alone; `step` takes all active rows one token further together. A row that was stopped
    is free: its place takes another `prefill` while the other rows go on.
    """

    def __init__(self, session: Session, count: int, capacity: int) -> None:
        self._session, self.capacity = session, capacity
        self._state = session.start(batch=count, capacity=capacity)
        self.past = np.zeros(count, np.int64)  # tokens in each row's caches; 0 of rows that are not active
        self.active = np.zeros(count, bool)

    def prefill(self, row: int, name: str, tokens: Array) -> Outputs:
        """Feeds `tokens` [n, ...] to the graph's input `name` in one row, which they begin or continue.

        Returns the outputs at the last of them, [1, ...] each. Raises ValueError when there are none or too many.
        """
        if not len(tokens):
            raise ValueError(f"row {row}: a prompt has one token at least")
        past = int(self.past[row])
        self._check(row, past + len(tokens))
        state = self._state.row(row, fresh=not self.active[row])
        for start in range(0, len(tokens), PREFILL):
            piece = np.ascontiguousarray(tokens[None, start : start + PREFILL])
            feed = {name: piece, "past": np.array([past + start], np.int64)}
            outputs, state = self._session(state, into=None, **feed)
        self._state.put(row, state)
        self.past[row] = past + len(tokens)
        self.active[row] = True
        return outputs

    def begin(self, name: str, prompts: Sequence[Array]) -> Outputs:
        """Prefills a prompt [n, ...] per row and returns their outputs together, [rows, ...] each."""
        outputs = [self.prefill(row, name, tokens) for row, tokens in enumerate(prompts)]
        return {key: np.concatenate([output[key] for output in outputs]) for key in outputs[0]}

    def step(self, name: str, tokens: Array) -> Outputs:
        """Feeds one token per row, [rows, ...] -> outputs [rows, ...] each. What rows that are not active are fed and
        return means nothing. Raises ValueError when a row's caches are full."""
        for row in np.flatnonzero(self.past >= self.capacity):
            self._check(int(row), int(self.past[row]) + 1)
        feed = {name: np.ascontiguousarray(tokens[:, None]), "past": self.past.copy()}
        outputs, self._state = self._session(self._state, into=None, **feed)
        self.past += self.active
        return outputs

    def grow(self, capacity: int) -> None:
        """Makes room for `capacity` tokens per row; what the caches hold stays."""
        before, self._state = self._state, self._session.start(batch=len(self.past), capacity=capacity)
        for name, array in before.items():
            self._state[name][tuple(map(slice, array.shape))] = array
        self.capacity = capacity

    def stop(self, row: int) -> None:
        """Ends a row and frees its place. It still takes part in steps, where it attends to a single token."""
        self.active[row], self.past[row] = False, 0

    def _check(self, row: int, tokens: int) -> None:
        if tokens > self.capacity:
            raise ValueError(f"row {row}: {tokens} tokens do not fit its caches of {self.capacity}")
