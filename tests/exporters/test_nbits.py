"""Weights in blocks of 4 and 8 bits: both targets compute with exactly the numbers that were stored."""

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from voxport_exporters.checkpoints.later import built, deferred, deferring, later, reading
from voxport_exporters.checkpoints.weights import Weights
from voxport_exporters.graphs import nbits
from voxport_exporters.graphs import tables as lookup
from voxport_exporters.graphs.store import Store
from voxport_exporters.targets import IR_VERSION, OPSET, TARGETS

Array = np.ndarray
SHAPES = [((64, 24), 32), ((100, 7), 32), ((40, 33), 64), ((33, 16), 16)]


def normal(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def layer(weight: Array, rank: int, biased: bool) -> onnx.ModelProto:
    """y = x W (+ b), x of `rank` axes."""
    free = ["a", "b"][: rank - 1]
    nodes = [helper.make_node("MatMul", ["x", "w"], ["wx" if biased else "y"])]
    constants = [numpy_helper.from_array(weight, "w")]
    if biased:
        nodes.append(helper.make_node("Add", ["b", "wx"], ["y"]))
        constants.append(numpy_helper.from_array(normal(weight.shape[1], seed=3), "b"))
    graph = helper.make_graph(
        nodes,
        "layer",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [*free, weight.shape[0]])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [*free, weight.shape[1]])],
        constants,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)


def run(model: onnx.ModelProto, **feed: Array) -> Array:
    """As written: onnxruntime would turn the portable form into the cpu one, which rounds x."""
    onnx.checker.check_model(model)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    y: Array = session.run(["y"], feed)[0]
    return y


@pytest.mark.parametrize("kind", nbits.METHODS)
@pytest.mark.parametrize(("shape", "block"), SHAPES)
def test_blocks_stand_for_the_weight(kind: str, shape: tuple[int, int], block: int) -> None:
    weight = normal(*shape)
    weight[:, 3] = 0  # a column without any size
    b = nbits.quantized(weight, kind, block)
    assert b.codes.max() < 2**b.bits
    error = np.abs(b.weight() - weight)
    steps = np.repeat(b.scale, block, axis=1)[:, : shape[0]].T
    inside = (b.codes > 0) & (b.codes < 2**b.bits - 1) | (kind == "int8b")  # 4 bits may cut what sticks out
    inside = inside.reshape(len(b.codes), -1)[:, : shape[0]].T
    assert inside.mean() > 0.7
    assert (error <= steps * (0.501 if kind != "hqq4" else 1.7))[inside].all()
    assert not error[:, 3].any()


