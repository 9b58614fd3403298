"""The onnxruntime Session.

A stream has two sets of buffers that swap roles at every step (ping-pong), each bound to the graph once, so nothing is
copied or allocated per step but the outputs; a tensor with a `capacity` axis has one buffer, bound to input and output
alike.
"""

from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import onnxruntime as ort

from voxport.graphs import pages
from voxport.graphs.session import Array, State
from voxport.graphs.stage import NEXT, ROWS, Stage, TensorSpec

# An idle session's worker threads spin on the cores the next session needs (+76-91 %, docs/performance.md 1.4);
# 100 microseconds keeps a busy session hot and lets an idle one sleep.
OPTIONS: Mapping[str, str] = {"session.intra_op.spin_duration_us": "100"}
UNPACKED: Mapping[str, str] = {"session.disable_prepacking": "1"}

_Bound = tuple[Array, ort.OrtValue]


class OrtSession:
    """One graph, loaded by onnxruntime."""

    def __init__(
        self, path: Path, threads: int = 1, options: Mapping[str, str] = OPTIONS, *, once: bool = False
    ) -> None:
        """`threads`: cores one step may use; `options`: onnxruntime's session configuration entries.

        `once`: for a graph that is loaded for a call or two. Its weights are neither packed for speed nor brought into
        huge pages: CosyVoice3's speech tokenizer (970 MB) is there in 1.6 s instead of 12.8, takes 1.0 GB instead of
        1.6, and a call of it is as fast.
        Raises FileNotFoundError, or ValueError when onnxruntime refuses the file.
        """
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such graph")
        settings = ort.SessionOptions()
        settings.intra_op_num_threads = threads
        settings.inter_op_num_threads = 1
        for key, value in {**options, **(UNPACKED if once else {})}.items():
            settings.add_session_config_entry(key, value)
        settings.log_severity_level = 3
        try:
            with nullcontext() if once else pages.huge():
                self._ort = ort.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's own exception types are not public
            raise ValueError(f"{path}: onnxruntime cannot load it: {str(error).splitlines()[0]}") from None
        self.threads = threads
        self.stage = Stage.of(path.stem, self._ort)
        self._inputs = {t.name: t for t in self.stage.inputs}
        self._outputs = {t.name: t for t in self.stage.outputs}
        self._unsized = {t.name for t in self.stage.unsized}

    def start(self, constants: Mapping[str, Array] | None = None, /, **axes: int) -> "OrtState":
        """See `Session.start`."""
        values, sizes = constants or {}, dict(axes)
        if unknown := sorted(values.keys() - self._inputs.keys()):
            raise ValueError(f"stage {self.stage.name} takes {sorted(self._inputs)}, got the constants {unknown}")
        bound = {name: self._fitting(self._inputs[name], array, sizes) for name, array in values.items()}
        arrays = {t.name: np.zeros(t.sized(sizes), t.dtype) for t in self.stage.state}
        return OrtState(_Stream(self, arrays, bound))

    def __call__(
        self, state: State, *, into: Mapping[str, Array] | None = None, **inputs: Array
    ) -> tuple[dict[str, Array], "OrtState"]:
        """See `Session`. A state belongs to one thread at a time; without one, any number of threads may call."""
        if not isinstance(state, OrtState):
            raise TypeError(f"stage {self.stage.name}: {type(state).__name__} is not a state of an onnxruntime session")
        binding, sizes, constants = state.bound(self)
        needed = self._inputs.keys() - constants if constants else self._inputs.keys()
        if inputs.keys() != needed:
            raise ValueError(f"stage {self.stage.name} takes {sorted(needed)}, got {sorted(inputs)}")
        arrays = {name: self._fitting(self._inputs[name], array, sizes) for name, array in inputs.items()}
        for name, array in arrays.items():
            binding.bind_cpu_input(name, array)
        outputs = dict(into or {})
        for name, array in outputs.items():
            self._check_target(name, array, sizes)
        for t in self.stage.outputs:
            if t.name in self._unsized:
                binding.bind_output(t.name)
                continue
            if t.name not in outputs:
                outputs[t.name] = np.empty(t.sized(sizes), t.dtype)
            binding.bind_ortvalue_output(t.name, _bound(outputs[t.name])[1])
        try:
            self._ort.run_with_iobinding(binding)
        except Exception as error:  # onnxruntime's own exception types are not public
            raise ValueError(f"stage {self.stage.name}: onnxruntime stopped: {str(error).splitlines()[0]}") from None
        if self._unsized:
            computed = binding.get_outputs()[len(self.stage.state) :]  # states were bound before
            found = zip(self.stage.outputs, computed, strict=True)
            outputs |= {t.name: value.numpy() for t, value in found if t.name in self._unsized}
        return outputs, state.successor()

    def binding(self) -> ort.IOBinding:
        return self._ort.io_binding()

    def _fitting(self, tensor: TensorSpec, array: Array, sizes: dict[str, int]) -> Array:
        """The array, C-contiguous; adds its axes to `sizes`. Raises ValueError when it cannot be this input, or not
        beside those before it."""
        tensor.check(array)
        for axis, size in zip(tensor.shape, array.shape, strict=True):
            if isinstance(axis, str) and sizes.setdefault(axis, size) != size:
                raise ValueError(
                    f"stage {self.stage.name}: {tensor}: axis {axis} is {size} here, but {sizes[axis]} in another "
                    "input or in the state"
                )
        return array if array.flags.c_contiguous else np.ascontiguousarray(array)

    def _check_target(self, name: str, array: Array, sizes: Mapping[str, int]) -> None:
        """Raises ValueError unless the output `name` can be written into `array`."""
        if name not in self._outputs:
            raise ValueError(f"stage {self.stage.name} gives {sorted(self._outputs)}, got `into` for {name}")
        tensor = self._outputs[name]
        tensor.check(array)
        if name in self._unsized:
            raise ValueError(
                f"{tensor}: its size is known when it is computed, so it cannot be written `into` an array"
            )
        if array.shape != tensor.sized(sizes):
            raise ValueError(f"{tensor}: wanted shape {list(tensor.sized(sizes))} in `into`, got {list(array.shape)}")
        if not (array.flags.c_contiguous and array.flags.writeable):
            raise ValueError(f"{tensor}: the array in `into` must be C-contiguous and writeable")


