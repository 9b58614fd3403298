"""What a user of `voxport` sees when all is well: files, folders, pipes, and what each verb prints."""

import json
import os
import select
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile as sf
from tests.bundles import Export
from tests.command import done, refusal, run

import voxport
from voxport.audio.files import pcm16
from voxport.bundle import Bundle
from voxport.recipe import Recipe, Rule
from voxport.systems.llvc.converter import Converter
from voxport_exporters import pack as packing

VERBS = {"bench", "convert", "export", "fetch", "info", "lock", "parity", "verify"}


@pytest.fixture(scope="module")
def bundle(llvc_bundles: Export) -> Path:
    return llvc_bundles("fp32", "cpu")


@pytest.fixture(scope="module")
def speech(llvc_checkpoint: Path) -> Path:
    return llvc_checkpoint / "input_16k.wav"


def heard(path: Path) -> np.ndarray:
    samples, rate = sf.read(path, dtype="int16")
    assert rate == 16000
    return np.asarray(samples)


def piped(bundle: Path, *options: str, stdin: bytes) -> np.ndarray:
    result = run("convert", bundle, "-", "-", *options, stdin=stdin)
    assert result.exit_code == 0, result.stderr
    return np.frombuffer(result.stdout_bytes, "<i2")


# ---- the command itself


def test_help_lists_every_verb_of_every_floor() -> None:
    text = done(run("--help"))
    listed = {line.split()[0] for line in text.partition("Commands:")[2].splitlines() if line.strip()}
    assert listed >= VERBS


@pytest.mark.parametrize("verb", sorted(VERBS))
def test_every_verb_explains_itself(verb: str) -> None:
    assert done(run(verb, "--help")).startswith(f"Usage: voxport {verb}")


def test_version_is_the_packages() -> None:
    assert voxport.__version__ in done(run("--version"))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--nope"], "No such option '--nope'"),
        (["nosuch"], "No such command 'nosuch'"),
        (["convert"], "Missing argument 'BUNDLE'"),
        (["convert", "b", "in", "out", "--mode", "fast"], "'fast' is not one of 'exact', 'upstream', 'offline'"),
        (["convert", "b", "-", "out", "--rate", "0"], "0 is not in the range 1<=x<=1000000"),
        (["convert", "b", "in", "out", "--chunk-factor", "0"], "'--chunk-factor': 0"),
        (["verify", "b", "--threads", "5000"], "'--threads': 5000"),
        (["bench", "b", "--seconds", "0"], "'--seconds': 0"),
        (["export", "nosuch", "folder", "-o", "b"], "'nosuch' is not"),
        (["export", "llvc", "folder"], "Missing option '-o'"),
        (["parity"], "Missing argument"),
    ],
)
def test_bad_usage_is_one_line_that_names_the_help(arguments: list[str], words: str) -> None:
    line = refusal(run(*arguments))
    assert words in line
    assert line.endswith("--help`")


@pytest.mark.parametrize(
    ("arguments", "missing", "extra"),
    [
        (["export", "llvc", "folder", "-o", "b"], "torch", "export"),
        (["parity", "llvc", "folder"], "onnx", "parity"),
        (["fetch", "llvc"], "huggingface_hub", "export"),
        (["lock", "llvc"], "huggingface_hub", "export"),
    ],
)
def test_a_verb_without_what_it_needs_names_the_extra(
    tmp_path: Path, arguments: list[str], missing: str, extra: str
) -> None:
    code = f"import sys; sys.modules[{missing!r}] = None; from voxport.cli import main; main({arguments!r})"
    ended = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    (line,) = ended.stderr.splitlines()
    assert line.startswith(f"Error: voxport {arguments[0]} needs ")
    assert line.endswith(f": pip install 'voxport[{extra}]'")
    assert not list(tmp_path.iterdir())


# ---- convert


@pytest.mark.parametrize(("mode", "golden"), [("exact", "al1.out"), ("upstream", "s1.out"), ("offline", "ns.out")])
def test_a_file_is_converted_as_upstream_does_and_as_long(
    bundle: Path, speech: Path, tmp_path: Path, llvc_golden: dict[str, np.ndarray], mode: str, golden: str
) -> None:
    out = tmp_path / "out.wav"
    assert done(run("convert", bundle, speech, out, "--mode", mode)) == f"{out}\n"
    assert sf.info(out).subtype == "PCM_16"
    assert len(heard(out)) == sf.info(speech).frames
    assert np.abs(heard(out) - llvc_golden[golden].astype(np.float64) * 32768).max() <= 0.5 + 0.2


