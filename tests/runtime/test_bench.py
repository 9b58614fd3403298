"""`voxport bench` measures any system's stages by the names they have."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from tests.runtime.test_bundle import edited

from voxport.bench import run as bench
from voxport.bundle import Bundle
from voxport.systems import SYSTEMS


class Model:
    """A system of two stages that llvc does not have: one is run by two sessions, one never."""

    clock = None

    def __init__(self, bundle: Bundle, *, threads: int = 3) -> None:
        self.talkers = [bundle.session("talker", threads) for _ in range(2)]
        self.idle = bundle.session("idle", 1)

    def workload(self, seconds: float, _chunk_factor: int) -> Iterator[np.ndarray]:
        for _ in range(round(seconds * 10)):
            for talker in self.talkers:
                talker(talker.start(), audio=np.zeros(1600, np.float32))
            yield np.zeros(1600, np.float32)


def test_stages_are_timed_by_name_whatever_the_system(llvc_copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("talker", "idle"):
        shutil.copy(llvc_copy / "prenet.onnx", llvc_copy / f"{name}.onnx")
    copies = ("talker.onnx", "idle.onnx")
    edited(llvc_copy, lambda m: m["files"].update(dict.fromkeys(copies, m["files"]["prenet.onnx"])))
    monkeypatch.setitem(SYSTEMS, "llvc", lambda bundle, _threads: Model(bundle))
    seen: list[int] = []
    figures = bench._figures

    def counted(seconds: list[float], audio: float) -> dict[str, float | None]:
        seen.append(len(seconds))
        return figures(seconds, audio)

    monkeypatch.setattr(bench, "_figures", counted)
    told = bench._workload(str(llvc_copy), "0.5", "0", "1")
    assert told["threads"] == 3
    assert told["audio_s"] == 0.5
    assert told["stages"].keys() == {"talker", "idle"}
    assert seen == [10, 0]  # both sessions, without the warm-up
    assert 0 < told["stages"]["talker"]["ms_p50"] <= told["stages"]["talker"]["ms_p99"]
    assert told["stages"]["idle"] == {"rtf": None, "ms_p50": None, "ms_p99": None}


def test_a_stage_that_never_ran_has_no_figures(llvc_copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    none = {"rtf": None, "ms_p50": None, "ms_p99": None}
    some = {"rtf": 0.1, "ms_p50": 1.0, "ms_p99": 2.0}
    run = dict.fromkeys(("rtf", "first_audio_s", "peak_rss_mb", "load_s", "audio_s"), 1.0)
    run |= {f"step_ms_p{p}": 1.0 for p in (50, 95, 99)}
    machine = {
        "cpu": "c",
        "isa": "i",
        "bandwidth_gb_s": 1.0,
        "fp32_gflop_s": 1.0,
        "int8_gop_s": 1.0,
        "onnxruntime": "1",
    }
    told = {
        "workload": run | {"tokens_per_s": None, "threads": 1, "stages": {"prenet": none, "convert": some}},
        "probe": machine,
    }
    monkeypatch.setattr(bench, "_child", lambda kind, *_: told[kind])
    result = bench.bench(llvc_copy)
    assert result["stages"]["prenet"] == none | {"of_limit": None}
    assert result["stages"]["convert"]["of_limit"] > 0
    assert "prenet           never ran" in bench.table(result)
