"""Random front-end graphs of Fun-CosyVoice3 with the signatures and costs of the release
(docs/systems/cosyvoice3.md 2.2): what a prompt's speech tokens and speaker vector cost, in time and in memory.

The speech tokenizer is a whisper-like encoder with a memory convolution beside each attention and a finite scalar
quantizer at its end; the speaker net is a stack of residual convolutions over time with pooled statistics.
"""

from dataclasses import dataclass
from math import log, prod
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

OPSET, IR = 17, 8
LEVELS = 3  # values of a quantized dimension: -1, 0, 1
BELOW_ONE = 0.999  # so that tanh never rounds to a fourth level
LONG = -1e10  # for keys behind the end of the sound


@dataclass(frozen=True)
class Size:
    """Of both nets; the defaults are the release's."""

    mels: int = 128
    width: int = 1280
    layers: int = 12
    heads: int = 20
    kernel: int = 31  # of the memory convolution
    fbanks: int = 80
    channels: int = 512  # of the speaker net
    blocks: int = 8


class Graph:
    """A graph under construction. Values are float32 [.., channels] unless said otherwise."""

    def __init__(self, name: str, seed: int) -> None:
        self._model = onnx.ModelProto(ir_version=IR, producer_name="voxport benchmarks")
        self._model.opset_import.append(helper.make_opsetid("", OPSET))
        self.proto, self._random = self._model.graph, np.random.default_rng(seed)
        self.proto.name = name

    def op(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """Adds a node; returns the name of its one output."""
        name = f"{kind}_{len(self.proto.node)}"
        self.proto.node.append(helper.make_node(kind, inputs, [name], name, **attributes))
        return name

    def constant(self, value: object, kind: type[np.generic] = np.float32) -> str:
        """A tensor that is no weight."""
        return self._initializer(np.array(value, kind))

    def weight(self, *shape: int, mean: float = 0.0, deviation: float) -> str:
        """Random values, all different."""
        values = self._random.standard_normal(shape, np.float32)
        values *= np.float32(deviation)
        values += np.float32(mean)
        return self._initializer(values)

    def _initializer(self, values: np.ndarray[Any, Any]) -> str:
        # Filled in place: a copy of the whole model would take another gigabyte.
        tensor = self.proto.initializer.add()
        name = tensor.name = f"weight_{len(self.proto.initializer)}"
        tensor.data_type = helper.np_dtype_to_tensor_dtype(values.dtype)
        tensor.dims.extend(values.shape)
        tensor.raw_data = values.tobytes()
        return name

    def linear(self, x: str, inputs: int, outputs: int, gain: float = 1.0) -> str:
        """x [.., inputs] -> [.., outputs]."""
        product = self.op("MatMul", x, self.weight(inputs, outputs, deviation=gain * inputs**-0.5))
        return self.op("Add", product, self.weight(outputs, deviation=0.02))

    def conv(self, x: str, *shape: int, gain: float = 1.0, stride: int = 1, dilation: int = 1, groups: int = 1) -> str:
        """x [1, inputs, time] -> [1, outputs, time / stride], `shape` = (outputs, inputs of a group, kernel)."""
        weight = self.weight(*shape, deviation=gain * prod(shape[1:]) ** -0.5)
        bias = self.weight(shape[0], deviation=0.02)
        pads = [shape[2] // 2 * dilation] * 2
        return self.op("Conv", x, weight, bias, pads=pads, strides=[stride], dilations=[dilation], group=groups)

    def norm(self, x: str, width: int) -> str:
        """Layer norm over the last axis."""
        scale, bias = self.weight(width, mean=1.0, deviation=0.05), self.weight(width, deviation=0.02)
        return self.op("LayerNormalization", x, scale, bias, axis=-1, epsilon=1e-5)

    def gelu(self, x: str) -> str:
        """The exact one, in the operators of this opset."""
        error = self.op("Erf", self.op("Mul", x, self.constant(0.5**0.5)))
        return self.op("Mul", self.op("Mul", x, self.constant(0.5)), self.op("Add", error, self.constant(1.0)))

    def swapped(self, x: str) -> str:
        """[1, a, b] -> [1, b, a]."""
        return self.op("Transpose", x, perm=[0, 2, 1])

    def close(self, output: str, name: str) -> bytes:
        """The file's bytes, with `output` under its public name."""
        self.proto.node.append(helper.make_node("Identity", [output], [name], "end"))
        content: bytes = self._model.SerializeToString()
        return content


def speech_tokenizer(codes: int, size: Size, seed: int) -> bytes:
    """feats float32 [1, mels, T], feats_length int32 [1] -> indices int64 [1, L], L = ceil(ceil(T / 2) / 2), below
    `codes`, a power of LEVELS."""
    graph = Graph("speech_tokenizer_v3", seed)
    _inputs(graph, feats=("float", ["B", size.mels, "T"]), feats_length=("int32", ["B"]))
    graph.proto.output.append(helper.make_tensor_value_info("indices", TensorProto.INT64, ["B", "L"]))
    x = graph.gelu(graph.conv("feats", size.width, size.mels, 3, stride=2))
    x = graph.swapped(graph.gelu(graph.conv(x, size.width, size.width, 3, stride=2)))
    inside = _inside(graph, x)
    bias = graph.op("Mul", graph.op("Sub", graph.constant(1.0), inside), graph.constant(LONG))  # [1, L]
    for _ in range(size.layers):
        x = _layer(graph, x, graph.op("Unsqueeze", inside, graph.constant([2], np.int64)), bias, size)
    dims = round(log(codes, LEVELS))
    levels = graph.op("Tanh", graph.linear(graph.norm(x, size.width), size.width, dims))
    levels = graph.op("Round", graph.op("Mul", levels, graph.constant(BELOW_ONE)))
    powers = graph.constant([LEVELS**i for i in range(dims)])
    digits = graph.op("Mul", graph.op("Add", levels, graph.constant(1.0)), powers)
    total = graph.op("ReduceSum", digits, graph.constant([2], np.int64), keepdims=0)
    return graph.close(graph.op("Cast", total, to=TensorProto.INT64), "indices")


def _inside(graph: Graph, x: str) -> str:
    """float32 [1, L]: 1 for the frames of x [1, L, width] that feats_length covers, 0 behind them."""
    three, four = graph.constant(3, np.int32), graph.constant(4, np.int32)
    tokens = graph.op("Div", graph.op("Add", "feats_length", three), four)
    length = graph.op("Gather", graph.op("Shape", x), graph.constant(1, np.int64))
    places = graph.op("Range", graph.constant(0, np.int64), length, graph.constant(1, np.int64))
    places = graph.op("Unsqueeze", graph.op("Cast", places, to=TensorProto.INT32), graph.constant([0], np.int64))
    tokens = graph.op("Unsqueeze", tokens, graph.constant([1], np.int64))
    return graph.op("Cast", graph.op("Less", places, tokens), to=TensorProto.FLOAT)


def _layer(graph: Graph, x: str, inside: str, bias: str, size: Size) -> str:
    """x [1, L, width], inside [1, L, 1], bias [1, L]."""
    width, head = size.width, size.width // size.heads
    normed = graph.norm(x, width)
    q, k, v = (graph.linear(normed, width, width) for _ in range(3))
    split = graph.constant([0, 0, size.heads, head], np.int64)
    queries, values = (graph.op("Transpose", graph.op("Reshape", y, split), perm=[0, 2, 1, 3]) for y in (q, v))
    keys = graph.op("Transpose", graph.op("Reshape", k, split), perm=[0, 2, 3, 1])
    scores = graph.op("Mul", graph.op("MatMul", queries, keys), graph.constant(head**-0.5))
    shares = graph.op("Softmax", graph.op("Add", scores, bias), axis=-1)
    heads = graph.op("Transpose", graph.op("MatMul", shares, values), perm=[0, 2, 1, 3])
    attention = graph.linear(graph.op("Reshape", heads, graph.constant([0, 0, width], np.int64)), width, width, 0.5)
    sound = graph.op("Mul", v, inside)
    memory = graph.conv(graph.swapped(sound), width, 1, size.kernel, gain=0.5, groups=width)
    memory = graph.op("Mul", graph.op("Add", graph.swapped(memory), sound), inside)
    x = graph.op("Add", x, graph.op("Add", attention, memory))
    wide = graph.gelu(graph.linear(graph.norm(x, width), width, 4 * width))
    return graph.op("Add", x, graph.linear(wide, 4 * width, width, 0.5))


def speaker_net(width: int, size: Size, seed: int) -> bytes:
    """input float32 [1, T, fbanks], from which their mean over time was taken -> output [1, width]."""
    graph = Graph("campplus", seed)
    _inputs(graph, input=("float", ["B", "T", size.fbanks]))
    graph.proto.output.append(helper.make_tensor_value_info("output", TensorProto.FLOAT, ["B", width]))
    x = graph.conv(graph.swapped("input"), size.channels, size.fbanks, 5, stride=2)
    for i in range(size.blocks):
        branch = graph.op("Relu", x)
        x = graph.op("Add", x, graph.conv(branch, size.channels, size.channels, 3, gain=0.5, dilation=1 + i % 3))
    mean = graph.op("ReduceMean", x, axes=[2])
    centred = graph.op("Sub", x, mean)
    variance = graph.op("ReduceMean", graph.op("Mul", centred, centred), axes=[2], keepdims=0)
    deviation = graph.op("Sqrt", graph.op("Add", variance, graph.constant(1e-6)))
    pooled = graph.op("Concat", graph.op("Squeeze", mean, graph.constant([2], np.int64)), deviation, axis=1)
    return graph.close(graph.linear(pooled, 2 * size.channels, width), "output")


def _inputs(graph: Graph, **inputs: tuple[str, list[str | int | None]]) -> None:
    kinds = {"float": TensorProto.FLOAT, "int32": TensorProto.INT32}
    for name, (kind, shape) in inputs.items():
        graph.proto.input.append(helper.make_tensor_value_info(name, kinds[kind], shape))