@pytest.mark.parametrize("block", [32, 128, 256])
def test_a_cut_range_is_never_worse_and_pays_in_long_blocks(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    weight = normal(1024, 40)
    weight[5, 7] = 30.0  # an outlier that its block is better off without, or not: the block decides

    def errors() -> Array:
        e: Array = np.square(nbits.nearest(weight, 4, block).weight() - weight)
        per_block: Array = e.T.reshape(40, -1, block).sum(-1)
        return per_block

    cut = errors()
    monkeypatch.setattr(nbits, "RANGES", (1.0,))
    whole = errors()
    assert (cut <= whole * (1 + 1e-5)).all()
    gained = 10 * np.log10(whole[8:].sum() / cut[8:].sum())
    assert gained > {32: 0.08, 128: 0.3, 256: 0.5}[block]


def test_hqq_is_the_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    from hqq.core.quantize import Quantizer

    weight = normal(128, 48)
    codes, meta = Quantizer.quantize(
        torch.from_numpy(np.ascontiguousarray(weight.T)), nbits=4, group_size=64, axis=1, round_zero=True, device="cpu"
    )
    meta["compute_dtype"] = torch.float32
    expected = Quantizer.dequantize(codes, meta).numpy().T
    b = nbits.hqq(weight, 4, 64)
    np.testing.assert_allclose(b.weight(), expected, rtol=0, atol=1e-5)
    assert np.abs(b.zero - np.rint(b.zero)).max() > 0.1  # real numbers, which the correction has to keep
    monkeypatch.setattr(nbits, "RANGES", (1.0,))
    assert np.abs(b.weight() - weight).mean() < np.abs(nbits.nearest(weight, 4, 64).weight() - weight).mean()


@pytest.mark.parametrize("kind", nbits.METHODS)
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(("shape", "block"), SHAPES)
def test_graph_computes_with_the_stored_numbers(kind: str, target: str, shape: tuple[int, int], block: int) -> None:
    weight, x = normal(*shape), normal(2, 3, shape[0], seed=1)
    b = nbits.quantized(weight, kind, block)
    for rank, biased in ((3, True), (2, False)):
        feed = x if rank == 3 else x[0]
        model = layer(weight, rank, biased)
        bias = numpy_helper.to_array(model.graph.initializer[1]) if biased else 0
        rewritten = ir.from_proto(model)
        nbits.blocks(rewritten, {"w": (kind, block)}, TARGETS[target], Store(rewritten.graph))
        y = run(ir.to_proto(rewritten), x=feed)
        expected = feed @ b.weight() + bias
        bound = 1e-4 if target == "portable" else 0.02 * np.abs(expected).max()  # cpu rounds x to 8 bits
        np.testing.assert_allclose(y, expected, rtol=0, atol=bound)


def test_table_rows_are_int8() -> None:
    table = normal(50, 12)
    table[7] = 0
    graph = helper.make_graph(
        [helper.make_node("Gather", ["t", "ids"], ["y"])],
        "table",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, ["n"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 12])],
        [numpy_helper.from_array(table, "t")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    rewritten = ir.from_proto(model)
    assert lookup.tables(rewritten.graph) == ["t"]
    lookup.rows(rewritten, {"t": "int8row"}, Store(rewritten.graph))
    rows = run(ir.to_proto(rewritten), ids=np.arange(50))
    assert (np.abs(rows - table) <= np.abs(table).max(axis=1, keepdims=True) / 254 + 1e-7).all()


def test_deferred_weights_are_read_when_they_are_written(tmp_path: Path) -> None:
    read: list[str] = []
    tensors = {"a": torch.arange(600.0).view(20, 30), "b": torch.ones(2, 3)}

    def values(key: str) -> torch.Tensor:
        read.append(key)
        return tensors[key]

    weights = Weights(tmp_path, tensors, values, lambda key: tensors[key].shape)
    net = nn.Module()
    with deferring():
        net.w = later(lambda: weights.take("a", 20, 30).T)
        with pytest.raises(ValueError, match="a has shape"):
            later(lambda: weights.take("a", 30, 20))
        net.b = later(lambda: weights.take("b", 2, 3))
    weights.finish()
    assert not read
    assert net.w.shape == (30, 20)
    assert net.w.untyped_storage().nbytes() == 4
    assert deferred(net.w)
    assert torch.equal(built(net.w), tensors["a"].T)
    assert read == ["a"]
    assert not deferred(later(lambda: weights.take("a", 20, 30)))


def test_a_deferred_net_runs_one_module_at_a_time() -> None:
    tensors = {"a": torch.randn(20, 30), "b": torch.randn(5, 20)}
    weights = Weights(Path("here"), tensors, tensors.__getitem__)

    class Double(nn.Module):
        def __init__(self, name: str, *shape: int) -> None:
            super().__init__()
            self.weight = later(lambda: weights.take(name, *shape).T)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x @ self.weight

    with deferring():
        net = nn.Sequential(Double("a", 20, 30), Double("b", 5, 20))
    x = torch.randn(3, 30)
    with torch.no_grad(), reading(net):
        torch.testing.assert_close(net(x), x @ tensors["a"].T @ tensors["b"].T)
    assert all(p.untyped_storage().nbytes() == 4 for p in net.parameters())
