"""The MatMuls of a graph whose second operand is a constant matrix: what quantization replaces."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import onnx_ir as ir


@dataclass(frozen=True, eq=False)
class Product:
    """One MatMul with a constant weight [inputs, outputs]."""

    node: ir.Node
    weight: ir.Value

    @property
    def x(self) -> ir.Value:
        value = self.node.inputs[0]
        assert value is not None
        return value

    @property
    def out(self) -> ir.Value:
        return self.node.outputs[0]

    @property
    def name(self) -> str:
        """Of the weight."""
        return name_of(self.weight)

    @property
    def shape(self) -> tuple[int, int]:
        """(inputs, outputs) of the weight."""
        inputs, outputs = matrix_shape(self.weight) or (0, 0)
        return inputs, outputs


def products(graph: ir.Graph) -> Iterator[Product]:
    """Every MatMul whose second operand is a 2-D initializer of float32, in the graph's order. What a net computes in
    float64 is never quantized."""
    for node in graph:
        weight = node.inputs[1] if node.op_type == "MatMul" else None
        if weight is not None and weight.is_initializer() and matrix_shape(weight) and _is_float32(weight):
            yield Product(node, weight)


def matrix_shape(value: ir.Value) -> tuple[int, int] | None:
    """The two sizes of a constant matrix; None where the constant has another rank."""
    shape = value.const_value.shape.numpy() if value.const_value is not None else ()
    return (shape[0], shape[1]) if len(shape) == 2 else None


def _is_float32(value: ir.Value) -> bool:
    return value.const_value is not None and value.const_value.dtype == ir.DataType.FLOAT


def bias_after(value: ir.Value) -> tuple[ir.Node, ir.Value] | None:
    """The Add of a constant vector that is the only reader of `value`, and that vector."""
    readers = value.consumers()
    if len(readers) != 1 or len(value.uses()) != 1 or value.is_graph_output() or readers[0].op_type != "Add":
        return None
    other = next(x for x in readers[0].inputs if x is not value)
    if other is None or other.const_value is None or not other.is_initializer():
        return None
    return (readers[0], other) if other.const_value.shape.rank() == 1 else None


def replace(graph: ir.Graph, old: Sequence[ir.Node], new: Sequence[ir.Node], out: ir.Value) -> None:
    """Puts `new` where the first node of `old` stands. The last output of `new` takes the place and name of `out`."""
    result = new[-1].outputs[0]
    result.type, result.shape, result.name = out.type, out.shape, out.name
    out.replace_all_uses_with(result, replace_graph_outputs=True)
    graph.insert_before(old[0], new)
    graph.remove(old, safe=True)


def drop_unused(graph: ir.Graph, values: Sequence[ir.Value]) -> None:
    """Removes those of these initializers that nothing reads any more."""
    for value in values:
        if not value.uses() and not value.is_graph_output():
            graph.initializers.pop(name_of(value), None)


def name_of(value: ir.Value) -> str:
    assert value.name is not None
    return value.name
