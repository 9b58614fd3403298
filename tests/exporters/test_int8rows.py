"""8-bit products with a step per row: exact for both targets, shared, zero for zeros, and not ruined by large rows."""

from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch
from onnx import ModelProto, TensorProto, helper, numpy_helper
from tests.exporters.test_pack import Linear, job
from torch import Tensor, nn

from voxport.bundle import Bundle
from voxport.graphs.stage import Stage, TensorSpec
from voxport.recipe import Recipe, Rule
from voxport_exporters.graphs import int8rows, measure
from voxport_exporters.graphs.part import Part
from voxport_exporters.graphs.rewrite import rewrite_products
from voxport_exporters.graphs.store import Store
from voxport_exporters.pack import pack, save
from voxport_exporters.targets import IR_VERSION, OPSET, TARGETS
from voxport_parity import products
from voxport_parity.reference import TorchSession
from voxport_parity.rounding import rounding

Array = np.ndarray
ROWS = Recipe("rows", [Rule("int8r")])


def normal(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def layers(weights: list[Array], free: list[str]) -> ModelProto:
    """y.i = x W.i + b.i, x with the free axes and one more."""
    nodes, constants, outputs = [], [], []
    for i, weight in enumerate(weights):
        nodes += [helper.make_node("MatMul", ["x", f"w.{i}"], [f"p.{i}"])]
        nodes += [helper.make_node("Add", [f"p.{i}", f"b.{i}"], [f"y.{i}"])]
        constants += [numpy_helper.from_array(weight, f"w.{i}")]
        constants += [numpy_helper.from_array(normal(weight.shape[1], seed=9 + i), f"b.{i}")]
        outputs += [helper.make_tensor_value_info(f"y.{i}", TensorProto.FLOAT, [*free, weight.shape[1]])]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [*free, weights[0].shape[0]])
    graph = helper.make_graph(nodes, "layers", [x], outputs, constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)


def quantized(model: ModelProto, kind: str, target: str) -> ModelProto:
    changed = ir.from_proto(model)
    rules = {i.name: Rule(kind) for i in model.graph.initializer if i.name.startswith("w.")}  # type: ignore[arg-type]
    rewrite_products(changed, rules, TARGETS[target], Store(changed.graph))
    return ir.to_proto(changed)


def run(model: ModelProto, x: Array) -> list[Array]:
    """As in use: onnxruntime fuses what it can, and must not change what comes out."""
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    outputs: list[Array] = session.run(None, {"x": x})
    return outputs


def expected(x: Array, weight: Array) -> Array:
    """x W, row by row and column by column, as the definition says."""
    rows = x.reshape(-1, x.shape[-1])
    y = np.zeros((len(rows), weight.shape[1]), np.float32)
    for i, row in enumerate(rows):
        step = np.float32(np.abs(row).max()) / np.float32(127) if row.any() else np.float32(1)
        for j, column in enumerate(weight.T):
            scale = np.abs(column).max() / np.float32(127) if column.any() else np.float32(1)
            whole = int(np.rint(row / step).astype(int) @ np.rint(column / scale).astype(int))
            y[i, j] = np.float32(whole) * scale * step
    return y.reshape(*x.shape[:-1], -1)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("free", [[], ["a"], ["a", "b"], ["a", "b", "c"]])
@pytest.mark.parametrize("inputs", [1, 7, 64])
def test_every_row_has_a_step_of_its_own(target: str, free: list[str], inputs: int) -> None:
    weights = [normal(inputs, n, seed=n) for n in (5, 16, 1)]
    weights[1][:, 2] = 0
    x = normal(*(2, 3, 4)[: len(free)], inputs, seed=1) * 10 ** normal(*(2, 3, 4)[: len(free)], 1, seed=2)
    model = quantized(layers(weights, free), "int8r", target)
    for i, (y, weight) in enumerate(zip(run(model, x), weights, strict=True)):
        sums = expected(x, weight) + normal(weight.shape[1], seed=9 + i)
        np.testing.assert_allclose(y, sums, rtol=2e-6, atol=2e-6 * float(np.abs(sums).max()))


@pytest.mark.parametrize("target", TARGETS)
def test_a_row_of_zeros_gives_its_bias_and_the_rows_beside_it_stay_right(target: str) -> None:
    weight, x = normal(32, 8), normal(5, 32, seed=1)
    x[1], x[3] = 0, 1e-38
    (y,) = run(quantized(layers([weight], ["a"]), "int8r", target), x)
    bias = normal(8, seed=9)
    np.testing.assert_array_equal(y[1], bias)
    np.testing.assert_array_equal(y[3], bias)
    np.testing.assert_allclose(y[[0, 2, 4]], expected(x[[0, 2, 4]], weight) + bias, rtol=0, atol=1e-5)


@pytest.mark.parametrize("target", TARGETS)
def test_products_that_read_the_same_input_share_its_codes(target: str) -> None:
    model = quantized(layers([normal(16, 16, seed=n) for n in range(3)], ["a", "b"]), "int8r", target)
    kinds = [node.op_type for node in model.graph.node]
    assert kinds.count("QuantizeLinear") == 1
    (scale,) = (node.input[1] for node in model.graph.node if node.op_type == "QuantizeLinear")
    assert (scale in {i.name for i in model.graph.initializer}) is (target == "portable")  # as other runtimes want it
    assert kinds.count("ReduceMax") == 1
    assert kinds.count("MatMulIntegerToFloat" if target == "cpu" else "MatMulInteger") == 3
    assert {node.domain for node in model.graph.node} == ({"", "com.microsoft"} if target == "cpu" else {""})


