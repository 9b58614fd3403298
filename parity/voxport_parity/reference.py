"""The torch nets behind the runtime's own interface, so that one driver runs nets and graphs alike."""

from collections.abc import Iterable, Mapping

import numpy as np
import torch
from torch import Tensor

from voxport.bundle import Bundle
from voxport.graphs.ort import OrtSession
from voxport.graphs.session import Array, Session, State
from voxport.graphs.stage import ROWS, Stage
from voxport_exporters.graphs.part import Part
from voxport_exporters.nets.taps import tapped


class TorchState(dict[str, Array]):
    """A State of a TorchSession: its arrays, and the constants that calls leave out."""

    def __init__(self, stage: Stage, arrays: Mapping[str, Array], constants: Mapping[str, Array]) -> None:
        super().__init__(arrays)
        self.stage, self.constants = stage, constants

    def copy(self) -> "TorchState":
        """See `State.copy`."""
        return TorchState(self.stage, {name: array.copy() for name, array in self.items()}, self.constants)

    def row(self, index: int, *, fresh: bool = False) -> "TorchState":
        """See `State.row`. Every tensor is a copy, which `put` brings back."""
        by_row = {t.name for t in self.stage.inputs if t.shape[:1] == (ROWS,)}
        constants = {n: a[index : index + 1] if n in by_row else a for n, a in self.constants.items()}
        arrays = {t.name: self[t.name][index : index + 1].copy() for t in self.stage.state}
        for tensor in self.stage.state:
            if fresh and not tensor.shared:
                arrays[tensor.name][...] = 0
        return TorchState(self.stage, arrays, constants)

    def put(self, index: int, row: "TorchState") -> None:
        """See `State.put`."""
        for name, array in self.items():
            array[index] = row[name][0]


class TorchSession:
    """A Session that runs a Part's net eagerly; `taps` holds the intermediates of the last call."""

    def __init__(self, part: Part) -> None:
        self.stage, self.threads, self._net = part.stage, 1, part.net.eval()
        self.taps: dict[str, Array] = {}

    def start(self, constants: Mapping[str, Array] | None = None, /, **axes: int) -> TorchState:
        """See `Session.start`."""
        arrays = {t.name: np.zeros(t.sized(axes), t.dtype) for t in self.stage.state}
        return TorchState(self.stage, arrays, constants or {})

    def __call__(
        self, state: State, *, into: Mapping[str, Array] | None = None, **inputs: Array
    ) -> tuple[dict[str, Array], TorchState]:
        """See `Session`. The state is left as it was."""
        assert isinstance(state, TorchState)
        arrays_by_name = {**inputs, **state.constants, **state}
        with torch.no_grad(), tapped() as taps:
            results = self._net(*(torch.from_numpy(np.array(arrays_by_name[t.name])) for t in self.stage.feeds))
        self.taps = {name: value.detach().numpy() for name, value in taps.items()}
        results = (results,) if isinstance(results, Tensor) else results
        arrays = [r.detach().numpy() for r in results]
        outputs = dict(zip((t.name for t in self.stage.outputs), arrays, strict=False))
        for name, array in (into or {}).items():
            array[:] = outputs[name]
            outputs[name] = array
        after = zip(self.stage.state, arrays[len(self.stage.outputs) :], strict=True)
        copies = {t.name: array.copy() for t, array in after}  # the net may return views of what the taps hold
        return outputs, TorchState(self.stage, copies, state.constants)


def taps_of(session: Session) -> dict[str, Array]:
    """The intermediates of a torch net's last call, by name; a graph has none."""
    return session.taps if isinstance(session, TorchSession) else {}


class TorchBundle(Bundle):
    """A Bundle whose sessions are torch nets; manifest and files are those of the exported bundle.

    A stage that was released as a graph has no net: it is the graph here, too.
    """

    def __init__(self, exported: Bundle, parts: Iterable[Part]) -> None:
        self.path, self.manifest = exported.path, exported.manifest
        self._sessions_by_stage = {part.stage.name: TorchSession(part) for part in parts}

    def session(self, stage: str, threads: int = 1) -> Session:
        return self._sessions_by_stage.get(stage) or OrtSession(self.path / f"{stage}.onnx", threads)

    def once(self, stage: str, threads: int = 1) -> Session:
        return self.session(stage, threads)

    def behind(self, exported: Bundle) -> "TorchBundle":
        """The same nets behind the manifest and files of another bundle."""
        other = TorchBundle(exported, ())
        other._sessions_by_stage = self._sessions_by_stage
        return other
