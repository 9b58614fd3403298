"""A session's memory lies in large pages where there are any."""

import ctypes
import mmap
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from voxport.graphs import pages

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
    requests: list[pages.Span] = []

    class Libc:
        def madvise(self, start: ctypes.c_void_p, size: ctypes.c_size_t, advice: int) -> int:
            assert advice == pages.COLLAPSE
            requests.append((start.value or 0, (start.value or 0) + size.value))
            return 0

    monkeypatch.setattr(ctypes, "CDLL", lambda *_, **__: Libc())
    private = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    earlier = mmap.mmap(-1, 4 * pages.HUGE, flags=private)
    with pages.huge():
        pool = mmap.mmap(-1, 8 * pages.HUGE, flags=private)
        pool[::4096] = b"x" * (len(pool) // 4096)

    def address(memory: mmap.mmap) -> int:
        start: int = np.frombuffer(memory, np.uint8).ctypes.data
        return start

    def share(memory: mmap.mmap) -> float:
        start, stop = address(memory), address(memory) + len(memory)
        return sum(max(0, min(b, stop) - max(a, start)) for a, b in requests) / len(memory)

    assert all(a % pages.HUGE == 0 and b % pages.HUGE == 0 for a, b in requests)
    assert share(pool) >= 6 / 8  # but for its ends
    assert share(earlier) == 0


def test_nothing_happens_where_there_is_no_proc(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(pages, "MAPS", tmp_path / "none")
    monkeypatch.setattr(ctypes, "CDLL", lambda *_, **__: pytest.fail("asked"))
    with pages.huge():
        pass
