"""The laws that every graph keeps, whatever net it came from."""

from collections.abc import Sequence

import onnx_ir as ir
from onnx_ir.passes.common import CheckerPass

from voxport.graphs.stage import NEXT, Stage, TensorSpec
from voxport_exporters.targets import Target

# Nodes whose presence means the net was traced in train mode or draws its own random numbers.
RANDOM = {
    "Dropout",
    "Multinomial",
    "Bernoulli",
    "RandomNormal",
    "RandomNormalLike",
    "RandomUniform",
    "RandomUniformLike",
}


def check(model: ir.Model, stage: Stage, target: Target) -> None:
    """Raises ValueError that names the first node or tensor that breaks a law.

    No node draws random numbers, every operator is the target's, inputs and outputs are those `stage` declares, the
    sizes of the outputs follow from those of the inputs, and the onnx checker accepts the graph (weights of more than
    1 kB are not read for it).
    """
    for tensor in stage.unsized:
        raise ValueError(f"stage {stage.name}: {tensor}: no input has all of its free axes")
    for node in model.graph.all_nodes():
        if node.op_type in RANDOM:
            raise ValueError(
                f"stage {stage.name}: {node.op_type} node {node.name}: "
                "randomness is an input here; is the net in eval mode?"
            )
        if node.domain not in target.domains:
            raise ValueError(f"stage {stage.name}: {node.domain}::{node.op_type} is not for target {target.name}")
    CheckerPass()(model)
    _check_tensors(stage.name, stage.feeds, model.graph.inputs)
    after = (TensorSpec(NEXT + t.name, t.dtype, t.shape) for t in stage.state)
    _check_tensors(stage.name, (*stage.outputs, *after), model.graph.outputs)


def _check_tensors(stage: str, declared: tuple[TensorSpec, ...], values: Sequence[ir.Value]) -> None:
    found = {spec.name: spec for spec in map(_spec, values)}
    for spec in declared:
        if found.get(spec.name) != spec:
            raise ValueError(f"stage {stage}: declared {spec}, the graph has {found.get(spec.name, 'no such tensor')}")
    if len(found) != len(declared):
        raise ValueError(f"stage {stage}: undeclared tensors {sorted(found.keys() - {t.name for t in declared})}")


def _spec(value: ir.Value) -> TensorSpec:
    assert value.name is not None
    assert value.dtype is not None
    assert value.shape is not None
    shape = tuple(axis if isinstance(axis, int) else axis.value or 0 for axis in value.shape)
    return TensorSpec(value.name, value.dtype.numpy().name, shape)
