"""Caches of keys and values in 8 bits: GroupQueryAttention reads and writes them with one scale per channel.

A quarter of the bytes; with many layers that is half the attention's time from a few hundred tokens on
(docs/performance.md 1.5). Only the cpu target has such a kernel; elsewhere, and for head sizes it does not take, caches
stay float32.
"""

from collections.abc import Collection, Mapping
from dataclasses import replace

import numpy as np
import onnx_ir as ir
import torch

from voxport.graphs.stage import CAPACITY, NEXT, Stage
from voxport.recipe import Kind
from voxport_exporters.checkpoints.later import reading
from voxport_exporters.graphs.part import Part
from voxport_exporters.graphs.store import Array, Store

KIND: Kind = "int8cache"
MARGIN = 1.5  # the largest of a thousand tokens over that of the sample's, and some
_KEYS, _VALUES, _SCALES = 3, 4, 12  # inputs of GroupQueryAttention


def of(graph: ir.Graph, stage: Stage) -> list[str]:
    """The states that this graph could keep in 8 bits."""
    read = {value.name for node in _attentions(graph) for value in _pair(node)}
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


def int8(model: ir.Model, stage: Stage, scales: Mapping[str, Array], store: Store) -> Stage:
    """Makes the states `scales` names int8, in place; returns the stage as it is declared then."""
    graph = model.graph
    for node in _attentions(graph):
        pair = _pair(node)
        if not all(value.name in scales for value in pair):
            continue
        node.resize_inputs(_SCALES + len(pair))
        for index, value in enumerate(pair, start=_SCALES):
            node.replace_input_with(index, store.write(f"{value.name}.scale", scales[str(value.name)]))
        for name in ("k_quant_type", "v_quant_type"):
            node.attributes.add(ir.AttrString(name, "PER_CHANNEL"))
        node.attributes.add(ir.AttrInt64("kv_cache_bit_width", 8))
    changed = {*scales, *(NEXT + name for name in scales)}
    for value in (*graph.inputs, *graph.outputs):
        if value.name in changed:
            value.type = ir.TensorType(ir.DataType.INT8)
    return replace(stage, state=tuple(replace(t, dtype="int8") if t.name in scales else t for t in stage.state))


def rounded(values: Array, scale: Array) -> Array:
    """values [batch, kv heads, time, head size] as the cache gives them back."""
    step = scale.reshape(values.shape[1], 1, -1)
    restored: Array = np.clip(np.rint(values / step), -128, 127) * step
    return restored


def _attentions(graph: ir.Graph) -> list[ir.Node]:
    return [node for node in graph if node.op_type == "GroupQueryAttention"]


def _pair(node: ir.Node) -> list[ir.Value]:
    """The caches that an attention reads: keys, values."""
    return [value for value in node.inputs[_KEYS : _VALUES + 1] if value is not None]
