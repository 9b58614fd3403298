"""Puts traced graphs one after another into one: loops of a fixed count become straight graphs in seconds.

chain = Chain()
chain.add(first, "first", {"x": "x", "y": "y.0"})                         # values that keep or get an outer name
chain.add(step, "step1", {"x": "y.0", "y": "y.1"}, {"head.": "heads.1."})  # weights by prefix -> what they are here
model = chain.model(stage)

Weights go by name: what two graphs both call `layers.0.weight` is stored once. Constants that a trace left go by value.
"""

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper

from voxport.graphs.stage import NEXT, Stage, TensorSpec


class Chain:
    def __init__(self) -> None:
        self._nodes: list[NodeProto] = []
        self._weights: dict[str, TensorProto] = {}
        self._constants: dict[bytes, str] = {}
        self._shapes: dict[str, onnx.ValueInfoProto] = {}
        self._opsets: dict[str, int] = {}

    def add(
        self,
        model: onnx.ModelProto,
        name: str,
        wires: Mapping[str, str],
        weights: Mapping[str, str] | None = None,
        own: frozenset[str] = frozenset(),
    ) -> None:
        """Appends a graph. `wires`: its inputs and outputs -> names outside; other values get `name` before theirs.

        `own`: the initializers that are weights; a prefix of theirs found in `weights` is replaced.
        """
        names = dict(wires)
        for initializer in model.graph.initializer:
            outer = (
                _renamed(initializer.name, weights or {})
                if initializer.name in own
                else self._constant(initializer, f"{name}.{initializer.name}")
            )
            names[initializer.name] = outer
            if outer not in self._weights:
                self._weights[outer] = TensorProto()
                self._weights[outer].CopyFrom(initializer)
                self._weights[outer].name = outer

        def outside(value: str) -> str:
            return names.get(value, f"{name}.{value}") if value else ""

        for source in model.graph.node:
            node = NodeProto()
            node.CopyFrom(source)
            node.name = f"{name}.{source.name}"
            node.input[:] = [outside(value) for value in source.input]
            node.output[:] = [outside(value) for value in source.output]
            self._nodes.append(node)
        for source in (*model.graph.value_info, *model.graph.output, *model.graph.input):
            value = onnx.ValueInfoProto()
            value.CopyFrom(source)
            value.name = outside(value.name)
            self._shapes.setdefault(value.name, value)
        for opset in model.opset_import:
            self._opsets[opset.domain] = max(opset.version, self._opsets.get(opset.domain, 0))

    def node(self, kind: str, inputs: list[str], outputs: list[str], axis: int | None = None) -> None:
        node = helper.make_node(kind, inputs, outputs, name=f"{kind}.{outputs[0]}")
        if axis is not None:
            node.attribute.append(helper.make_attribute("axis", axis))
        self._nodes.append(node)

    def constant(self, name: str, tensor: TensorProto) -> None:
        self._weights[name] = tensor

    def model(self, stage: Stage) -> onnx.ModelProto:
        """What was added so far, with the inputs and outputs of `stage`."""
        inputs = [_info(t) for t in stage.feeds]
        after = (TensorSpec(NEXT + t.name, t.dtype, t.shape) for t in stage.state)
        outputs = [_info(t) for t in (*stage.outputs, *after)]
        ends = {value.name for value in (*inputs, *outputs)} | self._weights.keys()
        graph = helper.make_graph(
            self._nodes,
            stage.name,
            inputs,
            outputs,
            list(self._weights.values()),
            value_info=[value for value in self._shapes.values() if value.name not in ends],
        )
        opsets = [helper.make_opsetid(domain, version) for domain, version in self._opsets.items()]
        return helper.make_model(graph, opset_imports=opsets, ir_version=10)

    def _constant(self, initializer: TensorProto, name: str) -> str:
        """The name of a constant of this value, which may be an earlier one's."""
        nameless = TensorProto()
        nameless.CopyFrom(initializer)
        nameless.name = ""
        return self._constants.setdefault(nameless.SerializeToString(), name)


def _renamed(name: str, prefixes: Mapping[str, str]) -> str:
    for prefix, to in prefixes.items():
        if name.startswith(prefix):
            return to + name.removeprefix(prefix)
    return name


def _info(tensor: TensorSpec) -> onnx.ValueInfoProto:
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(tensor.dtype))
    return helper.make_tensor_value_info(tensor.name, kind, list(tensor.shape))
