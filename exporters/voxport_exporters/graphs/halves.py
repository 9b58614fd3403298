"""Weights stored in two bytes: a float16 initializer and a Cast, which onnxruntime folds into float32 when it loads."""

from collections.abc import Collection

import numpy as np
import onnx_ir as ir

from voxport_exporters.graphs.products import drop_unused
from voxport_exporters.graphs.store import Store

Array = np.ndarray


def is_weight(value: ir.Value) -> bool:
    """Whether an initializer is float32 of two axes or more; vectors are not worth a node."""
    tensor = value.const_value
    return tensor is not None and tensor.dtype == ir.DataType.FLOAT and len(tensor.shape.numpy()) > 1


def halves(model: ir.Model, weights: Collection[str], store: Store) -> None:
    """Stores, in place, `weights` as float16. ValueError names one with a value that float16 does not hold."""
    graph = model.graph
    for name in weights:
        weight, values = graph.initializers[name], store.read(name)
        short: Array = values.astype(np.float16)
        if not np.isfinite(short).all():
            raise ValueError(f"{name} holds values beyond 65504, which fp16 cannot; choose fp32 for it")
        readers = list(weight.uses())
        half = store.write(f"{name}.fp16", short)
        cast = ir.node("Cast", [half], attributes={"to": ir.DataType.FLOAT}, outputs=[ir.Value(name=f"{name}.fp32")])
        graph.insert_before(graph[0], [cast])
        for node, index in readers:
            node.replace_input_with(index, cast.outputs[0])
        drop_unused(graph, [weight])
