"""Caches in fp16: half the memory, for every target. What is written is cast before, what is read is cast afterwards.

In between, values that only move (MOVES) move as fp16 too, so that copies are of half the size.
"""

from collections.abc import Collection
from dataclasses import replace

import onnx_ir as ir

from voxport.graphs.stage import Stage, TensorSpec
from voxport.recipe import Kind

KIND: Kind = "fp16cache"
MOVES = {"ScatterND": (0, 2), "Slice": (0,), "Concat": None}  # operator -> its inputs of the moved type; None: all


def of(graph: ir.Graph, stage: Stage) -> list[str]:
    """The inputs and states that this graph could take in fp16: those that only move before they are read."""
    known = {t.name for t in stage.feeds if t.dtype == "float32"}
    return [
        str(v.name) for v in graph.inputs if v.name in known and v.uses() and all(_moves(n, i) for n, i in v.uses())
    ]


def fp16(model: ir.Model, stage: Stage, names: Collection[str]) -> Stage:
    """Makes the inputs and states `names` fp16, in place; returns the stage as it is declared then."""
    graph = model.graph
    halves = {value for value in graph.inputs if value.name in names}
    for value in halves:
        value.type = ir.TensorType(ir.DataType.FLOAT16)
    singles: dict[ir.Value, ir.Value] = {}  # what was cast back
    for node in list(graph):
        halved = [(i, value) for i, value in enumerate(node.inputs) if value in halves]
        if not halved:
            continue
        if not all(_moves(node, i) for i, _ in halved):
            for i, value in halved:
                assert value is not None
                if value not in singles:
                    singles[value] = _cast(graph, node, value, ir.DataType.FLOAT)
                node.replace_input_with(i, singles[value])
            continue
        for i, other in enumerate(node.inputs):
            if other is not None and other not in halves and _moves(node, i):
                node.replace_input_with(i, _cast(graph, node, other, ir.DataType.FLOAT16))
        halves.add(node.outputs[0])
        node.outputs[0].type = ir.TensorType(ir.DataType.FLOAT16)

    def declared(tensors: tuple[TensorSpec, ...]) -> tuple[TensorSpec, ...]:
        return tuple(replace(t, dtype="float16") if t.name in names else t for t in tensors)

    return replace(stage, inputs=declared(stage.inputs), state=declared(stage.state))


def _moves(node: ir.Node, index: int) -> bool:
    places = MOVES.get(node.op_type, ())
    return places is None or index in places


def _cast(graph: ir.Graph, before: ir.Node, value: ir.Value, to: ir.DataType) -> ir.Value:
    name = f"{value.name}.{'half' if to == ir.DataType.FLOAT16 else 'single'}"
    node = ir.node("Cast", [value], attributes={"to": to}, outputs=[ir.Value(name=name)])
    graph.insert_before(before, [node])
    return node.outputs[0]
