"""Rows of tokens that go through a language model's graph together, each at its own position; and a stopwatch."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from threading import Lock

import numpy as np

from voxport.graphs.session import Array, Session
from voxport.graphs.stage import CAPACITY, ROWS, TensorSpec

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

    def __init__(
        self, session: Session, count: int, capacity: int, constants: Mapping[str, Array] | None = None
    ) -> None:
        """`constants`: inputs of the graph that stay the same for all steps, [rows, ...] where their first axis is
        `batch`; they are bound once and not copied."""
        self._session, self.capacity, self._constants = session, capacity, dict(constants or {})
        self._state = session.start(self._constants, batch=count, capacity=capacity)
        self.past = np.zeros(count, np.int64)  # tokens in each row's caches; 0 of rows that are not active
        self.active = np.zeros(count, bool)

    def prefill(self, row: int, **inputs: Array) -> Outputs:
        """Feeds tokens to one row, which they begin or continue: every input of the graph by its name, [n, ...] each,
        one entry per token.

        Returns the outputs at the last of them, [1, ...] each. Raises ValueError when there are none or too many.
        """
        count = len(next(iter(inputs.values())))
        if not count:
            raise ValueError(f"row {row}: a prompt has one token at least")
        past = int(self.past[row])
        self._check(row, past + count)
        state = self._state.row(row, fresh=not self.active[row])
        for start in range(0, count, PREFILL):
            feed = {
                name: np.ascontiguousarray(tokens[None, start : start + PREFILL]) for name, tokens in inputs.items()
            }
            outputs, state = self._session(state, into=None, **feed, past=np.array([past + start], np.int64))
        self._state.put(row, state)
        self.past[row] = past + count
        self.active[row] = True
        return outputs

    def begin(self, **prompts: Sequence[Array]) -> Outputs:
        """Prefills every row: each input has a prompt [n, ...] per row. Returns the rows' outputs, [rows, ...] each."""
        rows = (dict(zip(prompts, inputs, strict=True)) for inputs in zip(*prompts.values(), strict=True))
        outputs = [self.prefill(row, **inputs) for row, inputs in enumerate(rows)]
        return {key: np.concatenate([output[key] for output in outputs]) for key in outputs[0]}

    def copy(self, row: int, to: int) -> None:
        """Makes row `to` a second one that has come as far as `row`: generations of one prompt share its prefill."""
        for tensor in self._session.stage.state:
            place, array = _filled(tensor, int(self.past[row])), self._state[tensor.name]
            array[to : to + 1][place] = array[row : row + 1][place]
        self.past[to], self.active[to] = self.past[row], self.active[row]

    def keep(self, rows: Sequence[int]) -> None:
        """Goes on with these rows alone, as rows 0, 1 ..: the others' places cost nothing any more."""
        before, past = self._state, self.past[list(rows)]
        by_row = {tensor.name for tensor in self._session.stage.inputs if tensor.shape[:1] == (ROWS,)}
        self._constants = {n: a[list(rows)] if n in by_row else a for n, a in self._constants.items()}
        self._state = self._session.start(self._constants, batch=len(past), capacity=self.capacity)
        for tensor in self._session.stage.state:
            for to, row in enumerate(rows):
                place = _filled(tensor, int(past[to]))
                self._state[tensor.name][to : to + 1][place] = before[tensor.name][row : row + 1][place]
        self.past, self.active = past, self.active[list(rows)]

    def step(self, **inputs: Array) -> Outputs:
        """Feeds one token per row, [rows, ...] of every input -> outputs [rows, ...] each. What rows that are not
        active are fed and return means nothing. Raises ValueError when a row's caches are full."""
        for row in np.flatnonzero(self.past >= self.capacity):
            self._check(int(row), int(self.past[row]) + 1)
        feed = {name: np.ascontiguousarray(tokens[:, None]) for name, tokens in inputs.items()}
        outputs, self._state = self._session(self._state, into=None, **feed, past=self.past.copy())
        self.past += self.active
        return outputs

    def grow(self, capacity: int) -> None:
        """Makes room for `capacity` tokens per row; what the caches hold stays."""
        before = self._state
        self._state = self._session.start(self._constants, batch=len(self.past), capacity=capacity)
        for name, array in before.items():
            self._state[name][tuple(map(slice, array.shape))] = array
        self.capacity = capacity

    def stop(self, row: int) -> None:
        """Ends a row and frees its place. It still takes part in steps, where it attends to a single token."""
        self.active[row], self.past[row] = False, 0

    def _check(self, row: int, tokens: int) -> None:
        if tokens > self.capacity:
            raise ValueError(f"row {row}: {tokens} tokens do not fit its caches of {self.capacity}")


def _filled(tensor: TensorSpec, tokens: int) -> tuple[slice, ...]:
    """Where a state holds anything of a row with so many tokens."""
    return tuple(slice(tokens if axis == CAPACITY else None) for axis in tensor.shape)
