"""A session's states go on however they are handed about; what does not fit is refused by name; threads do not meet."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from voxport.graphs.ort import OrtSession
from voxport.graphs.stage import Stage, TensorSpec

Array = np.ndarray
Shapes = dict[str, list[int | str]]


@pytest.fixture(scope="module")
def sums(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """total[n] = sum of all x so far + x[n], next.so_far = so_far + the sum of x; seen[n] = x[n]."""
    nodes = [
        helper.make_node("ReduceSum", ["x"], ["sum"], keepdims=0),
        helper.make_node("Add", ["so_far", "sum"], ["next.so_far"]),
        helper.make_node("Add", ["x", "so_far"], ["total"]),
        helper.make_node("Identity", ["x"], ["seen"]),
    ]
    outputs: Shapes = {"total": ["n"], "seen": ["n"], "next.so_far": [1]}
    return graph(tmp_path_factory.mktemp("sums") / "sums.onnx", nodes, {"x": ["n"], "so_far": [1]}, outputs)


@pytest.fixture(scope="module")
def product(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """product = a b, without state; large enough that several threads are at work in it at once."""
    nodes = [helper.make_node("MatMul", ["a", "b"], ["product"])]
    inputs: Shapes = {"a": ["rows", "inner"], "b": ["inner", 64]}
    return graph(tmp_path_factory.mktemp("product") / "product.onnx", nodes, inputs, {"product": ["rows", 64]})


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """scores = memory x + steps, next.steps = steps + 1, and the last column of `cache` is x[:, 0]: all by rows."""
    one = helper.make_tensor("one", TensorProto.FLOAT, [1, 1], [1.0])
    start, stop = (helper.make_tensor(n, TensorProto.INT64, [1], [i]) for n, i in (("start", 0), ("stop", -1)))
    axis = helper.make_tensor("axis", TensorProto.INT64, [1], [1])
    nodes = [
        helper.make_node("MatMul", ["memory", "x"], ["found"]),
        helper.make_node("Squeeze", ["found", "two"], ["flat"]),
        helper.make_node("Add", ["flat", "steps"], ["scores"]),
        helper.make_node("Add", ["steps", "one"], ["next.steps"]),
        helper.make_node("Slice", ["cache", "start", "stop", "axis"], ["older"]),
        helper.make_node("Slice", ["x", "start", "axis", "axis"], ["first"]),
        helper.make_node("Squeeze", ["first", "two"], ["column"]),
        helper.make_node("Concat", ["older", "column"], ["next.cache"], axis=1),
    ]
    two = helper.make_tensor("two", TensorProto.INT64, [1], [2])
    inputs: Shapes = {"x": ["batch", 4, 1], "memory": ["batch", "keys", 4], "steps": ["batch", 1]}
    inputs["cache"] = ["batch", "capacity"]
    outputs: Shapes = {"scores": ["batch", "keys"], "next.steps": ["batch", 1], "next.cache": ["batch", "capacity"]}
    file = tmp_path_factory.mktemp("reader") / "reader.onnx"
    return graph(file, nodes, inputs, outputs, [one, start, stop, axis, two])


def graph(
    file: Path,
    nodes: list[onnx.NodeProto],
    inputs: Shapes,
    outputs: Shapes,
    constants: Sequence[onnx.TensorProto] = (),
) -> Path:
    """Writes a graph of float32 tensors with these shapes."""
    takes, gives = (
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()]
        for shapes in (inputs, outputs)
    )
    model = helper.make_model(
        helper.make_graph(nodes, file.stem, takes, gives, list(constants)),
        opset_imports=[helper.make_opsetid("", 20)],
        ir_version=10,
    )
    onnx.checker.check_model(model)
    file.write_bytes(model.SerializeToString())
    return file


@given(sizes=st.lists(st.integers(0, 5), min_size=1, max_size=12), into=st.booleans(), turns=st.integers(1, 3))
def test_a_state_goes_on_in_any_session_of_its_graph(sums: Path, sizes: list[int], into: bool, turns: int) -> None:
    """Buffers swap at every step and are bound once: what was bound before must not be read or written again."""
    sessions = [OrtSession(sums) for _ in range(2)]
    state, so_far, earlier = sessions[0].start(), 0.0, []
    for step, size in enumerate(sizes):
        x = np.arange(size, dtype=np.float32) + step
        mine = {"total": np.full(size, np.nan, np.float32)} if into else None
        fork = state.copy()
        outputs, state = sessions[step // turns % 2](state, into=mine, x=x)
        again, _ = sessions[0](fork, x=x)
        assert mine is None or outputs["total"] is mine["total"]
        for results in (outputs, again):
            np.testing.assert_array_equal(results["total"], x + np.float32(so_far))
            np.testing.assert_array_equal(results["seen"], x)
        so_far += float(x.sum())
        earlier.append((outputs["total"], outputs["total"].copy()))
    assert state["so_far"] == so_far
    for output, then in earlier:  # later steps leave earlier outputs alone
        np.testing.assert_array_equal(output, then)


def test_a_spent_state_is_refused(sums: Path) -> None:
    session = OrtSession(sums)
    state = session.start()
    session(state, x=np.ones(2, np.float32))
    with pytest.raises(ValueError, match="already consumed"):
        session(state, x=np.ones(2, np.float32))


def test_outputs_whose_size_no_input_has_are_known() -> None:
    x, y, z = (TensorSpec(name, "float32", (axis,)) for name, axis in (("x", "n"), ("y", "m"), ("z", "n")))
    assert Stage("s", (x,), (y, z)).unsized == (y,)


# ------------------------------------------------------------------------------------------------ what does not fit


def test_into_is_checked_by_name(sums: Path) -> None:
    session, x = OrtSession(sums), np.ones(3, np.float32)

    def into(**arrays: Array) -> None:
        session(session.start(), into=arrays, x=x)

    with pytest.raises(ValueError, match=r"^stage sums gives \['seen', 'total'\], got `into` for other$"):
        into(other=np.zeros(3, np.float32))
    with pytest.raises(ValueError, match=r"^total float32\[n\]: got dtype float64$"):
        into(total=np.zeros(3))
    with pytest.raises(ValueError, match=r"^total float32\[n\]: got shape \[3, 1\]$"):
        into(total=np.zeros((3, 1), np.float32))
    with pytest.raises(ValueError, match=r"^total float32\[n\]: wanted shape \[3\] in `into`, got \[4\]$"):
        into(total=np.zeros(4, np.float32))
    with pytest.raises(ValueError, match=r"^total float32\[n\]: the array in `into` must be C-contiguous"):
        into(total=np.zeros(6, np.float32)[::2])


def test_an_input_need_not_be_contiguous(sums: Path) -> None:
    session = OrtSession(sums)
    outputs, _ = session(session.start(), x=np.arange(6, dtype=np.float32)[::2])
    assert outputs["seen"].tolist() == [0, 2, 4]


def test_inputs_agree_on_the_size_of_an_axis(product: Path, reader: Path) -> None:
    session, other = OrtSession(product), OrtSession(reader)
    with pytest.raises(ValueError, match=r"^stage product: b float32\[inner, 64\]: axis inner is 3 here, but 2 in "):
        session(session.start(), a=np.zeros((1, 2), np.float32), b=np.zeros((3, 64), np.float32))
    x, memory = np.zeros((2, 4, 1), np.float32), np.zeros((2, 5, 4), np.float32)
    with pytest.raises(ValueError, match=r"^stage reader: x float32\[batch, 4, 1\]: axis batch is 2 here, but 3 in "):
        other(other.start(batch=3, capacity=4), x=x, memory=memory)
    with pytest.raises(ValueError, match=r"^stage reader: memory .*: axis batch is 2 here, but 3 in "):
        other.start({"memory": memory}, batch=3, capacity=4)


# -------------------------------------------------------------------------------------------------------- constants


def test_constants_are_bound_once_and_kept_by_copies_and_rows(reader: Path) -> None:
    session, rng = OrtSession(reader), np.random.default_rng(0)
    memory = rng.standard_normal((2, 5, 4), np.float32)
    state, repeated = session.start({"memory": memory}, capacity=3), session.start(batch=2, capacity=3)
    for _ in range(3):
        x = rng.standard_normal((2, 4, 1), np.float32)
        row, fork = state.row(1), state.copy()
        want, repeated = session(repeated, x=x, memory=memory)
        got, state = session(state, x=x)
        again, _ = session(fork, x=x)
        alone, _ = session(row, x=x[1:])
        np.testing.assert_array_equal(got["scores"], want["scores"])
        np.testing.assert_array_equal(again["scores"], want["scores"])
        np.testing.assert_allclose(alone["scores"], want["scores"][1:], rtol=1e-6)


def test_what_is_constant_is_not_given_again(reader: Path) -> None:
    session, x = OrtSession(reader), np.zeros((1, 4, 1), np.float32)
    memory = np.zeros((1, 5, 4), np.float32)
    with pytest.raises(ValueError, match=r"^stage reader takes \['x'\], got \['memory', 'x'\]$"):
        session(session.start({"memory": memory}, capacity=3), x=x, memory=memory)
    with pytest.raises(ValueError, match=r"^stage reader takes \['memory', 'x'\], got the constants \['memories'\]$"):
        session.start({"memories": memory}, batch=1, capacity=3)


# ------------------------------------------------------------------------------------------------------------- rows


@pytest.mark.parametrize("calls", [1, 2, 3, 4])
def test_a_row_that_ran_alone_is_put_back_into_its_place(reader: Path, calls: int) -> None:
    """Whatever side of its buffers the last call left it on."""
    session, rng = OrtSession(reader), np.random.default_rng(calls)
    memory = np.zeros((3, 1, 4), np.float32)
    state = session.start({"memory": memory}, capacity=4)
    _, state = session(state, x=rng.standard_normal((3, 4, 1), np.float32))
    before = {name: array.copy() for name, array in state.items()}
    row = state.row(1, fresh=True)
    assert np.shares_memory(row["cache"], state["cache"])
    assert not row["steps"].any()
    for _ in range(calls):
        _, row = session(row, x=rng.standard_normal((1, 4, 1), np.float32))
    state.put(1, row)
    assert state["steps"].tolist() == [[1], [calls], [1]]
    for name, array in state.items():  # the other rows are untouched
        np.testing.assert_array_equal(array[[0, 2]], before[name][[0, 2]])
    _, state = session(state, x=np.zeros((3, 4, 1), np.float32))
    assert state["steps"].tolist() == [[2], [calls + 1], [2]]


def test_only_batches_have_rows(sums: Path) -> None:
    with pytest.raises(ValueError, match=r"^stage sums: so_far float32\[1\]: its first axis is not batch"):
        OrtSession(sums).start().row(0)


# ---------------------------------------------------------------------------------------------------------- threads

THREADS, CALLS = 8, 200


def test_one_stateless_session_serves_many_threads(product: Path) -> None:
    session = OrtSession(product)

    def run(seed: int) -> list[Array]:
        rng = np.random.default_rng(seed)
        results = []
        for _ in range(CALLS):
            rows, inner = rng.integers(1, 300, 2)
            feed = {"a": rng.standard_normal((rows, inner), np.float32)}
            feed["b"] = rng.standard_normal((inner, 64), np.float32)
            results.append(session(session.start(), into=None, **feed)[0]["product"])
        return results

    alone = [run(seed) for seed in range(THREADS)]
    with ThreadPoolExecutor(THREADS) as pool:
        together = list(pool.map(run, range(THREADS)))
    for wants, gots in zip(alone, together, strict=True):
        for want, got in zip(wants, gots, strict=True):
            np.testing.assert_array_equal(got, want)


def test_one_session_serves_many_threads_with_a_state_each(sums: Path) -> None:
    session = OrtSession(sums)

    def run(seed: int) -> list[Array]:
        rng, state, results = np.random.default_rng(seed), session.start(), []
        for _ in range(CALLS):
            outputs, state = session(state, x=rng.standard_normal(int(rng.integers(0, 9)), np.float32))
            results.append(outputs["total"])
        return [*results, state["so_far"].copy()]

    alone = [run(seed) for seed in range(THREADS)]
    with ThreadPoolExecutor(THREADS) as pool:
        together = list(pool.map(run, range(THREADS)))
    for wants, gots in zip(alone, together, strict=True):
        for want, got in zip(wants, gots, strict=True):
            np.testing.assert_array_equal(got, want)
