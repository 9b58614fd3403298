"""Weight-only quantization in blocks along the input axis: 4 or 8 bits, one scale and zero point per block.

x W becomes, with W = (q - zero) * scale for each block of rows of W:

    portable  DequantizeLinear of uint4 or uint8 (opset 21), MatMul         (ai.onnx)
    cpu       com.microsoft MatMulNBits, which quantizes x per block to int8 (accuracy_level 4), the bias inside

Both store the same numbers. Zero points are free in time (docs/performance.md 1.1). HQQ's are real numbers, which the
fast kernel does not take: they are rounded, and what the rounding lost is added as (sums of x per block) C, with
C = (rounded - zero) * scale, a matrix 1 / block the size of W.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper

from voxport_exporters.graphs.int8 import Layer, bias_after, layers
from voxport_exporters.graphs.part import CONTRIB
from voxport_exporters.graphs.store import Store

Array = np.ndarray
OPSET_INT4 = 21  # the first with blocks in DequantizeLinear; its other operators are those of 20 with more types
# Parts of a block's range that are tried. Of normally distributed weights 4 bits then keep 0.1, 0.4 or 0.6 dB more, in
# blocks of 32, 128 or 256: blocks of 256 (19.9 dB) are as good as those of 128 with their whole range (20.0 dB).
RANGES = (1.0, 0.92, 0.84, 0.76)
PIECE = 256  # rows that are rounded together
MEASURED = 256  # outputs of a layer whose error is measured


@dataclass(frozen=True)
class Blocks:
    """W [inputs, outputs] as codes uint8 [outputs, blocks, block], scale and zero float32 [outputs, blocks]."""

    codes: Array
    scale: Array
    zero: Array
    bits: int
    inputs: int

    @property
    def block(self) -> int:
        return int(self.codes.shape[2])

    @property
    def rounded(self) -> Array:
        """Zero points as the kernels take them."""
        whole: Array = np.clip(np.rint(self.zero), 0, 2**self.bits - 1).astype(np.uint8)
        return whole

    @property
    def correction(self) -> Array | None:
        """C float32 [blocks, outputs], or None when the zero points are whole numbers."""
        lost = (self.rounded - self.zero) * self.scale
        return np.ascontiguousarray(lost.T, np.float32) if lost.any() else None

    def weight(self) -> Array:
        """What the blocks stand for: float32 [inputs, outputs]."""
        values: Array = ((self.codes - self.zero[..., None]) * self.scale[..., None]).astype(np.float32)
        return values.reshape(len(values), -1)[:, : self.inputs].T


def nearest(weight: Array, bits: int, block: int) -> Blocks:
    """Round to nearest. A block spans its own minimum to maximum, zero included, or at 4 bits the part of that which
    leaves the least squared error: what sticks out is cut, all else is nearer (RANGES)."""
    w = _blocked(weight, block)
    codes, scale, zero = np.zeros(w.shape, np.uint8), *(np.zeros(w.shape[:2], np.float32) for _ in range(2))
    for at in range(0, len(w), PIECE):
        rows = slice(at, at + PIECE)
        least = np.full(w[rows].shape[:2], np.inf, np.float32)
        for part in RANGES if bits == 4 else RANGES[:1]:
            q, step, origin = _rounded(w[rows], 2**bits - 1, part)
            error = np.square((q - origin[..., None]) * step[..., None] - w[rows]).sum(-1)
            better = error < least
            codes[rows][better], scale[rows][better], zero[rows][better] = q[better], step[better], origin[better]
            least = np.minimum(least, error)
    return Blocks(codes, scale, zero, bits, weight.shape[0])


def _rounded(w: Array, top: int, part: float) -> tuple[Array, Array, Array]:
    """w [rows, blocks, block] -> codes of its shape, scale and zero [rows, blocks], all float32."""
    low, high = np.minimum(w.min(-1), 0) * np.float32(part), np.maximum(w.max(-1), 0) * np.float32(part)
    scale = (high - low) / top
    scale[scale == 0] = 1
    zero = np.clip(np.rint(-low / scale), 0, top)
    return np.clip(np.rint(w / scale[..., None]) + zero[..., None], 0, top), scale, zero


def hqq(weight: Array, bits: int, block: int) -> Blocks:
    """Half-quadratic quantization by the `hqq` package, on the CPU in float32."""
    import torch
    from hqq.core.quantize import Quantizer

    w = _blocked(weight, block)
    codes, meta = Quantizer.quantize(
        torch.from_numpy(w.reshape(len(w), -1)),
        nbits=bits,
        group_size=block,
        axis=1,
        round_zero=bits == 4,
        bitpack=False,
        device="cpu",
        compute_dtype=torch.float32,
    )
    scale, zero = (meta[key].float().numpy().reshape(w.shape[:2]) for key in ("scale", "zero"))
    return Blocks(codes.numpy().astype(np.uint8).reshape(w.shape), scale, zero, bits, weight.shape[0])


METHODS = {"int4": (nearest, 4), "int8b": (nearest, 8), "hqq4": (hqq, 4)}


def quantized(weight: Array, kind: str, block: int) -> Blocks:
    method, bits = METHODS[kind]
    return method(weight, bits, block)


def _blocked(weight: Array, block: int) -> Array:
    """[inputs, outputs] -> contiguous [outputs, blocks, block], the last block filled with zeros."""
    inputs, outputs = weight.shape
    count = -(-inputs // block)
    w = np.zeros((outputs, count * block), np.float32)
    w[:, :inputs] = weight.T
    return w.reshape(outputs, count, block)


def _nibbles(codes: Array) -> Array:
    """uint8 0..15 -> two per byte along the last axis, first one low; an odd one is filled with 0."""
    if codes.shape[-1] % 2:
        codes = np.concatenate((codes, np.zeros_like(codes[..., :1])), axis=-1)
    packed: Array = codes[..., ::2] | codes[..., 1::2] << 4
    return packed


def error_db(weight: Array, kind: str, block: int, rows: int = 32) -> float:
    """Signal-to-noise ratio in dB of one layer against fp32, on `rows` rows of normal noise and its first outputs."""
    weight = weight[:, :MEASURED]
    x = np.random.default_rng(0).standard_normal((rows, weight.shape[0]), np.float32)
    want = x @ weight
    noise = rounded_activations(x, block) @ quantized(weight, kind, block).weight() - want
    return float(10 * np.log10(np.mean(want**2) / max(float(np.mean(noise**2)), 1e-30)))


def rounded_activations(x: Array, block: int) -> Array:
    """What the kernel of accuracy level 4 makes of x float32 [..., inputs]: int8 with one scale per block.

    The kernel multiplies by 127 / largest, which decides what is a tie.
    """
    blocks = np.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, -x.shape[-1] % block)]).reshape(*x.shape[:-1], -1, block)
    largest = np.maximum(np.abs(blocks).max(-1, keepdims=True), np.float32(1e-30))
    rounded = np.rint(blocks * (127 / largest)) * (largest / 127)
    kept: Array = rounded.reshape(*x.shape[:-1], -1)[..., : x.shape[-1]]
    return kept


# ------------------------------------------------------------------------------------------------------ graphs


def blocks(model: onnx.ModelProto, kinds: Mapping[str, tuple[str, int]], target: str, store: Store) -> None:
    """Replaces, in place, the MatMuls that read the weights in `kinds`: name -> (kind, block)."""
    graph = model.graph
    chosen = {id(layer.node): layer for layer in layers(model) if layer.weight in kinds}
    constants = {i.name: i for i in graph.initializer}
    readers: dict[str, list[NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    ranks = {v.name: len(v.type.tensor_type.shape.dim) for v in (*graph.value_info, *graph.input)}
    corrected = {
        w: _write(w, quantized(store.read(w), *kinds[w]), target, store)
        for w in sorted({layer.weight for layer in chosen.values()})
    }
    absorbed: set[int] = set()
    nodes: list[NodeProto] = []
    for node in graph.node:
        layer = chosen.get(id(node))
        if layer is None:
            nodes += [] if id(node) in absorbed else [node]
            continue
        bias = bias_after(readers.get(node.output[0], []), node.output[0], constants) if target == "cpu" else None
        if bias is not None:
            absorbed.add(id(bias))
        kind, block = kinds[layer.weight]
        nodes += _product(layer, METHODS[kind][1], block, target, bias)
        if corrected[layer.weight]:
            nodes += _correction(layer, nodes[-1], block, ranks[layer.node.input[0]], store)
    del graph.node[:]
    graph.node.extend(nodes)
    for w in kinds.keys() - {name for node in nodes for name in node.input}:
        store.drop(w)
    _opset(model, *(CONTRIB, 1) if target == "cpu" else ("", OPSET_INT4))


def _write(name: str, b: Blocks, target: str, store: Store) -> bool:
    """Stores the blocks as the target's kernel takes them; true when there is a correction beside them."""
    if target == "cpu":
        pack = _nibbles if b.bits == 4 else np.ascontiguousarray
        store.write(f"{name}.q", pack(b.codes))
        store.write(f"{name}.scale", b.scale)
        store.write(f"{name}.zero", pack(b.rounded))
    else:  # blocks run down the rows of W [inputs, outputs]; the last one may be cut
        codes = np.ascontiguousarray(b.codes.reshape(len(b.codes), -1)[:, : b.inputs].T)
        for suffix, values in ((".q", codes), (".zero", np.ascontiguousarray(b.rounded.T))):
            flat = _nibbles(values.reshape(-1)) if b.bits == 4 else values
            store.write(name + suffix, flat, TensorProto.UINT4 if b.bits == 4 else TensorProto.UINT8, values.shape)
        store.write(f"{name}.scale", np.ascontiguousarray(b.scale.T))
    correction = b.correction
    if correction is not None:
        store.write(f"{name}.correction", correction)
    return correction is not None


