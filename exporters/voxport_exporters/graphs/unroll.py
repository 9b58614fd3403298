"""Puts traced graphs one after another into one: loops of a fixed count become straight graphs in seconds.

chain = Chain()
chain.add(first, "first", {"x": "x", "y": "y.0"})                         # values that keep or get an outer name
chain.add(step, "step1", {"x": "y.0", "y": "y.1"}, {"head.": "heads.1."})  # weights by prefix -> what they are here
model = chain.model(stage)

Weights go by name: what two graphs both call `layers.0.weight` is stored once. Constants that a trace left go by value.
"""

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from voxport.graphs.stage import NEXT, Stage, TensorSpec
from voxport_exporters.targets import IR_VERSION, OPSET


class Chain:
    def __init__(self) -> None:
        self._nodes: list[ir.Node] = []
        self._values: dict[str, ir.Value] = {}
        self._weights: dict[str, ir.Value] = {}
        self._constants: dict[tuple[ir.DataType, tuple[int, ...], bytes], str] = {}
        self._opsets: dict[str, int] = {"": OPSET}

    def add(
        self,
        model: ir.Model,
        name: str,
        wires: Mapping[str, str],
        weights: Mapping[str, str] | None = None,
        own: frozenset[str] = frozenset(),
    ) -> None:
        """Appends a graph. `wires`: its inputs and outputs -> names outside; other values get `name` before theirs.

        `own`: the initializers that are weights; a prefix of theirs found in `weights` is replaced.
        """
        graph = model.graph
        outside: dict[ir.Value, ir.Value] = {}
        for inner, initializer in graph.initializers.items():
            tensor = initializer.const_value
            assert tensor is not None
            outer = _renamed(inner, weights or {}) if inner in own else self._constant(tensor, f"{name}.{inner}")
            outside[initializer] = self._weight(outer, tensor)

        def value(inner: ir.Value) -> ir.Value:
            if inner not in outside:
                outer = self._value(wires.get(str(inner.name), f"{name}.{inner.name}"))
                outer.type, outer.shape = outer.type or inner.type, outer.shape or inner.shape
                outside[inner] = outer
            return outside[inner]

        for node in graph:
            inputs = [None if inner is None else value(inner) for inner in node.inputs]
            outputs = [value(inner) for inner in node.outputs]
            attributes = list(node.attributes.values())
            copy = ir.Node(node.domain, node.op_type, inputs, attributes, outputs=outputs, name=f"{name}.{node.name}")
            self._nodes.append(copy)
        for domain, version in graph.opset_imports.items():
            self._opsets[domain] = max(version, self._opsets.get(domain, 0))

    def node(self, kind: str, inputs: list[str], outputs: list[str], axis: int | None = None) -> None:
        attributes = {} if axis is None else {"axis": axis}
        ends = [[self._value(name) for name in names] for names in (inputs, outputs)]
        self._nodes.append(ir.node(kind, ends[0], attributes, outputs=ends[1], name=f"{kind}.{outputs[0]}"))

    def constant(self, name: str, array: np.ndarray) -> None:
        self._weight(name, ir.tensor(array, name=name))

    def model(self, stage: Stage) -> ir.Model:
        """What was added so far, with the inputs and outputs of `stage`."""
        after = (TensorSpec(NEXT + t.name, t.dtype, t.shape) for t in stage.state)
        graph = ir.Graph(
            [self._declared(t) for t in stage.feeds],
            [self._declared(t) for t in (*stage.outputs, *after)],
            nodes=self._nodes,
            initializers=list(self._weights.values()),
            opset_imports=self._opsets,
            name=stage.name,
        )
        return ir.Model(graph, ir_version=IR_VERSION)

    def _value(self, name: str) -> ir.Value:
        """The weight or value of this name in the chain."""
        return self._weights.get(name) or self._values.setdefault(name, ir.Value(name=name))

    def _weight(self, name: str, tensor: ir.TensorProtocol) -> ir.Value:
        if name not in self._weights:
            kind, shape = ir.TensorType(tensor.dtype), ir.Shape(tensor.shape.numpy())
            self._weights[name] = ir.Value(name=name, type=kind, shape=shape, const_value=tensor)
        return self._weights[name]

    def _declared(self, spec: TensorSpec) -> ir.Value:
        value = self._value(spec.name)
        value.type = ir.TensorType(ir.DataType.from_numpy(np.dtype(spec.dtype)))
        value.shape = ir.Shape(spec.shape)
        return value

    def _constant(self, tensor: ir.TensorProtocol, name: str) -> str:
        """The name of a constant of this value, which may be an earlier one's."""
        return self._constants.setdefault((tensor.dtype, tuple(tensor.shape.numpy()), tensor.tobytes()), name)


def _renamed(name: str, prefixes: Mapping[str, str]) -> str:
    for prefix, to in prefixes.items():
        if name.startswith(prefix):
            return to + name.removeprefix(prefix)
    return name
