"""Store: the weights of one graph while it is rewritten, one in memory at a time.

store = Store(model.graph, folder / "lm.onnx.data")
store.write("w.int8", quantize(store.read("w")))     # read from the checkpoint now, appended to the data file now
store.finish()                                       # what nobody rewrote goes to the data file as it is
"""

import hashlib
from pathlib import Path

import numpy as np
import onnx_ir as ir

Array = np.ndarray
ALIGN = 4096  # onnxruntime maps weights straight from the file, page by page
INLINE = 1024  # bytes; smaller initializers stay inside the graph file


class DataFiles:
    """Where the data files of one folder hold which values: sha256 -> (name of the file, offset)."""

    def __init__(self) -> None:
        self.places: dict[bytes, tuple[str, int]] = {}


class Store:
    def __init__(self, graph: ir.Graph, path: Path | None = None, data: DataFiles | None = None) -> None:
        """Without `path` everything stays in the graph.

        `data`: values that a data file in the same folder holds already are pointed at, not written again.
        """
        self._graph, self._path = graph, path
        self._data = data or DataFiles()

    def read(self, name: str) -> Array:
        """The values of an initializer. One written to the data file is not read back: KeyError."""
        tensor = self._graph.initializers[name].const_value
        if tensor is None or isinstance(tensor, ir.ExternalTensor):
            raise KeyError(name)
        return tensor.numpy()

    def write(
        self, name: str, array: Array, dtype: ir.DataType | None = None, shape: tuple[int, ...] | None = None
    ) -> ir.Value:
        """Adds or replaces the initializer `name`. `dtype` and `shape` for bytes that are packed 4-bit numbers."""
        if name in self._graph.initializers:
            self._graph.initializers.pop(name)
        tensor = self._tensor(name, array, dtype, shape)
        value = ir.Value(
            name=name, type=ir.TensorType(tensor.dtype), shape=ir.Shape(tensor.shape.numpy()), const_value=tensor
        )
        self._graph.register_initializer(value)
        return value

    def finish(self) -> None:
        """Writes what the graph still holds or waits for."""
        for name, value in self._graph.initializers.items():
            tensor = value.const_value
            if tensor is not None and not isinstance(tensor, ir.ExternalTensor | ir.PackedTensor):
                value.const_value = self._tensor(name, tensor.numpy())

    def discard(self) -> None:
        """Removes the data file. Only for a store that shares none."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)

    def _tensor(
        self, name: str, array: Array, dtype: ir.DataType | None = None, sizes: tuple[int, ...] | None = None
    ) -> ir.TensorProtocol:
        kind = ir.DataType.from_numpy(array.dtype) if dtype is None else dtype
        shape = ir.Shape(array.shape if sizes is None else sizes)
        if self._path is not None and array.nbytes >= INLINE:
            location, offset = self._place(self._path, np.ascontiguousarray(array))
            return ir.ExternalTensor(
                location, offset, array.nbytes, kind, shape=shape, name=name, base_dir=self._path.parent
            )
        if dtype is not None:
            return ir.PackedTensor(array, kind, shape=shape, name=name)
        return ir.Tensor(array, kind, shape=shape, name=name)

    def _place(self, path: Path, array: Array) -> tuple[str, int]:
        """(name of the data file, offset) of these values; appends them where no file of the folder has them yet."""
        content = array.reshape(-1).view(np.uint8).data
        digest = hashlib.sha256(content).digest()
        if digest not in self._data.places:
            with path.open("ab") as file:
                file.write(b"\0" * (-file.tell() % ALIGN))
                place = path.name, file.tell()
                file.write(content)  # tofile() hides a full disk
            self._data.places[digest] = place
        return self._data.places[digest]
