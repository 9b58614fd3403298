"""Caches of keys and values in 8 bits: GroupQueryAttention reads and writes them with one scale per channel.

A quarter of the bytes; with many layers that is half the attention's time from a few hundred tokens on
(docs/performance.md 1.5). Only the cpu target has such a kernel; elsewhere, and for head sizes it does not take, caches
stay float32.
"""

from collections.abc import Collection, Mapping
from dataclasses import replace

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper

from voxport.graphs.stage import CAPACITY, NEXT, Stage
from voxport.recipe import Kind
from voxport_exporters.checkpoints.later import reading
from voxport_exporters.graphs.part import Part
from voxport_exporters.graphs.store import Array, Store

KIND: Kind = "int8cache"
MARGIN = 1.5  # the largest of a thousand tokens over that of the sample's, and some
_KEYS, _VALUES = 3, 4  # inputs of GroupQueryAttention


def of(model: onnx.ModelProto, stage: Stage) -> list[str]:
    """The states that this graph could keep in 8 bits."""
    read = {name for node in _attentions(model) for name in node.input[_KEYS : _VALUES + 1]}
    return [t.name for t in stage.state if t.name in read]


def scales(part: Part, names: Collection[str]) -> dict[str, Array]:
    """What one step of each cache stands for, float32 [kv heads * head size], from what the part's sample leaves in it.

    Rotation turns channel i of a key with channel i + size / 2: both get the scale of the longest such pair, so that
    the sample speaks for every position. ValueError when the part has no sample.
    """
    if part.sample is None:
        raise ValueError(f"stage {part.stage.name}: it has no sample to measure its caches by; leave {KIND} out")
    inputs = part.sample()
    axes = {
        word: size
        for tensor, value in zip(part.stage.inputs, inputs, strict=True)
        for word, size in zip(tensor.shape, value.shape, strict=True)
        if isinstance(word, str)
    }
    axes[CAPACITY] = axes["time"]
    zeros = [torch.zeros(t.sized(axes), dtype=getattr(torch, t.dtype)) for t in part.stage.state]
    with torch.no_grad(), reading(part.net):
        after = part.net(*inputs, *zeros)[len(part.stage.outputs) :]
    left = {t.name: value for t, value in zip(part.stage.state, after, strict=True)}
    found = {}
    for name in names:
        largest = left[name].abs().amax(dim=(0, 2))  # [kv heads, head size]
        if name.startswith("keys."):
            low, high = left[name].chunk(2, dim=-1)
            largest = torch.hypot(low, high).amax(dim=(0, 2)).tile(2)
        scale = (largest * (MARGIN / 127)).flatten().numpy()
        found[name] = np.where(scale > 0, scale, np.float32(1))
    return found


def int8(model: onnx.ModelProto, stage: Stage, scales: Mapping[str, Array], store: Store) -> Stage:
    """Makes the states `scales` names int8, in place; returns the stage as it is declared then."""
    for node in _attentions(model):
        pair = node.input[_KEYS : _VALUES + 1]
        if not all(name in scales for name in pair):
            continue
        node.input.extend([""] * (12 - len(node.input)) + [f"{name}.scale" for name in pair])
        for attribute in ("k_quant_type", "v_quant_type"):
            node.attribute.append(helper.make_attribute(attribute, "PER_CHANNEL"))
        node.attribute.append(helper.make_attribute("kv_cache_bit_width", 8))
        for name in pair:
            store.write(f"{name}.scale", scales[name])
    changed = {*scales, *(NEXT + name for name in scales)}
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        if value.name in changed:
            value.type.tensor_type.elem_type = TensorProto.INT8
    return replace(stage, state=tuple(replace(t, dtype="int8") if t.name in scales else t for t in stage.state))


def rounded(values: Array, scale: Array) -> Array:
    """values [batch, kv heads, time, head size] as the cache gives them back."""
    step = scale.reshape(values.shape[1], 1, -1)
    restored: Array = np.clip(np.rint(values / step), -128, 127) * step
    return restored


def _attentions(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    return [node for node in model.graph.node if node.op_type == "GroupQueryAttention"]
