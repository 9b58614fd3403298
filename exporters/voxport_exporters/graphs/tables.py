"""Tables whose rows are looked up by id (Gather): int8 with one scale per row, or fp16, for both targets alike."""

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from voxport_exporters.graphs.products import drop_unused, matrix_shape, replace
from voxport_exporters.graphs.store import Store

Array = np.ndarray
CHUNK = 1 << 14  # rows of a table in memory at a time
ROWS = ("int8row", "fp16row")


def tables(graph: ir.Graph) -> list[str]:
    """Matrices that nothing but Gathers along their rows read."""
    matrices = {name: value for name, value in graph.initializers.items() if matrix_shape(value)}
    return sorted(name for name, value in matrices.items() if all(_looks_up(*use) for use in value.uses()))


def _looks_up(node: ir.Node, index: int) -> bool:
    return node.op_type == "Gather" and index == 0 and not node.attributes.get_int("axis", 0)


def rows(model: ir.Model, tables: Mapping[str, str], store: Store) -> None:
    """Replaces, in place, the Gathers of `tables`, name of a matrix [rows, width] -> one of ROWS."""
    graph = model.graph
    for name, kind in tables.items():
        table, values = graph.initializers[name], store.read(name)
        if kind == "fp16row":
            parts = [store.write(f"{name}.fp16", _half(name, values))]
        else:
            codes, scale = _int8_rows(values)
            parts = [store.write(f"{name}.int8", codes), store.write(f"{name}.scale", scale)]
        for node in table.consumers():
            out = node.outputs[0]
            replace(graph, [node], _look_up(parts, node.inputs[1], str(out.name)), out)
        drop_unused(graph, [table])


def _look_up(parts: list[ir.Value], ids: ir.Value | None, out: str) -> list[ir.Node]:
    """The rows `ids` of a table in fp16, or of its codes and scales, as float32."""
    if len(parts) == 1:
        half = ir.node("Gather", [parts[0], ids], outputs=[ir.Value(name=f"{out}.fp16")])
        return [half, ir.node("Cast", half.outputs, attributes={"to": ir.DataType.FLOAT})]
    codes = ir.node("Gather", [parts[0], ids], outputs=[ir.Value(name=f"{out}.int8")])
    real = ir.node("Cast", codes.outputs, attributes={"to": ir.DataType.FLOAT}, outputs=[ir.Value(name=f"{out}.float")])
    scale = ir.node("Gather", [parts[1], ids], outputs=[ir.Value(name=f"{out}.scale")])
    return [codes, real, scale, ir.node("Mul", [real.outputs[0], scale.outputs[0]])]


def _int8_rows(values: Array) -> tuple[Array, Array]:
    """values float32 [rows, width] -> (int8 of the same shape, scale float32 [rows, 1])."""
    codes, scale = np.empty(values.shape, np.int8), np.empty((len(values), 1), np.float32)
    for start in range(0, len(values), CHUNK):
        part = slice(start, start + CHUNK)
        scale[part, 0] = np.abs(values[part]).max(axis=1) / 127
        scale[part][scale[part] == 0] = 1
        codes[part] = np.rint(values[part] / scale[part])
    return codes, scale


def rounded_rows(values: Array, kind: str) -> Array:
    """What a table of ROWS gives back: float32 of the same shape."""
    if kind == "fp16row":
        return _half("table", values).astype(np.float32)
    codes, scale = _int8_rows(values)
    rounded: Array = codes * scale
    return rounded


def _half(table: str, values: Array) -> Array:
    halves: Array = values.astype(np.float16)
    if not np.isfinite(halves).all():
        raise ValueError(f"{table} holds values beyond 65504, which fp16 cannot; choose int8row or fp32 for it")
    return halves