def test_the_default_is_exact_mode_with_one_chunk_per_step(bundle: Path, speech: Path, tmp_path: Path) -> None:
    done(run("convert", bundle, speech, tmp_path / "a.wav"))
    done(run("convert", bundle, speech, tmp_path / "b.wav", "--mode", "exact", "--chunk-factor", "1"))
    done(run("convert", bundle, speech, tmp_path / "c.wav", "--mode", "upstream"))
    assert (tmp_path / "a.wav").read_bytes() == (tmp_path / "b.wav").read_bytes()
    assert (tmp_path / "a.wav").read_bytes() != (tmp_path / "c.wav").read_bytes()


def test_offline_ignores_the_chunk_factor(bundle: Path, speech: Path, tmp_path: Path) -> None:
    for factor in (1, 7):
        path = tmp_path / f"{factor}.wav"
        done(run("convert", bundle, speech, path, "--mode", "offline", "--chunk-factor", str(factor)))
    assert (tmp_path / "1.wav").read_bytes() == (tmp_path / "7.wav").read_bytes()


def test_a_float_file_is_what_python_computes(bundle: Path, speech: Path, tmp_path: Path) -> None:
    done(run("convert", bundle, speech, tmp_path / "out.wav", "--float"))
    samples, _ = sf.read(tmp_path / "out.wav", dtype="float32")
    assert sf.info(tmp_path / "out.wav").subtype == "FLOAT"
    wanted = Converter(Bundle(bundle)).stream().convert(sf.read(speech, dtype="float32")[0])
    np.testing.assert_allclose(samples, wanted, rtol=0, atol=1e-6)
    done(run("convert", bundle, speech, tmp_path / "pcm.wav"))
    assert np.abs(heard(tmp_path / "pcm.wav") - pcm16(wanted)).max() <= 1  # rounded, no dither, no gain


