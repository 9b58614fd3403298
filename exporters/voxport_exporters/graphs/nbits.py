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
import onnx_ir as ir

from voxport_exporters.graphs.products import Product, bias_after, drop_unused, products, replace
from voxport_exporters.graphs.store import Store
from voxport_exporters.targets import CONTRIB, OPSET_INT4, Target

Array = np.ndarray
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
    exact = x @ weight
    noise = rounded_activations(x, block) @ quantized(weight, kind, block).weight() - exact
    return float(10 * np.log10(np.mean(exact**2) / max(float(np.mean(noise**2)), 1e-30)))


def rounded_activations(x: Array, block: int) -> Array:
    """What the kernel of accuracy level 4 makes of x float32 [..., inputs]: int8 with one scale per block.

    The kernel multiplies by 127 / largest, which decides what is a tie.
    """
    blocks = np.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, -x.shape[-1] % block)]).reshape(*x.shape[:-1], -1, block)
    largest = np.maximum(np.abs(blocks).max(-1, keepdims=True), np.float32(1e-30))
    rounded = np.rint(blocks * (127 / largest)) * (largest / 127)
    values: Array = rounded.reshape(*x.shape[:-1], -1)[..., : x.shape[-1]]
    return values


# ------------------------------------------------------------------------------------------------------ graphs


@dataclass(frozen=True)
class _Stored:
    """The initializers of one quantized weight."""

    codes: ir.Value
    scale: ir.Value
    zero: ir.Value
    correction: ir.Value | None


def blocks(model: ir.Model, kinds: Mapping[str, tuple[str, int]], target: Target, store: Store) -> None:
    """Replaces, in place, the MatMuls that read the weights in `kinds`: name -> (kind, block)."""
    graph = model.graph
    replaced = [product for product in products(graph) if product.name in kinds]
    weights = {product.name: product.weight for product in replaced}
    stored = {w: _write(w, quantized(store.read(w), *kinds[w]), target, store) for w in sorted(weights)}
    for product in replaced:
        kind, block = kinds[product.name]
        _replace(graph, product, stored[product.name], METHODS[kind][1], block, target, store)
    drop_unused(graph, list(weights.values()))
    if target.contrib:
        graph.opset_imports.setdefault(CONTRIB, 1)
    else:
        graph.opset_imports[""] = max(graph.opset_imports[""], OPSET_INT4)


def _write(name: str, b: Blocks, target: Target, store: Store) -> _Stored:
    """Stores the blocks as the target's kernel takes them."""
    if target.contrib:
        pack = _nibbles if b.bits == 4 else np.ascontiguousarray
        codes, scale = store.write(f"{name}.q", pack(b.codes)), store.write(f"{name}.scale", b.scale)
        zero = store.write(f"{name}.zero", pack(b.rounded))
    else:  # blocks run down the rows of W [inputs, outputs]; the last one may be cut
        codes = _write_codes(f"{name}.q", b.codes.reshape(len(b.codes), -1)[:, : b.inputs].T, b, store)
        zero = _write_codes(f"{name}.zero", b.rounded.T, b, store)
        scale = store.write(f"{name}.scale", np.ascontiguousarray(b.scale.T))
    lost = b.correction
    return _Stored(codes, scale, zero, None if lost is None else store.write(f"{name}.correction", lost))


def _write_codes(name: str, codes: Array, b: Blocks, store: Store) -> ir.Value:
    """Codes as the standard's uint4 or uint8."""
    codes = np.ascontiguousarray(codes)
    if b.bits == 8:
        return store.write(name, codes)
    return store.write(name, _nibbles(codes.reshape(-1)), ir.DataType.UINT4, codes.shape)


def _replace(
    graph: ir.Graph, product: Product, stored: _Stored, bits: int, block: int, target: Target, store: Store
) -> None:
    """x W, plus the bias where the kernel takes it, plus the correction where there is one."""
    parts: list[ir.Value | None] = [stored.codes, stored.scale, stored.zero]
    old, out = [product.node], product.out
    if target.contrib:
        bias = bias_after(out)
        if bias is not None:
            add, vector = bias
            parts, old, out = [*parts, None, vector], [*old, add], add.outputs[0]
        inputs, outputs = product.shape
        sizes = {"K": inputs, "N": outputs, "bits": bits, "block_size": block, "accuracy_level": 4}
        new = [ir.node("MatMulNBits", [product.x, *parts], attributes=sizes, domain=CONTRIB)]
    else:
        weight = ir.node(
            "DequantizeLinear",
            parts,
            attributes={"axis": 0, "block_size": block},
            outputs=[ir.Value(name=f"{out.name}.weight")],
        )
        new = [weight, ir.node("MatMul", [product.x, weight.outputs[0]])]
    if stored.correction is not None:
        new[-1].outputs[0].name = f"{out.name}.main"
        new += _correction(product, new[-1].outputs[0], stored.correction, block, str(out.name), store)
    replace(graph, old, new, out)


def _correction(
    product: Product, main: ir.Value, correction: ir.Value, block: int, out: str, store: Store
) -> list[ir.Node]:
    """The nodes that add (sums of x per block) C to `main`."""
    x, inputs = product.x, product.shape[0]
    assert x.shape is not None
    rank, nodes = x.shape.rank(), []
    if inputs % block:
        pads = store.write(f"{out}.pads", np.array([0] * (2 * rank - 1) + [-inputs % block], np.int64))
        nodes.append(ir.node("Pad", [x, pads], outputs=[ir.Value(name=f"{out}.padded")]))
        x = nodes[-1].outputs[0]
    shape = store.write(f"{out}.blocked", np.array([0] * (rank - 1) + [-1, block], np.int64))
    last = store.write(f"{out}.axis", np.array([-1], np.int64))
    split = ir.node("Reshape", [x, shape], outputs=[ir.Value(name=f"{out}.blocks")])
    sums = ir.node(
        "ReduceSum",
        [split.outputs[0], last],
        attributes={"keepdims": 0},
        outputs=[ir.Value(name=f"{out}.sums")],
    )
    lost = ir.node("MatMul", [sums.outputs[0], correction], outputs=[ir.Value(name=f"{out}.lost")])
    return [*nodes, split, sums, lost, ir.node("Add", [main, lost.outputs[0]])]
