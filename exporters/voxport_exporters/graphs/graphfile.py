"""GraphFile: a stage whose graph was made elsewhere, a released ONNX file that goes into the bundle byte for byte.

Only a recipe that names the stage has it rewritten: as `fp16` (weights of two bytes, arithmetic in float32), `int8` or
`int8r`. No net stands behind it, so the quantized graph is held to the file itself.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
from onnx_ir.passes.common import LiftConstantsToInitializersPass

from voxport.graphs.ort import OrtSession
from voxport.graphs.stage import Stage, TensorSpec
from voxport_exporters.graphs.products import name_of, replace
from voxport_exporters.targets import Target

Array = np.ndarray
LEAST_VALUES = 64  # a constant of a node that has as many counts as a weight


@dataclass(frozen=True)
class GraphFile:
    """`stage`: what the graph must take and give; its free axes may have any name in the file, or none."""

    stage: Stage
    path: Path
    rows: int  # of activations that a product takes in one typical call
    sample: Callable[[], dict[str, Array]]  # the inputs of one typical call, made up

    def session(self) -> OrtSession:
        """The graph, loaded. ValueError in one line when it is no graph, or not one of this stage."""
        session = OrtSession(self.path)
        self._check(self.stage.inputs, session.stage.feeds)
        self._check(self.stage.outputs, session.stage.outputs)
        return session

    def model(self, target: Target) -> ir.Model:
        """The graph to rewrite. Its constant matrices are initializers, and what multiplies by one is a MatMul.

        Raises ValueError when it has operators that `target` does not allow.
        """
        model = ir.from_proto(onnx.load(self.path))
        if other := {node.domain for node in model.graph.all_nodes()} - target.domains:
            raise ValueError(f"{self.path}: has operators of {', '.join(sorted(other))}, not for target {target.name}")
        LiftConstantsToInitializersPass(size_limit=LEAST_VALUES)(model)
        for node in list(model.graph):
            if node.op_type == "Gemm":
                _as_matmul(model.graph, node)
        return model

    def axes(self, stage: Stage) -> dict[str, int]:
        """The sizes of the free axes of `stage`, as the file has them, in the typical call."""
        call: Mapping[str, Array] = self.sample()
        pairs = (pair for t in stage.inputs for pair in zip(t.shape, call[t.name].shape, strict=True))
        return {name: size for name, size in pairs if isinstance(name, str)}

    def _check(self, expected: Sequence[TensorSpec], found: Sequence[TensorSpec]) -> None:
        """Raises ValueError unless the file has these tensors and no others."""
        specs = {t.name: t for t in found}
        if specs.keys() != {t.name for t in expected} or not all(_fits(t, specs[t.name]) for t in expected):
            has, lacks = (", ".join(map(str, tensors)) for tensors in (found, expected))
            raise ValueError(f"{self.path}: is not the graph of {self.stage.name}: it has {has}, wanted {lacks}")


def _fits(expected: TensorSpec, found: TensorSpec) -> bool:
    """Whether the file's tensor can be fed and read as this one. Integers of any width are taken for each other."""
    if expected.dtype != found.dtype and not all(np.issubdtype(t.dtype, np.integer) for t in (expected, found)):
        return False
    return len(expected.shape) == len(found.shape) and all(
        axis == size or isinstance(axis, str) for size, axis in zip(expected.shape, found.shape, strict=True)
    )


def _as_matmul(graph: ir.Graph, gemm: ir.Node) -> None:
    """Gemm(x, W, b) with a constant W becomes MatMul and Add, if it does no more than that."""
    x, weight, *bias = gemm.inputs
    numbers = (gemm.attributes.get_float("alpha", 1.0), gemm.attributes.get_float("beta", 1.0))
    if x is None or weight is None or not weight.is_initializer() or weight.const_value is None or numbers != (1, 1):
        return
    if gemm.attributes.get_int("transA", 0) or len(weight.uses()) != 1:
        return
    if gemm.attributes.get_int("transB", 0):
        turned = np.ascontiguousarray(weight.const_value.numpy().T)
        weight.const_value, weight.shape = ir.tensor(turned, name=name_of(weight)), ir.Shape(turned.shape)
    out = gemm.outputs[0]
    nodes = [ir.node("MatMul", [x, weight])]
    if bias and bias[0] is not None:
        nodes[0].outputs[0].name = f"{out.name}.product"
        nodes.append(ir.node("Add", [nodes[0].outputs[0], bias[0]]))
    replace(graph, [gemm], nodes, out)