def test_other_rates_and_channels_go_in_and_the_bundles_rate_comes_out(
    bundle: Path, llvc_checkpoint: Path, tmp_path: Path, llvc_golden: dict[str, np.ndarray]
) -> None:
    stereo = llvc_checkpoint / "input_44k_stereo.wav"
    done(run("convert", bundle, stereo, tmp_path / "out.wav", "--mode", "offline"))
    got = heard(tmp_path / "out.wav")
    assert len(got) == -(-sf.info(stereo).frames * 16000 // 44100)
    assert np.abs(got - llvc_golden["resample.ns.out"].astype(np.float64) * 32768).max() <= 0.5 + 0.2


def test_a_folder_keeps_its_shape(bundle: Path, speech: Path, tmp_path: Path) -> None:
    samples, _ = sf.read(speech)
    (tmp_path / "in" / "deep").mkdir(parents=True)
    sf.write(tmp_path / "in" / "a.wav", samples, 16000)
    sf.write(tmp_path / "in" / "deep" / "b.FLAC", samples, 16000, format="FLAC")
    (tmp_path / "in" / "notes.txt").write_text("not audio")
    assert done(run("convert", bundle, tmp_path / "in", tmp_path / "out")) == f"{tmp_path / 'out'}\n"
    made = {p.relative_to(tmp_path / "out").as_posix() for p in (tmp_path / "out").rglob("*") if p.is_file()}
    assert made == {"a.wav", "deep/b.wav"}
    assert np.array_equal(heard(tmp_path / "out" / "a.wav"), heard(tmp_path / "out" / "deep" / "b.wav"))


def test_a_pipe_gives_what_a_file_gives(bundle: Path, speech: Path, tmp_path: Path) -> None:
    done(run("convert", bundle, speech, tmp_path / "out.wav"))
    assert np.array_equal(piped(bundle, stdin=heard(speech).tobytes()), heard(tmp_path / "out.wav"))
    done(run("convert", bundle, "-", tmp_path / "raw.wav", stdin=heard(speech).tobytes()))
    assert (tmp_path / "raw.wav").read_bytes() == (tmp_path / "out.wav").read_bytes()


def test_rate_is_that_of_raw_stdin(bundle: Path, speech: Path, tmp_path: Path) -> None:
    samples = heard(speech)
    sf.write(tmp_path / "in.wav", samples, 8000, subtype="PCM_16")
    done(run("convert", bundle, tmp_path / "in.wav", tmp_path / "out.wav"))
    assert np.array_equal(piped(bundle, "--rate", "8000", stdin=samples.tobytes()), heard(tmp_path / "out.wav"))
    assert len(heard(tmp_path / "out.wav")) == 2 * len(samples)


def test_a_live_pipe_answers_before_it_ends(bundle: Path, speech: Path) -> None:
    command = [sys.executable, "-m", "voxport.cli", "convert", str(bundle), "-", "-"]
    buffered = {key: value for key, value in os.environ.items() if key != "PYTHONUNBUFFERED"}
    with subprocess.Popen(command, bufsize=0, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=buffered) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(heard(speech).tobytes()[:2000])
        process.stdin.flush()
        assert select.select([process.stdout], [], [], 60)[0], "nothing came while stdin was open"
        assert len(process.stdout.read(2)) == 2
        rest, _ = process.communicate(heard(speech).tobytes()[2000:])
    assert process.returncode == 0
    assert 2 + len(rest) == 2 * len(heard(speech))


def test_a_reader_who_leaves_gets_no_traceback(bundle: Path) -> None:
    command = [sys.executable, "-m", "voxport.cli", "convert", str(bundle), "-", "-"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(bytes(4000))
        process.stdin.flush()
        process.stdout.read(2)
        process.stdout.close()
        process.stdout = None
        _, said = process.communicate(bytes(40_000))
    assert said == b""


# ---- info, verify, bench


def test_info_says_what_a_bundle_is(bundle: Path) -> None:
    text = done(run("info", bundle))
    for words in (
        "llvc (llvc), 16000 Hz",
        "recipe fp32, target cpu",
        "torch 2.",
        "G_500000.pth",
        "convert:",
        ".data: 0",
    ):
        assert words in text
    assert "float32[" not in text


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


def test_verify_proves_a_bundle_for_any_thread_count(bundle: Path) -> None:
    rows = json.loads(done(run("verify", bundle, "--json", "--threads", "2")))
    assert [row["name"] for row in rows] == ["exact", "upstream", "offline"]
    assert all(row["ok"] and row["max_abs"] <= row["bound"] for row in rows)


def test_bench_json_has_every_key(bundle: Path) -> None:
    told = json.loads(done(run("bench", bundle, "--seconds", "0.2", "--json")))
    keys = {"rtf", "tokens_per_s", "first_audio_s", "peak_rss_mb", "load_s", "bundle_mb", "stages", "machine"}
    assert told.keys() >= keys
    machine = {"cpu", "threads", "bandwidth_gb_s", "fp32_gflop_s", "int8_gop_s", "onnxruntime"}
    assert told["machine"].keys() >= machine
    assert told["stages"].keys() == {"prenet", "convert"}
    for stage in told["stages"].values():
        assert stage.keys() >= {"rtf", "ms_p50", "ms_p99", "of_limit"}
        assert 0 < stage["rtf"] < told["rtf"]
        assert stage["ms_p50"] <= stage["ms_p99"]
    assert told["tokens_per_s"] is None
    assert told["machine"]["threads"] == 1
    assert all(told[key] > 0 for key in keys - {"tokens_per_s", "stages", "machine"})


def test_bench_prints_a_table_and_one_line_when_it_fails(bundle: Path) -> None:
    text = done(run("bench", bundle, "--seconds", "0.2", "--threads", "2"))
    assert "2 thread(s)" in text
    assert "of limit" in text
    assert "the workload process failed: ValueError" in refusal(run("bench", bundle, "--seconds", "nan"))


# ---- export


def test_export_packs_what_was_asked_for_and_shows_warnings(
    llvc_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = Path(shutil.copytree(llvc_checkpoint, tmp_path / "checkpoint"))
    shutil.copytree(root / "models/checkpoints/llvc", root / "models/checkpoints/llvc_nc")
    (tmp_path / "mine.toml").write_text('[[rule]]\nkind = "int8"')
    asked: list[tuple[Any, ...]] = []

    def pack(*arguments: Any) -> list[str]:
        asked.append(arguments)
        return ["stage convert, int8: slow"]

    monkeypatch.setattr(packing, "pack", pack)
    options = ("--recipe", tmp_path / "mine.toml", "--variant", "llvc_nc", "--target", "portable", "--gate")
    result = run("export", "llvc", root, "-o", tmp_path / "b", *options)
    assert done(result) == f"{tmp_path / 'b'}\n"
    assert result.stderr == "warning: stage convert, int8: slow\n"
    ((job, *others),) = asked
    assert (job.system, job.variant) == ("llvc", "llvc_nc")
    assert others == [tmp_path / "b", Recipe("mine", [Rule("int8")]), "portable", True]
