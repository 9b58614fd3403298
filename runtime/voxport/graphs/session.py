"""What runs one graph: `outputs, state = session(state, **inputs)`. These are Protocols; `ort.py` has onnxruntime's.

State is data. `session.start()` makes it, a call consumes it and returns its successor. Only the session that made a
state knows how it is stored; everybody else reads it by name.
"""

from collections.abc import ItemsView, Iterator, KeysView, Mapping, ValuesView
from typing import Protocol, Self

import numpy as np

from voxport.graphs.stage import Stage

Array = np.ndarray


class State(Protocol):
    """The named arrays of one stream, or of the rows of a batch; zeros at the start.

    Writing into an array (`state["x"][:] = ...`) changes the state. Raises ValueError once a call has consumed it.
    """

    def __getitem__(self, name: str, /) -> Array: ...
    def __iter__(self) -> Iterator[str]: ...
    def __len__(self) -> int: ...
    def __contains__(self, name: object, /) -> bool: ...
    def keys(self) -> KeysView[str]: ...
    def values(self) -> ValuesView[Array]: ...
    def items(self) -> ItemsView[str, Array]: ...

    def copy(self) -> Self:
        """An independent copy: the one way to run two continuations from the same point. It keeps the constants."""
        ...

    def row(self, index: int, *, fresh: bool = False) -> Self:
        """Row `index` of a batch as a state of batch 1, to run that row alone; `put` brings it back.

        Tensors with a `capacity` axis are the same memory, no copy. `fresh`: the others begin with zeros, for a new
        stream in this row. Raises ValueError naming a tensor whose first axis is not `batch`.
        """
        ...

    def put(self, index: int, row: Self) -> None:
        """Makes `row`, a successor of `self.row(index)`, row `index` of this state."""
        ...


class Session(Protocol):
    """One graph, loaded. Several threads may call it at once, each with a state of its own."""

    @property
    def stage(self) -> Stage:
        """The declaration of the graph's tensors."""
        ...

    @property
    def threads(self) -> int:
        """Cores one step may use."""
        ...

    def start(self, constants: Mapping[str, Array] | None = None, /, **axes: int) -> State:
        """A state of zeros. `axes` are the sizes of its free axes, for instance `capacity=1024`.

        `constants` are inputs that stay the same for the whole stream: they are bound once, here, and calls must not
        repeat them. They are not copied. Raises ValueError naming a tensor that does not fit the declaration.
        """
        ...

    def __call__(
        self, state: State, *, into: Mapping[str, Array] | None = None, **inputs: Array
    ) -> tuple[dict[str, Array], State]:
        """One step. `state` is consumed; outputs named in `into` are written there instead of into new arrays.

        Raises ValueError naming the tensor that does not match the declaration, or the axis on which two disagree.
        """
        ...
