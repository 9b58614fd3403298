"""Turns MatMuls of a graph into 8-bit ones that quantize every row of their input by itself.

One scale per call, as int8.py has, is not usable where some rows are far larger than others, as they are in trained
language models and transformers: the small rows then come to lie on a handful of steps. Here a row is what MatMul sums
over, the last axis of x, and each has a step of its own:

    step    = max(largest, -smallest, TINY) / 127                  ReduceMax, ReduceMin, Neg, Max, Div
    codes   = round(x / step) + 128
    x W     = (codes - 128) W.int8 * W.scale * step

    portable  Div, QuantizeLinear; MatMulInteger, Cast, Mul by W.scale, Mul by step                 (ai.onnx)
    cpu       QuantizeLinear with a scale per row; com.microsoft MatMulIntegerToFloat, Mul by step

Both give the same codes. A scale that is computed is legal in ai.onnx, but few runtimes beside onnxruntime take one.

uint8 codes with zero point 128 because the kernel for int8 codes is 15 times slower (onnxruntime 1.31 on x86). The two
Muls must stay two: onnxruntime takes Mul(Cast, Mul(a, b)) for a product with one scale per call and computes nonsense.
MatMuls that read the same x share its codes.
"""

from collections.abc import Collection

import numpy as np
import onnx_ir as ir

from voxport_exporters.graphs.int8 import int8_weight, write
from voxport_exporters.graphs.products import Product, drop_unused, products, replace
from voxport_exporters.graphs.store import Store
from voxport_exporters.targets import CONTRIB, Target

Array = np.ndarray
LEVELS = 127  # steps to either side of zero
TINY = 1e-30  # a row of zeros is taken to have this peak, and stays zeros


def int8_rows(model: ir.Model, weights: Collection[str], target: Target, store: Store) -> None:
    """Replaces, in place, the MatMuls that read `weights`, whose values `store` reads and writes."""
    graph = model.graph
    replaced = [product for product in products(graph) if product.name in weights]
    originals = list(dict.fromkeys(product.weight for product in replaced))
    stored = {weight: write(weight, store) for weight in originals}
    rows = _Rows(graph, store, target)
    for product in replaced:
        codes, step = rows.quantized(product)
        kernel = _kernel(product, codes, stored[product.weight], rows, target)
        scaled = ir.node("Mul", [kernel[-1].outputs[0], step])
        replace(graph, [product.node], [*kernel, scaled], product.out)
    drop_unused(graph, originals)
    if target.contrib:
        graph.opset_imports.setdefault(CONTRIB, 1)


def _kernel(
    product: Product, codes: ir.Value, weight: tuple[ir.Value, ir.Value], rows: "_Rows", target: Target
) -> list[ir.Node]:
    """The nodes that multiply codes by `weight` (int8, scale): float32 in units of each row's step."""
    (w, scale), name = weight, f"{product.out.name}.steps"
    if target.contrib:
        feed = [codes, w, rows.one, scale, rows.zero]
        return [ir.node("MatMulIntegerToFloat", feed, domain=CONTRIB, outputs=[ir.Value(name=name)])]
    whole = ir.node("MatMulInteger", [codes, w, rows.zero], outputs=[ir.Value(name=f"{product.out.name}.int32")])
    to = {"to": ir.DataType.FLOAT}
    real = ir.node("Cast", whole.outputs, attributes=to, outputs=[ir.Value(name=f"{product.out.name}.float")])
    return [whole, real, ir.node("Mul", [real.outputs[0], scale], outputs=[ir.Value(name=name)])]


