"""info, verify and bench on the command line."""

import json
import os
from pathlib import Path

import pytest
from tests.bundles import Export
from tests.command import done, refusal, run
from tests.runtime.test_bundle import edited

from voxport.bundle import Bundle


@pytest.fixture(scope="module")
def bundle(llvc_bundles: Export) -> Path:
    return llvc_bundles("fp32", "cpu")


def test_info_says_what_a_bundle_is(bundle: Path) -> None:
    text = done(run("info", bundle))
    for words in (
        "llvc (llvc), 16000 Hz",
        "recipe fp32, target cpu",
        "torch 2.",
        "G_500000.pth",
        "convert:",
        "convert.onnx.data: 0.",
    ):
        assert words in text
    assert "float32[" not in text


def test_info_lists_the_rules_as_they_were_applied(llvc_bundles: Export, vyvo_bundles: Export) -> None:
    text = done(run("info", llvc_bundles("int8", "cpu")))
    assert "  int8: weights * of stage *\n  fp32: weights in_conv* of stage *\n" in text
    assert "  int4 in blocks of 128: weights * of stage *\n" in done(run("info", vyvo_bundles("int4", "cpu")))


def test_info_says_how_near_a_stream_is_where_it_is_not_exact(llvc_copy: Path) -> None:
    edited(llvc_copy, lambda m: m["stages"]["convert"].update(streamed_db=16.62))
    assert done(run("info", llvc_copy)).count("streamed: 16.6 dB of what it gives at once") == 1


def test_info_json_is_the_manifest(bundle: Path) -> None:
    assert json.loads(done(run("info", bundle, "--json"))) == {
        "manifest": json.loads((bundle / "manifest.json").read_text())
    }


def test_info_loads_graphs_for_their_tensors_only(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = json.loads(done(run("info", bundle, "--json", "--tensors")))
    assert result["manifest"] == json.loads((bundle / "manifest.json").read_text())
    assert result["graphs"].keys() == result["manifest"]["stages"].keys() == {"prenet", "convert"}
    assert "audio float32[chunks, " in result["graphs"]["convert"]["inputs"][0]
    assert any(tensor.startswith("context ") for tensor in result["graphs"]["convert"]["state"])
    assert "  state   context float32[" in done(run("info", bundle, "--tensors"))

    def no_session(*_: object) -> None:
        raise AssertionError("a graph was loaded")

    monkeypatch.setattr(Bundle, "session", no_session)
    done(run("info", bundle))
    done(run("info", bundle, "--json"))


def test_info_hashes_again_what_it_remembers_only_when_told_to_check(llvc_copy: Path) -> None:
    data = llvc_copy / "convert.onnx.data"
    before = data.stat()
    os.utime(data, ns=(before.st_atime_ns, before.st_mtime_ns - 60_000_000_000))  # written a minute ago
    done(run("info", llvc_copy))
    status, content = data.stat(), bytearray(data.read_bytes())
    content[100] ^= 1
    data.write_bytes(content)
    os.utime(data, ns=(status.st_atime_ns, status.st_mtime_ns))  # as a disk would fail
    done(run("info", llvc_copy))
    done(run("info", llvc_copy, "--no-check"))
    assert "convert.onnx.data: corrupted" in refusal(run("info", llvc_copy, "--check"))


def test_verify_proves_a_bundle_for_any_thread_count(bundle: Path) -> None:
    rows = json.loads(done(run("verify", bundle, "--json", "--threads", "2")))
    assert [row["name"] for row in rows] == ["exact", "upstream", "offline"]
    assert all(row["ok"] and row["max_abs"] <= row["bound"] for row in rows)


def test_bench_json_has_every_key(bundle: Path) -> None:
    result = json.loads(done(run("bench", bundle, "--seconds", "0.2", "--json")))
    keys = {"rtf", "tokens_per_s", "first_audio_s", "peak_rss_mb", "load_s", "bundle_mb", "stages", "machine"}
    assert result.keys() >= keys
    machine = {"cpu", "threads", "bandwidth_gb_s", "fp32_gflop_s", "int8_gop_s", "onnxruntime"}
    assert result["machine"].keys() >= machine
    assert result["stages"].keys() == {"prenet", "convert"}
    for stage in result["stages"].values():
        assert stage.keys() >= {"rtf", "ms_p50", "ms_p99", "of_limit"}
        assert 0 < stage["rtf"] < result["rtf"]
        assert stage["ms_p50"] <= stage["ms_p99"]
    assert result["tokens_per_s"] is None
    assert result["machine"]["threads"] == 1
    assert all(result[key] > 0 for key in keys - {"tokens_per_s", "stages", "machine"})


def test_bench_prints_a_table_and_one_line_when_it_fails(bundle: Path) -> None:
    text = done(run("bench", bundle, "--seconds", "0.2", "--threads", "2"))
    assert "2 thread(s)" in text
    assert "of limit" in text
    assert "the workload process failed: ValueError" in refusal(run("bench", bundle, "--seconds", "nan"))
