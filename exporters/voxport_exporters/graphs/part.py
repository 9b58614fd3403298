"""Part: a stage with its net. export() is the only place that calls torch.onnx.export."""

import logging
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import onnx
import onnx_ir as ir
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from voxport.graphs.stage import NEXT, Stage, TensorSpec
from voxport.recipe import Recipe
from voxport_exporters.checkpoints.later import deferred
from voxport_exporters.nets import ops

OPSET = 20  # ai.onnx; the newest that onnxruntime and TensorRT 10 both take whole
CONTRIB = "com.microsoft"
TARGETS = ("cpu", "portable")
PENDING = "pending"  # the location of weights that are still to be written

logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it warns that torchvision is not installed

# Nodes whose presence means the net was traced in train mode or draws its own random numbers (DESIGN idea 3).
RANDOM = {
    "Dropout",
    "Multinomial",
    "Bernoulli",
    "RandomNormal",
    "RandomNormalLike",
    "RandomUniform",
    "RandomUniformLike",
}


@dataclass(frozen=True)
class Part:
    """`net(*inputs, *state)` returns `(*outputs, *next state)`, in the order `stage` declares."""

    stage: Stage
    net: nn.Module
    axes: Mapping[str, int]  # sizes of the free axes in one step of the schedule
    build: Callable[[str], onnx.ModelProto] | None = None  # target -> graph, where tracing the whole net takes too long
    sample: Callable[[], tuple[Tensor, ...]] | None = None  # the inputs of one long call, as in use
    rebuild: Callable[[frozenset[str]], nn.Module] | None = None  # names of int8 weights -> the net, see for_recipe()

    def for_recipe(self, recipe: Recipe) -> "Part":
        """This part with its net built for `recipe`.

        A net that computes its convolutions in either of two ways, by weights of the same names, is built again where
        the recipe makes some of them int8, and then computes these with MatMuls from the start. Other nets stay.
        """
        if self.rebuild is None:
            return self
        names = (name for name, parameter in self.net.named_parameters() if parameter.dim() > 1)
        int8 = frozenset(name for name in names if recipe.kind(self.stage.name, name) == "int8")
        return replace(self, net=self.rebuild(int8)) if int8 else self

    def feed(self, least: int = 1) -> list[Tensor]:
        """Zeros for every input and state in declared order; free axes of one step, but no shorter than `least`."""
        axes = {name: max(least, size) for name, size in self.axes.items()}
        return [torch.zeros(t.sized(axes), dtype=getattr(torch, t.dtype)) for t in self.stage.feeds]

    def flops(self) -> dict[str, int]:
        """Floating-point operations of one step by module name; the whole net is `""`."""
        counter = FlopCounterMode(display=False)
        with torch.no_grad(), counter:
            self.net(*self.feed())
        root = type(self.net).__name__
        counts = {name: sum(ops.values()) for name, ops in counter.get_flop_counts().items()}
        return {"": counts.get("Global", 0)} | {
            n.removeprefix(f"{root}."): c for n, c in counts.items() if n.startswith(f"{root}.")
        }


def export(part: Part, target: str) -> onnx.ModelProto:
    """Traces the part for `target` ("cpu" or "portable"), checks the graph, returns it with weights inside.

    Weights the net deferred (weights.py) stay outside: initializers of external data that nobody has written yet, at
    PENDING; pack.py builds and writes them one at a time.
    Raises ValueError when the graph holds a node that draws random numbers, an operator the target may not use, or
    inputs and outputs other than declared.
    """
    stage, net = part.stage, part.net.eval()
    if part.build is not None:
        model = part.build(target)
        check(model, stage, target)
        return model
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
    for name, parameter in net.named_parameters():
        if deferred(parameter):
            value = program.model.graph.initializers.get(name)
            if value is None:  # its placeholder's values are in the graph
                raise ValueError(f"stage {stage.name}: {name} was folded into another constant, or nothing reads it")
            shape = ir.Shape(parameter.shape)
            value.const_value = ir.ExternalTensor(PENDING, 0, 0, ir.DataType.FLOAT, shape=shape, name=name)
    model = program.model_proto
    _strip(model)
    check(model, stage, target)
    return model


def _free_axes(part: Part) -> Any:
    """torch.export's dynamic_shapes: per argument {axis index: word}; a variadic tail of states is one tuple."""
    per = [{i: n for i, n in enumerate(t.shape) if isinstance(n, str)} for t in part.stage.feeds]
    names = list(part.net.forward.__code__.co_varnames[1 : part.net.forward.__code__.co_argcount])
    fixed = dict(zip(names, per, strict=False))
    if len(per) > len(names):
        fixed[part.net.forward.__code__.co_varnames[len(names) + 1]] = tuple(per[len(names) :])  # type: ignore[assignment]
    return fixed


def _strip(model: onnx.ModelProto) -> None:
    """Drops what only a debugger of the exporter reads: stack traces with this machine's paths, value docs."""
    for node in model.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        del value.metadata_props[:]
    del model.graph.metadata_props[:]
    del model.metadata_props[:]
    del model.functions[:]


def check(model: onnx.ModelProto, stage: Stage, target: str) -> None:
    """The laws every graph keeps. ValueError names the first node or tensor that breaks one."""
    for node in model.graph.node:
        if node.op_type in RANDOM:
            raise ValueError(
                f"stage {stage.name}: {node.op_type} node {node.name}: "
                "randomness is an input here; is the net in eval mode?"
            )
        if node.domain not in ("", "ai.onnx") and not (target == "cpu" and node.domain == CONTRIB):
            raise ValueError(f"stage {stage.name}: {node.domain}::{node.op_type} is not for target {target}")
    onnx.checker.check_model(_without_external(model))
    for declared, values in (
        (stage.feeds, model.graph.input),
        ((*stage.outputs, *(TensorSpec(NEXT + t.name, t.dtype, t.shape) for t in stage.state)), model.graph.output),
    ):
        _same(stage.name, declared, values)


def _without_external(model: onnx.ModelProto) -> onnx.ModelProto:
    """The checker insists on opening external data: here such initializers are inputs instead."""
    outside = [i for i in model.graph.initializer if i.data_location == onnx.TensorProto.EXTERNAL]
    if not outside:
        return model
    light = onnx.ModelProto()
    light.CopyFrom(model)
    for initializer in outside:
        light.graph.initializer.remove(initializer)
        info = onnx.helper.make_tensor_value_info(initializer.name, initializer.data_type, initializer.dims)
        light.graph.input.append(info)
    return light


def _same(stage: str, declared: tuple[TensorSpec, ...], values: Any) -> None:
    got = {}
    for value in values:
        shape = tuple(d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim)
        dtype = onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type).name
        got[value.name] = TensorSpec(value.name, dtype, shape)
    for want in declared:
        if got.get(want.name) != want:
            raise ValueError(f"stage {stage}: declared {want}, the graph has {got.get(want.name, 'no such tensor')}")
    if len(got) != len(declared):
        raise ValueError(f"stage {stage}: undeclared tensors {sorted(got.keys() - {t.name for t in declared})}")
