"""Runs one graph: `outputs, state = session(state, **inputs)`.

State is data. `session.start()` makes it, a call consumes it and hands back its successor. Behind it lie two sets of
buffers that swap roles at every step (ping-pong), each bound to the graph once, so nothing is copied or allocated per
step but the outputs; a tensor with a `capacity` axis has one buffer, bound to input and output alike.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import ClassVar

import numpy as np
import onnxruntime as ort

from voxport.graphs import pages
from voxport.graphs.stage import NEXT, Stage, TensorSpec

Array = np.ndarray


class State(Mapping[str, Array]):
    """Named arrays of one stream, zero at the start. Writing into one (`state["x"][:] = ...`) changes the state."""

    def __init__(self, tensors: tuple[TensorSpec, ...], arrays: dict[str, Array]) -> None:
        self._tensors = tensors
        self._front = {t.name: _bound(arrays[t.name]) for t in tensors}
        self._back = {
            t.name: self._front[t.name] if t.shared else _bound(np.zeros_like(arrays[t.name])) for t in tensors
        }
        self._spent = False
        self._bindings: tuple[Session, ort.IOBinding, ort.IOBinding] | None = None  # of this step and the next

    def __getitem__(self, name: str) -> Array:
        self._check()
        return self._front[name][0]

    def __iter__(self) -> Iterator[str]:
        return iter(self._front)

    def __len__(self) -> int:
        return len(self._front)

    def copy(self) -> "State":
        """An independent copy: the one way to run two continuations from the same point."""
        return State(self._tensors, {name: array.copy() for name, array in self.items()})

    def _check(self) -> None:
        if self._spent:
            raise ValueError("this state was already consumed by a call; keep a state.copy() to continue from it twice")

    def _step(self) -> "State":
        """The successor: roles of the two buffer sets swapped; this one is spent."""
        after = object.__new__(State)
        after._tensors, after._front, after._back, after._spent = self._tensors, self._back, self._front, False
        after._bindings = self._bindings and (self._bindings[0], self._bindings[2], self._bindings[1])
        self._spent = True
        return after

    def _binding(self, session: "Session") -> ort.IOBinding:
        """Of this step, its buffers bound."""
        if self._bindings is None or self._bindings[0] is not session:
            pair = [session._ort.io_binding() for _ in range(2)]
            for binding, (old, new) in zip(pair, ((self._front, self._back), (self._back, self._front)), strict=True):
                for name in self._front:
                    binding.bind_ortvalue_input(name, old[name][1])
                    binding.bind_ortvalue_output(NEXT + name, new[name][1])
            self._bindings = (session, *pair)
        return self._bindings[1]


def _bound(array: Array) -> tuple[Array, ort.OrtValue]:
    """The array and an OrtValue over the same memory (onnxruntime copies only when the device is not the CPU)."""
    return array, ort.OrtValue.ortvalue_from_numpy(array)


class Session:
    """One graph, loaded. Not for use from two threads at once; load a second one instead (weights are mapped files)."""

    # An idle session's worker threads spin on the cores the next session needs (+76-91 %, docs/performance.md 1.4);
    # 100 microseconds keeps a busy session hot and lets an idle one sleep.
    options: ClassVar[dict[str, str]] = {"session.intra_op.spin_duration_us": "100"}

    def __init__(self, path: Path, threads: int = 1) -> None:
        """`threads`: cores one step may use. Raises FileNotFoundError; ValueError when onnxruntime refuses the file."""
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such graph")
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        for key, value in self.options.items():
            options.add_session_config_entry(key, value)
        options.log_severity_level = 3
        try:
            with pages.huge():
                self._ort = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's own exception types are not public
            raise ValueError(f"{path}: onnxruntime cannot load it: {str(error).splitlines()[0]}") from None
        self.threads = threads
        self.stage = Stage.of(path.stem, self._ort)
        self._inputs = {t.name: t for t in self.stage.inputs}
        self._stateless = self._ort.io_binding()

    def start(self, **axes: int) -> State:
        """A state of zeros. `axes` gives the sizes of the state's free axes, for instance `capacity=1024`."""
        return State(self.stage.state, {t.name: np.zeros(t.sized(axes), t.dtype) for t in self.stage.state})

    def __call__(
        self, state: State, *, into: Mapping[str, Array] | None = None, **inputs: Array
    ) -> tuple[dict[str, Array], State]:
        """One step. `state` is consumed; outputs named in `into` are written there instead of into new arrays.

        Raises ValueError naming the input that does not match the stage's declaration.
        """
        state._check()
        if inputs.keys() != self._inputs.keys():
            raise ValueError(f"stage {self.stage.name} takes {sorted(self._inputs)}, got {sorted(inputs)}")
        binding = state._binding(self) if self.stage.state else self._stateless
        axes: dict[str, int] = {}
        for name, array in inputs.items():
            tensor = self._inputs[name]
            tensor.check(array)
            axes.update((n, size) for n, size in zip(tensor.shape, array.shape, strict=True) if isinstance(n, str))
            binding.bind_cpu_input(name, array)
        outputs = dict(into or {})
        for t in self.stage.outputs:
            if t.name not in outputs:
                outputs[t.name] = np.empty(t.sized(axes), t.dtype)
            binding.bind_ortvalue_output(t.name, _bound(outputs[t.name])[1])
        try:
            self._ort.run_with_iobinding(binding)
        except Exception as error:  # onnxruntime's own exception types are not public
            raise ValueError(f"stage {self.stage.name}: onnxruntime stopped: {str(error).splitlines()[0]}") from None
        return outputs, state._step()
