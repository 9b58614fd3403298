"""`voxport bench` measures any system's stages by the names they have, and holds each call to its own limit."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.command import refusal, run
from tests.runtime.test_bundle import edited

from voxport.bench import run as bench
from voxport.bench.cost import scale_of, sizes_of
from voxport.bench.workload import Call, Timed, TimedBundle, workload
from voxport.bundle import Bundle
from voxport.graphs.ort import OrtSession
from voxport.graphs.stage import TensorSpec
from voxport.manifest import Cost, StageRecord
from voxport.systems import SYSTEMS

CHUNK = 208  # samples; what export counts with for the fixture's prenet
MACHINE: dict[str, Any] = {"cpu": "c", "isa": "i", "onnxruntime": "1"}
MACHINE |= {"bandwidth_gb_s": 1.0, "fp32_gflop_s": 1.0, "int8_gop_s": 2.0}


class Model:
    """A system of two stages that llvc does not have: one is run by two sessions, one never."""

    clock = None

    def __init__(self, bundle: Bundle) -> None:
        self.talkers = [bundle.session("talker", 3) for _ in range(2)]
        self.idle = bundle.session("idle", 1)

    def workload(self, seconds: float, _chunk_factor: int) -> Iterator[np.ndarray]:
        for _ in range(round(seconds * 10)):
            for talker in self.talkers:
                talker(talker.start(), audio=np.zeros(1600, np.float32))
            yield np.zeros(1600, np.float32)


def test_stages_are_timed_by_name_whatever_the_system(llvc_copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("talker", "idle"):
        shutil.copy(llvc_copy / "prenet.onnx", llvc_copy / f"{name}.onnx")
    names = ("talker", "idle")
    edited(llvc_copy, lambda m: m["files"].update({f"{name}.onnx": m["files"]["prenet.onnx"] for name in names}))
    edited(llvc_copy, lambda m: m["stages"].update(dict.fromkeys(names, m["stages"]["prenet"])))
    monkeypatch.setitem(SYSTEMS, "llvc", lambda bundle, _threads: Model(bundle))
    result = workload(llvc_copy, 0.5, None, 1, {})
    assert result["threads"] == 3
    assert result["audio_s"] == 0.5
    assert result["tokens_per_s"] is None
    stages = result["stages"]
    calls = {name: stage.pop("calls") for name, stage in stages.items()}
    assert {name: len(c) for name, c in calls.items()} == {"talker": 10, "idle": 0}  # without the warm-up
    assert np.array(calls["talker"])[:, 1:] == pytest.approx(1600 / CHUNK)
    assert 0 < stages["talker"]["ms_p50"] <= stages["talker"]["ms_p99"]
    assert stages["idle"] == {"rtf": None, "ms_p50": None, "ms_p99": None}


def test_a_call_with_4_units_is_held_to_4_times_the_operations_of_one_with_1(llvc_copy: Path) -> None:
    bundle = TimedBundle(llvc_copy)
    prenet = bundle.session("prenet")
    for units in (1, 4):
        prenet(prenet.start(), audio=np.zeros(units * CHUNK, np.float32))
    one, four = bundle.calls["prenet"]
    assert one[1:] == pytest.approx((1, 1))
    assert four[1:] == pytest.approx((4, 4))
    compute = StageRecord(weight_bytes=0, flops=1000, int8_ops=1000, axes={"samples": CHUNK})
    single, large = (bench.of_limit(compute, [Call(1e-5, *call[1:])], MACHINE) for call in (one, four))
    assert single == 0.15  # 1 us of flops and half as long of 8-bit operations, in 10 us
    assert large == 4 * single
    read = StageRecord(weight_bytes=5000, flops=1000, int8_ops=0, axes={"samples": CHUNK})
    assert bench.of_limit(read, [Call(1e-5, 4.0, 4.0)], MACHINE) == 0.5  # weights are read once, however large the call
    assert bench.of_limit(read, [Call(1e-5, 8.0, 8.0)], MACHINE) == 0.8


def test_the_sizes_of_a_call_are_those_of_its_inputs_but_capacity() -> None:
    declared = (
        TensorSpec("tokens", "int64", ("batch", "time")),
        TensorSpec("past", "int64", ("batch",)),
        TensorSpec("mask", "float32", ("batch", "capacity", 8)),
    )
    inputs = {"tokens": np.zeros((2, 6)), "past": np.zeros(2), "mask": np.zeros((2, 900, 8))}
    assert sizes_of(declared, inputs) == {"batch": 2, "time": 6}
    assert sizes_of(declared, {"past": np.zeros(3)}) == {"batch": 3}  # the others were bound before


def test_costs_grow_with_every_axis_as_export_counted() -> None:
    """Products with weights grow with the frames, attention with their square, a head for the last frame not at all."""

    def cost(frames: int, batch: int = 1) -> Cost:
        return Cost(flops=batch * (500 + 30 * frames + 2 * frames**2), int8_ops=batch * 700 * frames)

    once, growth = cost(10), {"frames": (cost(20), cost(30)), "batch": (cost(10, 2), cost(10, 3))}
    record = StageRecord(0, once.flops, once.int8_ops, {"frames": 10, "batch": 1, "capacity": 64}, growth)
    for frames, batch in ((1, 1), (10, 1), (25, 1), (13, 4), (100, 2)):
        scale = scale_of(record, {"frames": frames, "batch": batch, "other": 7})
        assert scale.flops * once.flops == pytest.approx(cost(frames, batch).flops)
        assert scale.int8_ops * once.int8_ops == pytest.approx(cost(frames, batch).int8_ops)
    linear = StageRecord(0, once.flops, once.int8_ops, {"frames": 10})
    assert scale_of(linear, {"frames": 25}) == (2.5, 2.5)


def test_a_timed_session_returns_what_the_session_returns(llvc_copy: Path) -> None:
    session = OrtSession(llvc_copy / "prenet.onnx")
    calls: list[Call] = []
    timed = Timed(session, StageRecord(0, 1, 1, {"samples": CHUNK}), calls)
    audio = np.linspace(-1, 1, CHUNK, dtype=np.float32)
    expected, state = session(session.start(), audio=audio)
    outputs, timed_state = timed(timed.start(), audio=audio)
    assert np.array_equal(outputs["filtered"], expected["filtered"])
    assert all(np.array_equal(timed_state[name], state[name]) for name in state)
    assert (timed.stage, timed.threads, len(calls)) == (session.stage, session.threads, 1)
    with pytest.raises(ValueError, match="consumed"):
        timed(state, audio=audio) and timed(state, audio=audio)


def test_a_stage_that_never_ran_has_no_figures(llvc_copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    edited(llvc_copy, lambda m: m["stages"]["convert"].update(streamed_db=16.62))
    none = {"rtf": None, "ms_p50": None, "ms_p99": None}
    some = {"rtf": 0.1, "ms_p50": 1.0, "ms_p99": 2.0}
    run = dict.fromkeys(("rtf", "first_audio_s", "peak_rss_mb", "load_s", "audio_s"), 1.0)
    run |= {f"step_ms_p{p}": 1.0 for p in (50, 95, 99)}
    stages = {"prenet": none | {"calls": []}, "convert": some | {"calls": [[1e-3, 1.0, 1.0]]}}
    results = {"workload": run | {"tokens_per_s": None, "threads": 1, "stages": stages}, "probe": MACHINE}
    monkeypatch.setattr(bench, "_child", lambda kind, *_: results[kind])
    result = bench.bench(llvc_copy)
    assert result["stages"]["prenet"] == none | {"of_limit": None}
    assert result["stages"]["convert"]["of_limit"] > 0
    assert "prenet           never ran" in bench.table(result)
    assert result["stages"]["convert"]["streamed_db"] == 16.62
    assert "streamed: 16.6 dB, as export measured" in bench.table(result)


def test_a_workload_that_fails_is_one_line(llvc_copy: Path) -> None:
    edited(llvc_copy, lambda m: m["section"].update(hop=0))
    line = refusal(run("bench", llvc_copy))
    assert "bench: the workload process failed: " in line
    assert "Expected `int` >= 1 - at `$.hop`" in line


def test_settings_reach_the_model_and_one_it_does_not_know_is_refused(llvc_copy: Path) -> None:
    with pytest.raises(ValueError, match=r"llvc has no settings; got speed"):
        bench.bench(llvc_copy, seconds=0.1, settings={"speed": 2})
