"""`voxport convert` of unusual and bad audio, and to bad outputs: one line that names the file, and nothing is lost."""

import functools
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
from tests.bundles import Export
from tests.command import done, refusal, run


@pytest.fixture(scope="module")
def bundle(llvc_bundles: Export) -> Path:
    return llvc_bundles("fp32", "cpu")


def tone(count: int = 1000, level: float = 0.5) -> np.ndarray:
    return (level * np.sin(np.arange(count) / 10)).astype(np.float32)


def files(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


# ---- audio that is fine, if unusual


def converted(bundle: Path, path: Path) -> bytes:
    done(run("convert", bundle, path, path.with_suffix(".out.wav")))
    return path.with_suffix(".out.wav").read_bytes()


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_24", "PCM_32", "FLOAT", "DOUBLE"])
def test_every_sample_format_is_converted(bundle: Path, tmp_path: Path, subtype: str) -> None:
    sf.write(tmp_path / "in.wav", tone(), 16000, subtype=subtype)
    samples, _ = sf.read(tmp_path / "in.wav", dtype="float32")
    sf.write(tmp_path / "float.wav", samples, 16000, subtype="FLOAT")
    assert converted(bundle, tmp_path / "in.wav") == converted(bundle, tmp_path / "float.wav")
    assert sf.info(tmp_path / "in.out.wav").frames == 1000


def test_channels_are_averaged(bundle: Path, tmp_path: Path) -> None:
    silence = np.zeros(1000, np.float32)
    sf.write(tmp_path / "four.wav", np.stack([2 * tone(), silence, silence, 2 * tone()], axis=1), 16000, "FLOAT")
    sf.write(tmp_path / "mono.wav", tone(), 16000, "FLOAT")
    assert converted(bundle, tmp_path / "four.wav") == converted(bundle, tmp_path / "mono.wav")


def test_clipped_input_is_converted_as_it_is_and_the_output_saturates(bundle: Path, tmp_path: Path) -> None:
    for level in (1.0, 30.0):
        sf.write(tmp_path / "in.wav", tone(level=level), 16000, subtype="FLOAT")
        done(run("convert", bundle, tmp_path / "in.wav", tmp_path / f"{level}.wav"))
    assert not np.array_equal(sf.read(tmp_path / "1.0.wav")[0], sf.read(tmp_path / "30.0.wav")[0])
    assert np.abs(sf.read(tmp_path / "30.0.wav")[0]).max() <= 1


@pytest.mark.parametrize("count", [1, 15, 16, 17, 207, 208, 209])
@pytest.mark.parametrize("mode", ["exact", "upstream", "offline"])
def test_the_shortest_files_keep_their_length(bundle: Path, tmp_path: Path, count: int, mode: str) -> None:
    sf.write(tmp_path / "in.wav", tone(count), 16000)
    done(run("convert", bundle, tmp_path / "in.wav", tmp_path / "out.wav", "--mode", mode))
    assert sf.info(tmp_path / "out.wav").frames == count


# ---- audio that is not


def not_a_number(path: Path) -> None:
    samples = tone(200_000)
    samples[150_000] = np.nan  # late: some output has been made by then
    sf.write(path, samples, 16000, subtype="FLOAT")


NOT_AUDIO = "not an audio file (wav, flac, ogg, mp3 and others are)"
BAD_AUDIO: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda _: None, "cannot be read: No such file or directory"),
    "empty file": (lambda p: p.touch(), NOT_AUDIO),
    "no samples": (lambda p: sf.write(p, np.zeros(0), 16000), "holds no samples"),
    "text": (lambda p: p.write_text("hello"), NOT_AUDIO),
    "NaN": (not_a_number, "sample 150000 is nan, not a number between -1 and 1"),
}


@pytest.mark.parametrize("kind", BAD_AUDIO)
def test_bad_audio_is_one_line_and_no_output(bundle: Path, tmp_path: Path, kind: str) -> None:
    make, words = BAD_AUDIO[kind]
    make(tmp_path / "in.wav")
    (tmp_path / "out.wav").write_text("an older result")
    line = refusal(run("convert", bundle, tmp_path / "in.wav", tmp_path / "out.wav"))
    assert line == f"{tmp_path / 'in.wav'}: {words}"
    assert (tmp_path / "out.wav").read_text() == "an older result"
    assert {p.name for p in tmp_path.iterdir()} <= {"in.wav", "out.wav"}


@pytest.mark.parametrize(("raw", "words"), [(b"", "holds no samples"), (b"123", "stdin: ends within a sample")])
def test_bad_stdin_is_one_line(bundle: Path, tmp_path: Path, raw: bytes, words: str) -> None:
    assert words in refusal(run("convert", bundle, "-", tmp_path / "out.wav", stdin=raw))
    assert not list(tmp_path.iterdir())


