"""A session's states go on however they are handed about, and its memory lies in large pages where there are any."""

import ctypes
import mmap
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from voxport.graphs import pages
from voxport.graphs.ort import Session
from voxport.graphs.stage import Stage, TensorSpec

Array = np.ndarray


@pytest.fixture(scope="module")
def sums(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """total[n] = sum of all x so far + x[n], next.so_far = so_far + the sum of x; seen[n] = x[n]."""
    values = (
        helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n"]),
        helper.make_tensor_value_info("so_far", TensorProto.FLOAT, [1]),
    )
    nodes = [
        helper.make_node("ReduceSum", ["x"], ["sum"], keepdims=0),
        helper.make_node("Add", ["so_far", "sum"], ["next.so_far"]),
        helper.make_node("Add", ["x", "so_far"], ["total"]),
        helper.make_node("Identity", ["x"], ["seen"]),
    ]
    made = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n"]) for name in ("total", "seen")]
    made.append(helper.make_tensor_value_info("next.so_far", TensorProto.FLOAT, [1]))
    model = helper.make_model(
        helper.make_graph(nodes, "sums", values, made), opset_imports=[helper.make_opsetid("", 20)], ir_version=10
    )
    onnx.checker.check_model(model)
    file = tmp_path_factory.mktemp("sums") / "sums.onnx"
    file.write_bytes(model.SerializeToString())
    return file


@given(sizes=st.lists(st.integers(0, 5), min_size=1, max_size=12), into=st.booleans(), turns=st.integers(1, 3))
def test_a_state_goes_on_in_any_session_of_its_graph(sums: Path, sizes: list[int], into: bool, turns: int) -> None:
    """Buffers swap at every step and are bound once: what was bound before must not be read or written again."""
    sessions = [Session(sums) for _ in range(2)]
    state, so_far, kept = sessions[0].start(), 0.0, []
    for step, size in enumerate(sizes):
        x = np.arange(size, dtype=np.float32) + step
        mine = {"total": np.full(size, np.nan, np.float32)} if into else None
        fork = state.copy()
        outputs, state = sessions[step // turns % 2](state, into=mine, x=x)
        again, _ = sessions[0](fork, x=x)
        assert mine is None or outputs["total"] is mine["total"]
        for held in (outputs, again):
            np.testing.assert_array_equal(held["total"], x + np.float32(so_far))
            np.testing.assert_array_equal(held["seen"], x)
        so_far += float(x.sum())
        kept.append((outputs["total"], outputs["total"].copy()))
    assert state["so_far"] == so_far
    for output, then in kept:  # later steps leave earlier outputs alone
        np.testing.assert_array_equal(output, then)


def test_a_spent_state_is_refused(sums: Path) -> None:
    session = Session(sums)
    state = session.start()
    session(state, x=np.ones(2, np.float32))
    with pytest.raises(ValueError, match="already consumed"):
        session(state, x=np.ones(2, np.float32))


def test_outputs_have_the_sizes_of_inputs() -> None:
    with pytest.raises(ValueError, match=r"^stage s: y float32\[m\]: no input has all of its free axes$"):
        Stage("s", (TensorSpec("x", "float32", ("n",)),), (TensorSpec("y", "float32", ("m",)),))


# ---------------------------------------------------------------------------------------------------------- pages

SPANS = st.lists(st.integers(0, 60), unique=True, max_size=12).map(
    lambda ends: list(zip(*[iter(sorted(ends[: len(ends) // 2 * 2]))] * 2, strict=True))
)


@given(before=SPANS, after=SPANS)
def test_what_was_added_is_what_was_not_there(before: list[pages.Span], after: list[pages.Span]) -> None:
    def cells(spans: list[pages.Span]) -> set[int]:
        return {i for start, stop in spans for i in range(start, stop)}

    found = list(pages.added(before, after))
    assert cells(found) == cells(after) - cells(before)
    assert sum(stop - start for start, stop in found) == len(cells(found))


@pytest.mark.skipif(not pages.MAPS.exists(), reason="no /proc")
def test_memory_taken_within_is_asked_for_in_large_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[pages.Span] = []

    class Libc:
        def madvise(self, start: ctypes.c_void_p, size: ctypes.c_size_t, advice: int) -> int:
            assert advice == pages.COLLAPSE
            asked.append((start.value or 0, (start.value or 0) + size.value))
            return 0

    monkeypatch.setattr(ctypes, "CDLL", lambda *_, **__: Libc())
    private = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    earlier = mmap.mmap(-1, 4 * pages.HUGE, flags=private)
    with pages.huge():
        held = mmap.mmap(-1, 8 * pages.HUGE, flags=private)
        held[::4096] = b"x" * (len(held) // 4096)

    def address(memory: mmap.mmap) -> int:
        start: int = np.frombuffer(memory, np.uint8).ctypes.data
        return start

    def share(memory: mmap.mmap) -> float:
        start, stop = address(memory), address(memory) + len(memory)
        return sum(max(0, min(b, stop) - max(a, start)) for a, b in asked) / len(memory)

    assert all(a % pages.HUGE == 0 and b % pages.HUGE == 0 for a, b in asked)
    assert share(held) >= 6 / 8  # but for its ends
    assert share(earlier) == 0


def test_nothing_happens_where_there_is_no_proc(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(pages, "MAPS", tmp_path / "none")
    monkeypatch.setattr(ctypes, "CDLL", lambda *_, **__: pytest.fail("asked"))
    with pages.huge():
        pass