def db(x: Array, y: Array, rows: Array) -> float:
    """Signal-to-noise ratio of the product of these rows with a weight."""
    exact = x @ normal(256, 64) + normal(64, seed=9)
    return float(10 * np.log10(np.mean(exact[rows] ** 2) / np.mean((y - exact)[rows] ** 2)))


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("size", [1.0, 15.0])
def test_outliers_in_a_few_rows_ruin_one_scale_per_call_and_not_one_per_row(target: str, size: float) -> None:
    """Peak over rms 20, the median of what trained linears are fed; `size` of the rows that have it."""
    x = normal(200, 256, seed=1)
    few, others = np.arange(0, 200, 40), np.arange(1, 200, 40)
    x[few] *= size
    x[few, 7] = 20 * size
    whole, rows = (run(quantized(layers([normal(256, 64)], ["a"]), k, target), x)[0] for k in ("int8", "int8r"))
    assert db(x, rows, others) > 40
    assert db(x, whole, others) < (33 if size == 1 else 10)
    assert db(x, rows, few) > 25


def test_the_error_that_export_records_is_that_of_the_graph() -> None:
    weight = normal(192, 80)
    x = np.random.default_rng(0).standard_normal((32, 192), np.float32)
    model = layers([weight], ["a"])
    model.graph.initializer[1].CopyFrom(numpy_helper.from_array(np.zeros(80, np.float32), "b.0"))
    (y,) = run(quantized(model, "int8r", "cpu"), x)
    exact = x @ weight
    measured = 10 * np.log10(np.mean(exact**2) / np.mean((y - exact) ** 2))
    assert measure.error_db(weight, Rule("int8r")) == pytest.approx(measured, abs=1e-3)
    assert measure.LEAST_DB["int8r"] < measured < 50


class Block(nn.Module):
    """Two products that share their input and one that does not, with biases."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = Linear(24), Linear(24), Linear(24)
        self.b.weight.mul_(2)  # equal ones would be one
        self.c.weight.mul_(3)
        self.bias = nn.Parameter(torch.arange(24) / 24, requires_grad=False)

    def forward(self, x: Tensor) -> tuple[Tensor]:
        return (self.c(torch.tanh(self.a(x) + self.bias) * self.b(x)),)


@pytest.mark.parametrize("target", TARGETS)
def test_parity_holds_every_product_and_finds_one_that_is_off(target: str, tmp_path: Path) -> None:
    shape = ("batch", "rows", 24)
    stage = Stage("block", (TensorSpec("x", "float32", shape),), (TensorSpec("y", "float32", shape),))
    part = Part(stage, Block(), {"batch": 1, "rows": 4})
    save(part, tmp_path, ROWS, target)
    call = {"x": normal(2, 5, 24) * np.array([1, 30, 0, 1, 1], np.float32)[:, None]}
    diffs = list(products.check("llvc", part, ROWS, target, tmp_path / "block.onnx", call))
    assert [d.tensor for d in diffs] == ["a.weight", "b.weight", "c.weight"]
    assert all(d.ok for d in diffs), diffs
    with torch.no_grad():
        part.net.get_parameter("b.weight")[:, 3] *= 1.01
    diffs = list(products.check("llvc", part, ROWS, target, tmp_path / "block.onnx", call))
    assert [d.tensor for d in diffs if not d.ok] == ["b.weight"]


@pytest.mark.parametrize("target", TARGETS)
def test_the_net_that_rounds_gives_what_the_graph_gives(target: str, tmp_path: Path) -> None:
    packed = job(tmp_path)
    parts = list(packed.parts)
    pack(packed, tmp_path / "b", ROWS, target)
    bundle = Bundle(tmp_path / "b")
    assert bundle.manifest.stages["convert"].int8_ops > 0
    x = normal(6, 64, seed=3)
    x[2] *= 100
    session = bundle.session("convert")
    y = session(session.start(), x=x)[0]["y"]
    (part,) = rounding(parts, ROWS, bundle)
    net = TorchSession(part)
    rounded = net(net.start(), x=x)[0]["y"]
    peak = np.abs(y).max(axis=1, keepdims=True)
    assert (np.abs(y - rounded) < 1e-6 * peak).all()
    plain = TorchSession(parts[0])
    assert (np.abs(y - plain(plain.start(), x=x)[0]["y"]).max(axis=1) > 1e-4 * peak[:, 0]).all()


def test_rounded_rows_of_many_axes_are_rounded_alike() -> None:
    x = normal(2, 3, 8)
    (codes, step), (flat, flat_step) = int8rows.rounded_rows(x), int8rows.rounded_rows(x.reshape(6, 8))
    np.testing.assert_array_equal(codes, flat.reshape(x.shape))
    np.testing.assert_array_equal(step, flat_step.reshape(2, 3, 1))
    assert np.abs(codes).max() == 127
