"""trace() turns a part into a graph. It is the only place that calls torch.onnx.export."""

import logging
import warnings
from functools import partial
from typing import Any

import onnx_ir as ir
import torch
from onnx_ir.passes.common import ClearMetadataAndDocStringPass
from torch import nn

from voxport.graphs.stage import NEXT
from voxport_exporters.checkpoints.later import built, deferred
from voxport_exporters.graphs import laws
from voxport_exporters.graphs.part import Part
from voxport_exporters.nets import ops
from voxport_exporters.targets import OPSET, TARGETS

logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it warns that torchvision is not installed


def trace(part: Part, target: str) -> ir.Model:
    """Traces the part for `target`, a name in TARGETS, and checks the graph.

    Weights that the net deferred (checkpoints/later.py) are lazy tensors: each is read from the checkpoint when its
    values are asked for, and is not kept.
    Raises ValueError when the graph holds a node that draws random numbers, an operator the target may not use, or
    inputs and outputs other than declared.
    """
    model = part.build(target) if part.build is not None else _traced(part, target)
    _defer(model.graph, part)
    _strip(model)
    laws.check(model, part.stage, TARGETS[target])
    return model


def _traced(part: Part, target: str) -> ir.Model:
    stage, net = part.stage, part.net.eval()
    outputs = [t.name for t in stage.outputs] + [NEXT + t.name for t in stage.state]
    with ops.lowering(target), torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            net,
            tuple(part.feed(least=2)),  # an axis of size 1 would be taken for a constant
            input_names=[t.name for t in stage.feeds],
            output_names=outputs,
            dynamic_shapes=_free_axes(part),
            opset_version=OPSET,
            dynamo=True,
            optimize=True,
            verbose=False,
        )
    assert program is not None
    return program.model


def _free_axes(part: Part) -> Any:
    """torch.export's dynamic_shapes: per argument {axis index: word}; a variadic tail of states is one tuple."""
    axes = [{i: n for i, n in enumerate(t.shape) if isinstance(n, str)} for t in part.stage.feeds]
    code = part.net.forward.__code__
    names = list(code.co_varnames[1 : code.co_argcount])
    shapes: dict[str, Any] = dict(zip(names, axes, strict=False))
    if len(axes) > len(names):
        shapes[code.co_varnames[len(names) + 1]] = tuple(axes[len(names) :])
    return shapes


def _defer(graph: ir.Graph, part: Part) -> None:
    """Puts a lazy tensor in place of every placeholder that was traced."""
    for name, parameter in part.net.named_parameters():
        if deferred(parameter):
            value = graph.initializers.get(name)
            if value is None:  # its placeholder's values are in the graph
                raise ValueError(
                    f"stage {part.stage.name}: {name} was folded into another constant, or nothing reads it"
                )
            read = partial(_values, parameter, name)
            value.const_value = ir.LazyTensor(read, ir.DataType.FLOAT, ir.Shape(parameter.shape), name=name)


def _values(parameter: nn.Parameter, name: str) -> ir.TensorProtocol:
    return ir.Tensor(built(parameter).numpy(), name=name)


def _strip(model: ir.Model) -> None:
    """Drops what only a debugger of the exporter reads: stack traces with this machine's paths, value docs."""
    model.functions.clear()
    ClearMetadataAndDocStringPass()(model)
    model.metadata_props.clear()
    values = [*model.graph.inputs, *model.graph.initializers.values()]
    for value in (*values, *(output for node in model.graph for output in node.outputs)):
        value.metadata_props.clear()
        value.doc_string = None