class OrtState(Mapping[str, Array]):
    """A State of an OrtSession: one side of a stream's buffers."""

    def __init__(self, stream: "_Stream", side: int = 0) -> None:
        self._stream, self._side, self._spent = stream, side, False

    def __getitem__(self, name: str) -> Array:
        self._check()
        return self._stream.sides[self._side][name][0]

    def __iter__(self) -> Iterator[str]:
        return iter(self._stream.sides[0])

    def __len__(self) -> int:
        return len(self._stream.sides[0])

    def copy(self) -> "OrtState":
        """See `State.copy`."""
        arrays = {name: array.copy() for name, array in self.items()}
        return OrtState(_Stream(self._stream.session, arrays, self._stream.constants))

    def row(self, index: int, *, fresh: bool = False) -> "OrtState":
        """See `State.row`."""
        session, arrays = self._stream.session, {}
        for t in session.stage.state:
            if t.shape[:1] != (ROWS,):
                raise ValueError(f"stage {session.stage.name}: {t}: its first axis is not {ROWS}, so it has no rows")
            view = self[t.name][index : index + 1]
            arrays[t.name] = view if t.shared else np.zeros_like(view) if fresh else view.copy()
        by_row = {t.name for t in session.stage.inputs if t.shape[:1] == (ROWS,)}
        constants = {
            name: array[index : index + 1] if name in by_row else array
            for name, array in self._stream.constants.items()
        }
        return OrtState(_Stream(session, arrays, constants))

    def put(self, index: int, row: "OrtState") -> None:
        """See `State.put`."""
        for t in self._stream.session.stage.state:
            if not t.shared:
                self[t.name][index] = row[t.name][0]

    def bound(self, session: OrtSession) -> tuple[ort.IOBinding, dict[str, int], frozenset[str]]:
        """For a call of `session`: the binding with this state's buffers and constants bound, the sizes of their axes,
        and the names of the constants."""
        self._check()
        stream = self._stream
        return stream.binding(session, self._side), dict(stream.sizes), stream.names

    def successor(self) -> "OrtState":
        """The state after a call, which is the other side of the buffers; this one is spent."""
        self._spent = True
        return OrtState(self._stream, 1 - self._side)

    def _check(self) -> None:
        if self._spent:
            raise ValueError("this state was already consumed by a call; keep a state.copy() to continue from it twice")


class _Stream:
    """The memory of one stream and its bindings to the session that runs it."""

    def __init__(self, session: OrtSession, arrays: Mapping[str, Array], constants: Mapping[str, Array]) -> None:
        tensors = session.stage.state
        front = {t.name: _bound(arrays[t.name]) for t in tensors}
        back = {t.name: front[t.name] if t.shared else _bound(np.zeros_like(arrays[t.name])) for t in tensors}
        self.session, self.constants, self.sides = session, constants, (front, back)
        self.names = frozenset(constants)
        inputs = {t.name: t for t in session.stage.inputs}
        shaped = [(t, arrays[t.name]) for t in tensors] + [(inputs[n], array) for n, array in constants.items()]
        self.sizes = {
            axis: size
            for tensor, array in shaped
            for axis, size in zip(tensor.shape, array.shape, strict=True)
            if isinstance(axis, str)
        }
        self._bindings: tuple[OrtSession, ort.IOBinding, ort.IOBinding] | None = None  # of a step from either side

    def binding(self, session: OrtSession, side: int) -> ort.IOBinding:
        if not self.constants and not self.sides[0]:
            return session.binding()  # nothing stays bound, so every call has its own
        if self._bindings is None or self._bindings[0] is not session:
            front, back = self.sides
            self._bindings = (session, self._bind(session, front, back), self._bind(session, back, front))
        return self._bindings[1 + side]

    def _bind(self, session: OrtSession, old: Mapping[str, _Bound], new: Mapping[str, _Bound]) -> ort.IOBinding:
        binding = session.binding()
        for name in old:
            binding.bind_ortvalue_input(name, old[name][1])
            binding.bind_ortvalue_output(NEXT + name, new[name][1])
        for name, array in self.constants.items():
            binding.bind_cpu_input(name, array)
        return binding


def _bound(array: Array) -> _Bound:
    """The array and an OrtValue over the same memory (onnxruntime copies only when the device is not the CPU)."""
    return array, ort.OrtValue.ortvalue_from_numpy(array)
