"""Turns MatMuls of a graph into 8-bit ones.

x W becomes, with x quantized per tensor to uint8 at run time and W per output channel to int8:

    portable  DynamicQuantizeLinear, MatMulInteger, Cast, Mul          (ai.onnx)
    cpu       DynamicQuantizeLinear, com.microsoft MatMulIntegerToFloat (one kernel, the bias inside)

MatMuls that read the same x share its quantization. Where x is gathered from another tensor, as the windows of a
convolution are, that one is quantized and its bytes are gathered: the same values, several times fewer.
"""

from collections.abc import Collection, Sequence

import numpy as np
import onnx_ir as ir

from voxport_exporters.graphs.products import Product, bias_after, drop_unused, name_of, products, replace
from voxport_exporters.graphs.store import Store
from voxport_exporters.targets import CONTRIB, Target

Array = np.ndarray


def int8_weight(weight: Array) -> tuple[Array, Array]:
    """weight float32 [inputs, outputs] -> (int8 [inputs, outputs], scale float32 [outputs]), symmetric."""
    scale = np.abs(weight).max(axis=0).astype(np.float32) / 127
    scale[scale == 0] = 1  # a column of zeros stays zero
    return np.clip(np.rint(weight / scale), -127, 127).astype(np.int8), scale


def int8(model: ir.Model, weights: Collection[str], target: Target, store: Store) -> None:
    """Replaces, in place, the MatMuls that read `weights`, whose values `store` reads and writes."""
    graph = model.graph
    replaced = [product for product in products(graph) if product.name in weights]
    originals = list(dict.fromkeys(product.weight for product in replaced))
    stored = {weight: write(weight, store) for weight in originals}
    activations = _Activations(graph)
    for product in replaced:
        x = activations.quantized(product)
        _replace(graph, product, x, stored[product.weight], target)
    activations.drop_unused()
    drop_unused(graph, originals)
    if target.contrib:
        graph.opset_imports.setdefault(CONTRIB, 1)


def write(weight: ir.Value, store: Store) -> tuple[ir.Value, ir.Value]:
    """The codes and the scale of a weight in 8 bits, in the store."""
    name = name_of(weight)
    codes, scale = int8_weight(store.read(name))
    return store.write(f"{name}.int8", codes), store.write(f"{name}.scale", scale)


def _replace(
    graph: ir.Graph,
    product: Product,
    x: tuple[ir.Value, ir.Value, ir.Value],
    weight: tuple[ir.Value, ir.Value],
    target: Target,
) -> None:
    """`x` and `weight`: (bytes, scale, zero point) and (int8, scale)."""
    (codes, x_scale, zero), (w, w_scale), out = x, weight, product.out
    if target.contrib:
        feed: list[ir.Value | None] = [codes, w, x_scale, w_scale, zero]
        old = [product.node]
        bias = bias_after(out)
        if bias is not None:
            add, vector = bias
            feed, old, out = [*feed, None, vector], [*old, add], add.outputs[0]
        replace(graph, old, [ir.node("MatMulIntegerToFloat", feed, domain=CONTRIB)], out)
        return
    whole = _node("MatMulInteger", [codes, w, zero], f"{out.name}.int32")
    real = _node("Cast", whole.outputs, f"{out.name}.float", to=ir.DataType.FLOAT)
    scale = _node("Mul", [x_scale, w_scale], f"{out.name}.scale")
    scaled = ir.node("Mul", [real.outputs[0], scale.outputs[0]])
    replace(graph, [product.node], [whole, real, scale, scaled], out)


def _node(kind: str, inputs: Sequence[ir.Value], output: str, **attributes: int) -> ir.Node:
    return ir.node(kind, inputs, attributes=attributes, outputs=[ir.Value(name=output)])


class _Activations:
    """The inputs of products as bytes; each is quantized once, before its first reader."""

    def __init__(self, graph: ir.Graph) -> None:
        self._graph = graph
        self._scales: dict[ir.Value, tuple[ir.Value, ir.Value, ir.Value]] = {}
        self._bytes: dict[ir.Value, ir.Value] = {}  # by a tensor that was only moved
        self._moves: dict[ir.Node, None] = {}

    def quantized(self, product: Product) -> tuple[ir.Value, ir.Value, ir.Value]:
        """(bytes, scale, zero point) of the product's input."""
        moves = side_by_side(product.x)
        whole = moves[0].inputs[0] if moves else product.x
        assert whole is not None
        if whole not in self._scales:
            names = [f"{whole.name}.{suffix}" for suffix in ("q", "scale", "zero")]
            node = ir.node("DynamicQuantizeLinear", [whole], outputs=[ir.Value(name=name) for name in names])
            self._graph.insert_before(product.node, [node])
            codes, scale, zero = node.outputs
            self._scales[whole] = codes, scale, zero
        codes, scale, zero = self._scales[whole]
        for move in moves:
            codes = self._moved(move, codes, product.node)
        return codes, scale, zero

    def _moved(self, move: ir.Node, codes: ir.Value, before: ir.Node) -> ir.Value:
        """What the same movement makes of the bytes."""
        out = move.outputs[0]
        if out not in self._bytes:
            self._moves[move] = None
            result = ir.Value(name=f"{out.name}.q")
            inputs = [codes, *move.inputs[1:]]
            node = ir.Node(move.domain, move.op_type, inputs, list(move.attributes.values()), outputs=[result])
            self._graph.insert_before(before, [node])
            self._bytes[out] = result
        return self._bytes[out]

    def drop_unused(self) -> None:
        """Removes the movements of float32 values that nothing reads any more."""
        for move in reversed(self._moves):
            if not move.outputs[0].uses() and not move.outputs[0].is_graph_output():
                self._graph.remove(move, safe=True)


def side_by_side(x: ir.Value) -> list[ir.Node]:
    """The Gather and the Reshape that lay rows of a computed tensor side by side as x; none if x is made otherwise."""
    reshape = x.producer()
    rows = reshape.inputs[0] if reshape is not None and reshape.op_type == "Reshape" else None
    gather = rows.producer() if rows is not None else None
    source = gather.inputs[0] if gather is not None and gather.op_type == "Gather" else None
    if reshape is None or gather is None or source is None or source.is_initializer():
        return []
    return [gather, reshape]


def error_db(weight: Array, rows: int = 32) -> float:
    """Signal-to-noise ratio in dB of one int8 layer against fp32, on `rows` rows of normal noise."""
    x = np.random.default_rng(0).standard_normal((rows, weight.shape[0]), np.float32)
    q, scale = int8_weight(weight)
    exact = x @ weight
    noise = fake_quantize(x) @ (q * scale) - exact
    return float(10 * np.log10(np.mean(exact**2) / max(float(np.mean(noise**2)), 1e-30)))


def fake_quantize(x: Array) -> Array:
    """What DynamicQuantizeLinear followed by DequantizeLinear makes of x: 256 steps over its range and zero.

    The kernel computes the scale in float32; in float64 it is an ulp off, and a value between two steps goes astray.
    """
    low, high = np.minimum(x.min(), np.float32(0)), np.maximum(x.max(), np.float32(0))
    scale = (high - low) / np.float32(255) or np.float32(1)
    zero = np.clip(np.rint(-low / scale), 0, 255)
    rounded: Array = (np.clip(np.rint(x / scale) + zero, 0, 255) - zero).astype(np.float32) * scale
    return rounded
