"""Store: the weights of one graph while it is rewritten, one in memory at a time.

store = Store(model, net, folder / "lm.onnx.data")
store.write("w.int8", quantize(store.read("w")))     # read from the checkpoint now, appended to the data file now
store.drop("w")
store.finish()                                       # what nobody rewrote goes to the data file as it is
"""

import hashlib
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from voxport_exporters.checkpoints.later import built, deferred

Array = np.ndarray
ALIGN = 4096  # onnxruntime maps weights straight from the file, page by page
INLINE = 1024  # smaller initializers stay inside the graph file


class Written:
    """Where the data files of one folder hold which values."""

    def __init__(self) -> None:
        self.places: dict[bytes, dict[str, str]] = {}


class Store:
    def __init__(
        self,
        model: onnx.ModelProto,
        net: nn.Module | None = None,
        path: Path | None = None,
        written: Written | None = None,
    ) -> None:
        """`net` knows the weights it deferred; without `path` everything stays in the model.

        `written`: values that a data file in the same folder holds already are pointed at, not written again.
        """
        self._written = written or Written()
        self._graph = model.graph
        self._later = {n: p for n, p in net.named_parameters() if deferred(p)} if net is not None else {}
        self._path = path
        self._at = {i.name: i for i in model.graph.initializer}

    def read(self, name: str) -> Array:
        """The values of an initializer. One written to the data file is not read back: KeyError."""
        initializer = self._at[name]
        if initializer.data_location != TensorProto.EXTERNAL:
            return numpy_helper.to_array(initializer)
        return built(self._later[name]).numpy()

    def write(self, name: str, array: Array, dtype: int | None = None, shape: tuple[int, ...] | None = None) -> None:
        """Adds or replaces the initializer `name`. `dtype` and `shape` for bytes that are packed 4-bit numbers."""
        self.drop(name)
        kind = helper.np_dtype_to_tensor_dtype(array.dtype) if dtype is None else dtype
        tensor = TensorProto(name=name, data_type=kind, dims=array.shape if shape is None else shape)
        if self._path is None or array.nbytes < INLINE:
            tensor.raw_data = array.tobytes()
        else:
            tensor.data_location = TensorProto.EXTERNAL
            for key, value in self._place(self._path, np.ascontiguousarray(array)).items():
                tensor.external_data.add(key=key, value=value)
        self._graph.initializer.append(tensor)
        self._at[name] = self._graph.initializer[-1]
        self._later.pop(name, None)

    def _place(self, path: Path, array: Array) -> dict[str, str]:
        """Where the values lie: location, offset and length as external data names them."""
        content = array.reshape(-1).view(np.uint8).data
        digest = hashlib.sha256(content).digest()
        if digest not in self._written.places:
            with path.open("ab") as file:
                file.write(b"\0" * (-file.tell() % ALIGN))
                place = {"location": path.name, "offset": str(file.tell()), "length": str(array.nbytes)}
                file.write(content)  # tofile() hides a full disk
            self._written.places[digest] = place
        return self._written.places[digest]

    def drop(self, name: str) -> None:
        if self._at.pop(name, None) is not None:
            del self._graph.initializer[[i.name for i in self._graph.initializer].index(name)]

    def finish(self) -> None:
        """Writes what the graph still holds or waits for."""
        for name in list(self._at):
            large = self._at[name].data_location != TensorProto.EXTERNAL and self._at[name].ByteSize() >= INLINE
            if name in self._later or (large and self._path is not None):
                self.write(name, self.read(name))
