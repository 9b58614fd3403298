"""Tables whose rows are looked up by id (Gather): int8 with one scale per row, or fp16, for both targets alike."""

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper

from voxport_exporters.graphs.store import Store

Array = np.ndarray
CHUNK = 1 << 14  # rows of a table in memory at a time
ROWS = ("int8row", "fp16row")


def rows(model: onnx.ModelProto, tables: Mapping[str, str], store: Store) -> None:
    """Replaces, in place, the Gathers of `tables`, name of a matrix [rows, width] -> one of ROWS."""
    nodes: list[NodeProto] = []
    for node in model.graph.node:
        if node.op_type != "Gather" or node.input[0] not in tables:
            nodes.append(node)
            continue
        table, ids = node.input
        out = node.output[0]
        if tables[table] == "fp16row":
            nodes += [
                helper.make_node("Gather", [f"{table}.fp16", ids], [f"{out}.fp16"]),
                helper.make_node("Cast", [f"{out}.fp16"], [out], to=TensorProto.FLOAT),
            ]
            continue
        nodes += [
            helper.make_node("Gather", [f"{table}.int8", ids], [f"{out}.int8"]),
            helper.make_node("Cast", [f"{out}.int8"], [f"{out}.float"], to=TensorProto.FLOAT),
            helper.make_node("Gather", [f"{table}.scale", ids], [f"{out}.scale"]),
            helper.make_node("Mul", [f"{out}.float", f"{out}.scale"], [out]),
        ]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    for table, kind in tables.items():
        values = store.read(table)
        if kind == "fp16row":
            store.write(f"{table}.fp16", _half(table, values))
            store.drop(table)
            continue
        codes, scale = _int8_rows(values)
        store.write(f"{table}.int8", codes)
        store.write(f"{table}.scale", scale)
        store.drop(table)


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


def tables(model: onnx.ModelProto) -> list[str]:
    """Matrices that nothing but Gathers along their rows read."""
    matrices = {i.name for i in model.graph.initializer if len(i.dims) == 2}
    elsewhere = set()
    for node in model.graph.node:
        looks_up = node.op_type == "Gather" and not any(a.name == "axis" and a.i for a in node.attribute)
        elsewhere |= set(node.input[1:] if looks_up else node.input)
    return sorted(matrices - elsewhere)
