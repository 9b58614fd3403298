"""A graph that is loaded for a call or two: the same results, and none of the work that only many calls repay."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from tests.bundles import FIXTURES

from voxport.bundle import Bundle
from voxport.graphs import pages
from voxport.graphs.ort import OrtSession
from voxport.graphs.session import Session

GRAPH = FIXTURES / "cosyvoice3" / "campplus.onnx"


def test_it_gives_the_same_and_asks_for_no_large_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    requests = []

    @contextmanager
    def huge() -> Iterator[None]:
        requests.append("huge")
        yield

    monkeypatch.setattr(pages, "huge", huge)
    fbank = np.random.default_rng(0).standard_normal((1, 50, 80)).astype(np.float32)
    sessions = OrtSession(GRAPH), OrtSession(GRAPH, once=True)
    assert requests == ["huge"]
    usual, quick = (session(session.start(), input=fbank)[0]["output"] for session in sessions)
    np.testing.assert_allclose(quick, usual, rtol=1e-5, atol=1e-6)


def test_weights_stay_as_the_file_has_them(monkeypatch: pytest.MonkeyPatch) -> None:
    import onnxruntime

    entries: dict[str, str] = {}

    class Options(onnxruntime.SessionOptions):  # type: ignore[misc]
        def add_session_config_entry(self, key: str, value: str) -> None:
            entries[key] = value
            super().add_session_config_entry(key, value)

    monkeypatch.setattr(onnxruntime, "SessionOptions", Options)
    OrtSession(GRAPH)
    assert "session.disable_prepacking" not in entries
    OrtSession(GRAPH, once=True)
    assert entries["session.disable_prepacking"] == "1"
    assert "session.intra_op.spin_duration_us" in entries


def test_a_bundle_with_sessions_of_its_own_keeps_to_them(llvc_copy: Path) -> None:
    calls: list[str] = []

    def sessions(path: Path, threads: int) -> Session:
        calls.append(path.name)
        return OrtSession(path, threads)

    stage = next(iter(Bundle(llvc_copy).manifest.stages))
    assert Bundle(llvc_copy).once(stage).stage == Bundle(llvc_copy).session(stage).stage
    Bundle(llvc_copy, sessions=sessions).once(stage)
    assert calls == [f"{stage}.onnx"]