class _Rows:
    """The inputs of products as codes and steps; each is quantized once, before its first reader."""

    def __init__(self, graph: ir.Graph, store: Store, target: Target) -> None:
        self._graph, self._store, self._target = graph, store, target
        self._axis = store.write("int8r.axis", np.array([-1], np.int64)) if graph.opset_imports[""] >= 18 else None
        self._tiny = store.write("int8r.tiny", np.array(TINY, np.float32))
        self._levels = store.write("int8r.levels", np.array(LEVELS, np.float32))
        self.one = store.write("int8r.one", np.array(1, np.float32))
        self.zero = store.write("int8r.zero", np.array(LEVELS + 1, np.uint8))
        self._known: dict[ir.Value, tuple[ir.Value, ir.Value]] = {}

    def quantized(self, product: Product) -> tuple[ir.Value, ir.Value]:
        """(codes uint8 of the shape of the product's input, step float32 [..., 1])."""
        x = product.x
        if x not in self._known:
            high = self._reduced("ReduceMax", x, f"{x.name}.high", product)
            low = self._reduced("ReduceMin", x, f"{x.name}.low", product)
            below = self._node("Neg", [low], f"{x.name}.below", product)
            peak = self._node("Max", [high, below, self._tiny], f"{x.name}.peak", product)
            step = self._node("Div", [peak, self._levels], f"{x.name}.step", product)
            self._known[x] = self._codes(x, step, product), step
        return self._known[x]

    def _codes(self, x: ir.Value, step: ir.Value, product: Product) -> ir.Value:
        """Rows are an axis of their own in QuantizeLinear, so x is a matrix for as long as that takes: one pass over x
        less than to divide it first (1 to 2 % of a DiT)."""
        if not self._target.contrib:
            counted = self._node("Div", [x, step], f"{x.name}.counted", product)
            return self._node("QuantizeLinear", [counted, self.one, self.zero], f"{x.name}.codes", product)
        steps = self._node("Reshape", [step, self._shape_of(-1)], f"{x.name}.flat.step", product)
        zeros = self._node("Expand", [self.zero, self._shape(steps, product)], f"{x.name}.flat.zero", product)
        rows = self._node("Reshape", [x, self._shape_of(-1, product.shape[0])], f"{x.name}.flat", product)
        codes = ir.Value(name=f"{x.name}.flat.codes")
        node = ir.node("QuantizeLinear", [rows, steps, zeros], attributes={"axis": 0}, outputs=[codes])
        self._graph.insert_before(product.node, [node])
        return self._node("Reshape", [codes, self._shape(x, product)], f"{x.name}.codes", product)

    def _shape_of(self, *sizes: int) -> ir.Value:
        """A constant shape; -1 is whatever is left."""
        name = ".".join(["int8r.shape", *(str(size) for size in sizes if size > 0)])
        return self._graph.initializers.get(name) or self._store.write(name, np.array(sizes, np.int64))

    def _shape(self, x: ir.Value, before: Product) -> ir.Value:
        return self._node("Shape", [x], f"{x.name}.shape", before)

    def _reduced(self, kind: str, x: ir.Value, output: str, before: Product) -> ir.Value:
        """Along the last axis, which is an attribute before opset 18."""
        if self._axis is not None:
            return self._node(kind, [x, self._axis], output, before)
        node = ir.node(kind, [x], attributes={"axes": [-1]}, outputs=[ir.Value(name=output)])
        self._graph.insert_before(before.node, [node])
        return node.outputs[0]

    def _node(self, kind: str, inputs: list[ir.Value], output: str, before: Product) -> ir.Value:
        node = ir.node(kind, inputs, outputs=[ir.Value(name=output)])
        self._graph.insert_before(before.node, [node])
        return node.outputs[0]


def rounded_rows(x: Array) -> tuple[Array, Array]:
    """x float32 [..., inputs] -> (codes without their zero point, as float32 of that shape; step float32 [..., 1])."""
    peak = np.maximum(np.maximum(x.max(-1, keepdims=True), -x.min(-1, keepdims=True)), np.float32(TINY))
    step = peak / np.float32(LEVELS)
    return np.rint(x / step), step


def error_db(weight: Array, rows: int = 32) -> float:
    """Signal-to-noise ratio in dB of one layer against fp32, on `rows` rows of normal noise."""
    x = np.random.default_rng(0).standard_normal((rows, weight.shape[0]), np.float32)
    (q, scale), (codes, step) = int8_weight(weight), rounded_rows(x)
    exact = x @ weight
    noise = codes @ (q * scale) * step - exact
    return float(10 * np.log10(np.mean(exact**2) / max(float(np.mean(noise**2)), 1e-30)))
