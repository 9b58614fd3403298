"""Products of a quantized graph held to the net that rounds as it does, one by one.

Each is given what the graph's own gets, so that no rounding reaches the next one.
"""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch

from voxport.bundle import Bundle
from voxport_exporters.graphs.part import Part
from voxport_parity.reference import Quantized

Array = np.ndarray
BOUND = 1e-5  # of a product's largest value; measured: 6.4e-7
_X, _Q, _SCALE, _BIAS = 0, 1, 2, 5  # inputs of MatMulNBits


def check(part: Part, bundle: Path, feed: dict[str, Array]) -> int:
    """Asserts that every 4- or 8-bit product of a stage is right, and would not be with a scale off by a hundredth;
    how many there are. `feed`: the stage's inputs; its states are zeros of 32 columns."""
    model, state = onnx.load(bundle / f"{part.stage.name}.onnx"), Bundle(bundle).session(part.stage.name).stage.state
    feed = feed | {t.name: np.zeros(t.sized({"batch": 1, "capacity": 32}), t.dtype) for t in state}
    exact = errors(part, model, feed)
    scales = {node.input[_SCALE] for node in _products(model)}
    for initializer in model.graph.initializer:
        if initializer.name in scales:
            scale = onnx.numpy_helper.to_array(initializer).copy()
            scale.reshape(-1)[0] *= 1.01
            initializer.CopyFrom(onnx.numpy_helper.from_array(scale, initializer.name))
    wrong = errors(part, model, feed)
    assert max(exact.values()) < BOUND
    assert min(wrong.values()) > BOUND
    return len(exact)


def errors(part: Part, model: onnx.ModelProto, feed: dict[str, Array]) -> dict[str, float]:
    """By product: how far the graph's is from that of the part's net, of its largest value."""
    assert isinstance(part.net, Quantized)
    nodes = _products(model)
    ends = [(node.input[_X], node.output[0].removesuffix(".main")) for node in nodes]  # + its correction
    shown = onnx.ModelProto()
    shown.CopyFrom(model)
    known = {value.name for value in (*model.graph.input, *model.graph.output)}
    for name in {x for pair in ends for x in pair} - known:
        shown.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    session = onnxruntime.InferenceSession(shown.SerializeToString())
    names = [value.name for value in session.get_outputs()]
    seen = dict(zip(names, session.run(names, feed), strict=True)) | feed
    weights = dict(part.net.net.named_parameters())
    constants = {i.name: i for i in model.graph.initializer}
    found = {}
    for node, (x, y) in zip(nodes, ends, strict=True):
        with torch.no_grad(), part.net.rounding:
            wanted = (torch.from_numpy(seen[x]) @ weights[node.input[_Q].removesuffix(".q")]).numpy()
        if len(node.input) > _BIAS and node.input[_BIAS]:
            wanted = wanted + onnx.numpy_helper.to_array(constants[node.input[_BIAS]])
        found[y] = float(np.abs(seen[y] - wanted).max() / np.abs(wanted).max())
    return found


def _products(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    return [node for node in model.graph.node if node.op_type == "MatMulNBits"]
