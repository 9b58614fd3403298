"""Turns MatMuls of a graph into 8-bit ones, and measures what that costs and gains.

x W becomes, with x quantized per tensor to uint8 at run time and W per output channel to int8:

    portable  DynamicQuantizeLinear, MatMulInteger, Cast, Mul          (ai.onnx)
    cpu       DynamicQuantizeLinear, com.microsoft MatMulIntegerToFloat (one kernel, the bias inside)

MatMuls that read the same x share its quantization. Where x is gathered from another tensor, as the windows of a
convolution are, that one is quantized and its bytes are gathered: the same values, several times fewer.
"""

import time
from collections.abc import Callable, Container, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
import onnxruntime as ort
from onnx import NodeProto, helper, numpy_helper

from voxport_exporters.graphs.part import CONTRIB, OPSET
from voxport_exporters.graphs.store import Store

Array = np.ndarray


@dataclass(frozen=True, eq=False)
class Layer:
    """One MatMul with a constant weight [inputs, outputs]."""

    node: NodeProto
    weight: str
    shape: tuple[int, int]


def layers(model: onnx.ModelProto) -> Iterator[Layer]:
    """Every MatMul of the graph whose second operand is a 2-D initializer."""
    initial = {i.name: tuple(i.dims) for i in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "MatMul" and len(initial.get(node.input[1], ())) == 2:
            yield Layer(node, node.input[1], initial[node.input[1]])


def int8_weight(weight: Array) -> tuple[Array, Array]:
    """weight float32 [inputs, outputs] -> (int8 [inputs, outputs], scale float32 [outputs]), symmetric."""
    scale = np.abs(weight).max(axis=0).astype(np.float32) / 127
    scale[scale == 0] = 1  # a column of zeros stays zero
    return np.clip(np.rint(weight / scale), -127, 127).astype(np.int8), scale


def int8(model: onnx.ModelProto, weights: set[str], target: str, store: Store | None = None) -> None:
    """Replaces, in place, the MatMuls that read `weights`, which `store` reads and writes (default: in the model)."""
    graph = model.graph
    store = store or Store(model)
    chosen = {id(layer.node): layer for layer in layers(model) if layer.weight in weights}
    values = {i.name: i for i in graph.initializer}
    readers: dict[str, list[NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    makers = {name: node for node in graph.node for name in node.output}
    quantized: set[str] = set()
    absorbed: set[int] = set()
    moved: set[int] = set()
    nodes: list[NodeProto] = []
    for node in graph.node:
        if id(node) in absorbed:
            continue
        layer = chosen.get(id(node))
        if layer is None:
            nodes.append(node)
            continue
        x, w, out = node.input[0], layer.weight, node.output[0]
        moves = side_by_side(x, makers, values)
        whole = moves[0].input[0] if moves else x
        if whole not in quantized:
            outputs = [f"{whole}.q", f"{whole}.scale", f"{whole}.zero"]
            nodes.append(helper.make_node("DynamicQuantizeLinear", [whole], outputs))
        nodes += [_on_bytes(move) for move in moves if move.output[0] not in quantized]
        quantized |= {whole, *(move.output[0] for move in moves)}
        moved |= {id(move) for move in moves}
        feed = [f"{x}.q", f"{w}.int8", f"{whole}.scale", f"{w}.scale", f"{whole}.zero"]
        if target == "cpu":
            bias = bias_after(readers.get(out, []), out, values)
            if bias is not None:
                absorbed.add(id(bias))
                constant = next(name for name in bias.input if name != out)
                feed, out = [*feed, "", constant], bias.output[0]
            nodes.append(helper.make_node("MatMulIntegerToFloat", feed, [out], domain=CONTRIB))
        else:
            xq, wq, xs, ws, zero = feed
            nodes += [
                helper.make_node("MatMulInteger", [xq, wq, zero], [f"{out}.int32"]),
                helper.make_node("Cast", [f"{out}.int32"], [f"{out}.float"], to=onnx.TensorProto.FLOAT),
                helper.make_node("Mul", [xs, ws], [f"{out}.scale"]),
                helper.make_node("Mul", [f"{out}.float", f"{out}.scale"], [out]),
            ]
    del graph.node[:]
    graph.node.extend(_without(nodes, moved, {value.name for value in graph.output}))
    for w in {layer.weight for layer in chosen.values()}:
        q, scale = int8_weight(store.read(w))
        store.write(f"{w}.int8", q)
        store.write(f"{w}.scale", scale)
    still = {name for node in nodes for name in node.input}
    for w in weights - still:
        store.drop(w)
    if target == "cpu" and not any(o.domain == CONTRIB for o in model.opset_import):
        model.opset_import.append(helper.make_opsetid(CONTRIB, 1))


def side_by_side(x: str, makers: Mapping[str, NodeProto], constants: Container[str]) -> list[NodeProto]:
    """The Gather and the Reshape that lay rows of a computed tensor side by side as x; none if x is made otherwise."""
    reshape = makers.get(x)
    gather = makers.get(reshape.input[0]) if reshape is not None and reshape.op_type == "Reshape" else None
    if reshape is None or gather is None or gather.op_type != "Gather" or gather.input[0] in constants:
        return []
    return [gather, reshape]


def _on_bytes(move: NodeProto) -> NodeProto:
    """The same movement of the quantized values."""
    other = NodeProto()
    other.CopyFrom(move)
    other.input[0], other.output[0], other.name = f"{move.input[0]}.q", f"{move.output[0]}.q", ""
    return other


def _without(nodes: list[NodeProto], moved: set[int], outputs: set[str]) -> list[NodeProto]:
    """Without those in `moved` (by id) whose results nobody reads any more."""
    read, kept = {name for node in nodes for name in node.input if id(node) not in moved} | outputs, []
    for node in reversed(nodes):
        if id(node) not in moved or not read.isdisjoint(node.output):
            read.update(node.input)
            kept.append(node)
    return kept[::-1]


def bias_after(readers: list[NodeProto], value: str, constants: dict[str, onnx.TensorProto]) -> NodeProto | None:
    """The Add of a constant vector that is the only reader of `value`."""
    if len(readers) != 1 or readers[0].op_type != "Add":
        return None
    others = [name for name in readers[0].input if name != value]
    return readers[0] if len(others) == 1 and others[0] in constants and len(constants[others[0]].dims) == 1 else None


# ------------------------------------------------------------------------------------------------- measurement


def error_db(weight: Array, rows: int = 32) -> float:
    """Signal-to-noise ratio in dB of one int8 layer against fp32, on `rows` rows of normal noise."""
    x = np.random.default_rng(0).standard_normal((rows, weight.shape[0]), np.float32)
    q, scale = int8_weight(weight)
    xq = fake_quantize(x)
    want = x @ weight
    noise = xq @ (q * scale) - want
    return float(10 * np.log10(np.mean(want**2) / max(float(np.mean(noise**2)), 1e-30)))


def fake_quantize(x: Array) -> Array:
    """What DynamicQuantizeLinear followed by DequantizeLinear makes of x: 256 steps over its range and zero.

    The kernel computes the scale in float32; in float64 it is an ulp off, and a value between two steps goes astray.
    """
    low, high = np.minimum(x.min(), np.float32(0)), np.maximum(x.max(), np.float32(0))
    scale = (high - low) / np.float32(255) or np.float32(1)
    zero = np.clip(np.rint(-low / scale), 0, 255)
    rounded: Array = (np.clip(np.rint(x / scale) + zero, 0, 255) - zero).astype(np.float32) * scale
    return rounded


def speed_up(shape: tuple[int, int], rows: int, change: Callable[[onnx.ModelProto], None]) -> float:
    """How many times faster a layer is once `change` has quantized it, both timed here, interleaved, one thread,
    medians. `change` finds one MatMul with the weight `w`."""
    fp32 = _single(shape, rows)
    fast = onnx.ModelProto()
    fast.CopyFrom(fp32)
    change(fast)
    x = np.random.default_rng(1).standard_normal((rows, shape[0]), np.float32)
    runs = [_runner(m, x) for m in (fp32, fast)]
    times: list[list[float]] = [[], []]
    for _ in range(40):
        for run, seen in zip(runs, times, strict=True):
            start = time.perf_counter()
            run()
            seen.append(time.perf_counter() - start)
    slow, quick = (float(np.median(seen[10:])) for seen in times)
    return slow / quick


def _single(shape: tuple[int, int], rows: int) -> onnx.ModelProto:
    weight = np.random.default_rng(2).standard_normal(shape, np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "layer",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [rows, shape[0]])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [rows, shape[1]])],
        [numpy_helper.from_array(weight, "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)


def _runner(model: onnx.ModelProto, x: Array) -> Callable[[], object]:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, {"x": x})
