"""What a graph takes and gives: the one declaration of every tensor.

An exporter declares a Stage beside the net; `export()` derives names, example feed and free axes from it;
afterwards the graph itself is the declaration and `Stage.of(session)` reads it back.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import onnxruntime

NEXT = "next."  # state `x` is an input `x` whose successor is the output `next.x`
ROWS = "batch"  # the axis whose rows `State.row` tells apart
CAPACITY = "capacity"  # an axis of this name is allocated once; input and output share the memory

# onnxruntime's type names <-> numpy's
_DTYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(double)": "float64",
    "tensor(int64)": "int64",
    "tensor(int32)": "int32",
    "tensor(int8)": "int8",
    "tensor(uint8)": "uint8",
    "tensor(bool)": "bool",
}


@dataclass(frozen=True)
class TensorSpec:
    """One named tensor. `shape` holds an int for a fixed axis and a word for a free one: `(1, "time", 64)`."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]

    @property
    def shared(self) -> bool:
        """True when input and output of this state are the same memory (it has a `capacity` axis)."""
        return CAPACITY in self.shape

    def sized(self, axes: Mapping[str, int]) -> tuple[int, ...]:
        """The shape with every word replaced; KeyError names the word that `axes` lacks."""
        try:
            return tuple(axes[n] if isinstance(n, str) else n for n in self.shape)
        except KeyError as error:
            raise KeyError(f"{self}: the size of axis {error} is not known; known are {sorted(axes)}") from None

    def check(self, array: np.ndarray) -> None:
        """ValueError in one line when `array` cannot be this tensor."""
        if array.dtype != self.dtype:
            raise ValueError(f"{self}: got dtype {array.dtype}")
        fits = len(array.shape) == len(self.shape) and all(
            isinstance(size, str) or size == length for size, length in zip(self.shape, array.shape, strict=True)
        )
        if not fits:
            raise ValueError(f"{self}: got shape {list(array.shape)}")

    def __str__(self) -> str:
        return f"{self.name} {self.dtype}[{', '.join(map(str, self.shape))}]"


@dataclass(frozen=True)
class Stage:
    """One graph: `outputs, next state = stage(inputs, state)`."""

    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    state: tuple[TensorSpec, ...] = ()

    def __post_init__(self) -> None:
        names = [t.name for t in (*self.inputs, *self.outputs, *self.state)]
        twice = sorted({n for n in names if names.count(n) > 1})
        if twice:
            raise ValueError(f"stage {self.name}: declared twice: {', '.join(twice)}")

    @property
    def feeds(self) -> tuple[TensorSpec, ...]:
        """Every input of the graph, in order."""
        return (*self.inputs, *self.state)

    @property
    def unsized(self) -> tuple[TensorSpec, ...]:
        """The outputs with a free axis that no input has: their sizes are known when they are computed.

        No graph that is traced here has any, see `laws.check`; released ones do.
        """
        known = set(self.axes)
        return tuple(t for t in self.outputs if any(isinstance(n, str) and n not in known for n in t.shape))

    @property
    def axes(self) -> list[str]:
        """The free axes, in order of appearance."""
        return list(dict.fromkeys(n for t in self.feeds for n in t.shape if isinstance(n, str)))

    @classmethod
    def of(cls, name: str, session: "onnxruntime.InferenceSession") -> "Stage":
        """Reads the declaration back from a graph: state is every input `x` that has an output `next.x`."""
        inputs = [_tensor(value) for value in session.get_inputs()]
        outputs = [_tensor(value) for value in session.get_outputs()]
        names = {t.name for t in outputs}
        return cls(
            name,
            inputs=tuple(t for t in inputs if NEXT + t.name not in names),
            outputs=tuple(t for t in outputs if not t.name.startswith(NEXT)),
            state=tuple(t for t in inputs if NEXT + t.name in names),
        )


def _tensor(value: "onnxruntime.NodeArg") -> TensorSpec:
    """An axis without a name, which other exporters leave, gets one of its own: `<tensor>.<index>`."""
    if value.type not in _DTYPES:
        raise ValueError(f"{value.name} is {value.type}: wanted one of {', '.join(_DTYPES)}")
    shape = (f"{value.name}.{i}" if size is None else size for i, size in enumerate(value.shape))
    return TensorSpec(value.name, _DTYPES[value.type], tuple(shape))