def _product(layer: Layer, bits: int, block: int, target: str, bias: NodeProto | None) -> list[NodeProto]:
    """The nodes that stand for x W, plus the bias where one was absorbed."""
    x, w, out = layer.node.input[0], layer.weight, layer.node.output[0]
    inputs, outputs = layer.shape
    parts = [f"{w}.q", f"{w}.scale", f"{w}.zero"]
    if target != "cpu":
        return [
            helper.make_node("DequantizeLinear", parts, [f"{out}.weight"], axis=0, block_size=block),
            helper.make_node("MatMul", [x, f"{out}.weight"], [out]),
        ]
    if bias is not None:
        parts += ["", next(name for name in bias.input if name != out)]
        out = bias.output[0]
    node = helper.make_node("MatMulNBits", [x, *parts], [out], domain=CONTRIB)
    sizes = {"K": inputs, "N": outputs, "bits": bits, "block_size": block, "accuracy_level": 4}
    node.attribute.extend(helper.make_attribute(name, size) for name, size in sizes.items())
    return [node]


def _correction(layer: Layer, product: NodeProto, block: int, rank: int, store: Store) -> list[NodeProto]:
    """The nodes that add (sums of x per block) C to the output of `product`, which they rename."""
    x, out, inputs = layer.node.input[0], product.output[0], layer.shape[0]
    nodes = []
    if inputs % block:
        store.write(f"{out}.pads", np.array([0] * (2 * rank - 1) + [-inputs % block], np.int64))
        nodes.append(helper.make_node("Pad", [x, f"{out}.pads"], [f"{out}.padded"]))
        x = f"{out}.padded"
    store.write(f"{out}.blocked", np.array([0] * (rank - 1) + [-1, block], np.int64))
    store.write(f"{out}.axis", np.array([-1], np.int64))
    product.output[0] = f"{out}.main"
    return [
        *nodes,
        helper.make_node("Reshape", [x, f"{out}.blocked"], [f"{out}.blocks"]),
        helper.make_node("ReduceSum", [f"{out}.blocks", f"{out}.axis"], [f"{out}.sums"], keepdims=0),
        helper.make_node("MatMul", [f"{out}.sums", f"{layer.weight}.correction"], [f"{out}.lost"]),
        helper.make_node("Add", [f"{out}.main", f"{out}.lost"], [out]),
    ]


def _opset(model: onnx.ModelProto, domain: str, least: int) -> None:
    for opset in model.opset_import:
        if opset.domain == domain:
            opset.version = max(opset.version, least)
            return
    model.opset_import.append(helper.make_opsetid(domain, least))