def test_the_rest_of_a_folder_is_converted_and_the_bad_files_are_listed(bundle: Path, tmp_path: Path) -> None:
    source = tmp_path / "in"
    source.mkdir()
    for name in ("a.wav", "z.wav"):
        sf.write(source / name, tone(), 16000)
    (source / "b.wav").write_text("text")
    not_a_number(source / "c.wav")
    result = run("convert", bundle, source, tmp_path / "out")
    assert result.exit_code == 1
    first, second, last = result.stderr.splitlines()
    assert first == f"not converted: {source / 'b.wav'}: not an audio file (wav, flac, ogg, mp3 and others are)"
    assert second.startswith(f"not converted: {source / 'c.wav'}: sample 150000 is nan")
    assert last == f"Error: 2 file(s) could not be converted; the rest is in {tmp_path / 'out'}"
    assert files(tmp_path / "out").keys() == {"a.wav", "z.wav"}


def test_two_files_of_one_name_never_overwrite_each_other(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    sf.write(tmp_path / "in" / "a.flac", tone(), 16000)
    sf.write(tmp_path / "in" / "a.wav", tone(500), 16000)
    result = run("convert", bundle, tmp_path / "in", tmp_path / "out")
    assert result.exit_code == 1
    assert f"{tmp_path / 'in' / 'a.wav'}: would overwrite" in result.stderr
    assert sf.info(tmp_path / "out" / "a.wav").frames == 1000


# ---- outputs


def test_an_output_over_the_input_is_refused(bundle: Path, tmp_path: Path) -> None:
    sf.write(tmp_path / "in.wav", tone(), 16000)
    (tmp_path / "link.wav").symlink_to(tmp_path / "in.wav")
    (tmp_path / "hard.wav").hardlink_to(tmp_path / "in.wav")
    before = files(tmp_path)
    for out in ("in.wav", "link.wav", "hard.wav"):
        assert refusal(run("convert", bundle, tmp_path / "in.wav", tmp_path / out)).endswith("name another output")
    result = run("convert", bundle, tmp_path, tmp_path)
    assert result.exit_code == 1
    assert "is one of the inputs" in result.stderr
    assert files(tmp_path) == before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["in.wav", "out.xyz"], "out.xyz: unknown audio extension; use one of .wav, .flac, .ogg, .mp3"),
        (["in.wav", "no/out.wav"], "no/out.wav: cannot be written: No such file or directory"),
        (["in.wav", "folder"], "folder: unknown audio extension"),
        (["in.wav", "out.flac", "--float"], "flac cannot hold 32-bit float; write .wav"),
        (["in.wav", "-", "--float"], "--float: raw stdout is 16-bit; name a .wav file"),
        (["in.wav", "out.wav", "--rate", "8000"], "--rate 8000: only raw stdin (-) needs it"),
        (["folder", "out"], "folder: holds no audio files (.aif, "),
        (["full", "-"], "full: is a folder; name an output folder"),
        (["full", "in.wav"], "in.wav: is a file; full is a folder and needs an output folder"),
    ],
)
def test_bad_outputs_are_refused(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("folder").mkdir()
    Path("full").mkdir()
    sf.write("in.wav", tone(), 16000)
    shutil.copy("in.wav", "full")
    before = files(tmp_path)
    assert words in refusal(run("convert", bundle, *arguments))
    assert files(tmp_path) == before


def test_a_full_disk_removes_the_temporary_file(bundle: Path, tmp_path: Path) -> None:
    sf.write(tmp_path / "in.wav", tone(100_000), 16000)
    command: list[str | Path] = [
        sys.executable,
        "-m",
        "voxport.cli",
        "convert",
        bundle,
        tmp_path / "in.wav",
        tmp_path / "out.wav",
    ]
    ended = subprocess.run(
        command,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000)),
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 2
    assert ended.stderr == f"Error: {tmp_path / 'out.wav'}: could not be written to the end; is the disk full?\n"
    assert files(tmp_path).keys() == {"in.wav"}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_removes_the_temporary_file(bundle: Path, tmp_path: Path, number: signal.Signals) -> None:
    command = [sys.executable, "-m", "voxport.cli", "convert", str(bundle), "-", str(tmp_path / "out.wav")]
    # A background job ignores SIGINT, and would hand that on to its child.
    heed = functools.partial(signal.signal, number, signal.SIG_DFL)
    with subprocess.Popen(
        command, bufsize=0, stdin=subprocess.PIPE, stderr=subprocess.PIPE, preexec_fn=heed
    ) as process:
        assert process.stdin is not None
        process.stdin.write(bytes(4000))
        deadline = time.monotonic() + 60
        while not list(tmp_path.glob(".*.part")) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert list(tmp_path.glob(".*.part")), "nothing was written while stdin was open"
        process.send_signal(number)
        _, stderr = process.communicate(timeout=60)
    assert process.returncode not in (0, -number)
    assert b"Traceback" not in stderr
    assert list(tmp_path.iterdir()) == []
