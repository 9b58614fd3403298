"""`voxport convert` when all is well: files, folders and pipes."""

import io
import os
import select
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
from tests.bundles import Export
from tests.command import done, run

from voxport.audio.files import Samples, pcm16
from voxport.audio.resample import Resampler, resample
from voxport.bundle import Bundle
from voxport.cli.convert import PIECE, Options, convert_file
from voxport.systems.llvc.converter import Converter


@pytest.fixture(scope="module")
def bundle(llvc_bundles: Export) -> Path:
    return llvc_bundles("fp32", "cpu")


@pytest.fixture(scope="module")
def speech(llvc_checkpoint: Path) -> Path:
    return llvc_checkpoint / "input_16k.wav"


def pcm(path: Path) -> np.ndarray:
    samples, rate = sf.read(path, dtype="int16")
    assert rate == 16000
    return np.asarray(samples)


def piped(bundle: Path, *options: str, stdin: bytes) -> np.ndarray:
    result = run("convert", bundle, "-", "-", *options, stdin=stdin)
    assert result.exit_code == 0, result.stderr
    return np.frombuffer(result.stdout_bytes, "<i2")


@pytest.mark.parametrize(("mode", "golden"), [("exact", "al1.out"), ("upstream", "s1.out"), ("offline", "ns.out")])
def test_a_file_is_converted_as_upstream_does_and_as_long(
    bundle: Path, speech: Path, tmp_path: Path, llvc_golden: dict[str, np.ndarray], mode: str, golden: str
) -> None:
    out = tmp_path / "out.wav"
    assert done(run("convert", bundle, speech, out, "--mode", mode)) == f"{out}\n"
    assert sf.info(out).subtype == "PCM_16"
    assert len(pcm(out)) == sf.info(speech).frames
    assert np.abs(pcm(out) - llvc_golden[golden].astype(np.float64) * 32768).max() <= 0.5 + 0.2


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
    expected = Converter(Bundle(bundle)).stream().convert(sf.read(speech, dtype="float32")[0])
    np.testing.assert_allclose(samples, expected, rtol=0, atol=1e-6)
    done(run("convert", bundle, speech, tmp_path / "pcm.wav"))
    assert np.abs(pcm(tmp_path / "pcm.wav") - pcm16(expected)).max() <= 1  # rounded, no dither, no gain


def test_other_rates_and_channels_go_in_and_the_bundles_rate_comes_out(
    bundle: Path, llvc_checkpoint: Path, tmp_path: Path, llvc_golden: dict[str, np.ndarray]
) -> None:
    stereo = llvc_checkpoint / "input_44k_stereo.wav"
    done(run("convert", bundle, stereo, tmp_path / "out.wav", "--mode", "offline"))
    got = pcm(tmp_path / "out.wav")
    assert len(got) == -(-sf.info(stereo).frames * 16000 // 44100)
    assert np.abs(got - llvc_golden["resample.ns.out"].astype(np.float64) * 32768).max() <= 0.5 + 0.2


def test_a_folder_keeps_its_shape(bundle: Path, speech: Path, tmp_path: Path) -> None:
    samples, _ = sf.read(speech)
    (tmp_path / "in" / "deep").mkdir(parents=True)
    sf.write(tmp_path / "in" / "a.wav", samples, 16000)
    sf.write(tmp_path / "in" / "deep" / "b.FLAC", samples, 16000, format="FLAC")
    (tmp_path / "in" / "notes.txt").write_text("not audio")
    assert done(run("convert", bundle, tmp_path / "in", tmp_path / "out")) == f"{tmp_path / 'out'}\n"
    names = {p.relative_to(tmp_path / "out").as_posix() for p in (tmp_path / "out").rglob("*") if p.is_file()}
    assert names == {"a.wav", "deep/b.wav"}
    assert np.array_equal(pcm(tmp_path / "out" / "a.wav"), pcm(tmp_path / "out" / "deep" / "b.wav"))


def test_a_pipe_gives_what_a_file_gives(bundle: Path, speech: Path, tmp_path: Path) -> None:
    done(run("convert", bundle, speech, tmp_path / "out.wav"))
    assert np.array_equal(piped(bundle, stdin=pcm(speech).tobytes()), pcm(tmp_path / "out.wav"))
    done(run("convert", bundle, "-", tmp_path / "raw.wav", stdin=pcm(speech).tobytes()))
    assert (tmp_path / "raw.wav").read_bytes() == (tmp_path / "out.wav").read_bytes()


def test_rate_is_that_of_raw_stdin(bundle: Path, speech: Path, tmp_path: Path) -> None:
    samples = pcm(speech)
    sf.write(tmp_path / "in.wav", samples, 8000, subtype="PCM_16")
    done(run("convert", bundle, tmp_path / "in.wav", tmp_path / "out.wav"))
    assert np.array_equal(piped(bundle, "--rate", "8000", stdin=samples.tobytes()), pcm(tmp_path / "out.wav"))
    assert len(pcm(tmp_path / "out.wav")) == 2 * len(samples)


def test_a_live_pipe_answers_before_it_ends(bundle: Path, speech: Path) -> None:
    command = [sys.executable, "-m", "voxport.cli", "convert", str(bundle), "-", "-"]
    buffered = {key: value for key, value in os.environ.items() if key != "PYTHONUNBUFFERED"}
    with subprocess.Popen(command, bufsize=0, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=buffered) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(pcm(speech).tobytes()[:2000])
        process.stdin.flush()
        assert select.select([process.stdout], [], [], 60)[0], "nothing came while stdin was open"
        assert len(process.stdout.read(2)) == 2
        rest, _ = process.communicate(pcm(speech).tobytes()[2000:])
    assert process.returncode == 0
    assert 2 + len(rest) == 2 * len(pcm(speech))


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
        _, stderr = process.communicate(bytes(40_000))
    assert stderr == b""


class Through:
    """A Converter that resamples and does nothing else; it remembers the size of every output."""

    sample_rate = 16000

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def stream(self, _mode: str, _chunk_factor: int, rate: int) -> "Through":
        self.rate, self.resampler = rate, Resampler(rate, self.sample_rate)
        return self

    def feed(self, samples: Samples) -> Samples:
        output = self.resampler.feed(samples)
        self.sizes.append(len(output))
        return output

    def flush(self) -> Samples:
        return self.resampler.flush()


@pytest.mark.parametrize("rate", [1, 7, 8000])
@pytest.mark.parametrize("piped", [False, True])
def test_a_file_of_any_rate_is_converted_in_bounded_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rate: int, piped: bool
) -> None:
    samples = np.random.default_rng(0).uniform(-0.5, 0.5, 200 * rate if rate < 10 else 70_000)
    sf.write(tmp_path / "in.wav", samples, rate, subtype="PCM_16")
    raw = (tmp_path / "in.wav").read_bytes()[-2 * len(samples) :]
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(raw)))
    converter = Through()
    source = "-" if piped else str(tmp_path / "in.wav")
    convert_file(converter, source, str(tmp_path / "out.wav"), Options(rate=rate, float32=True))  # type: ignore[arg-type]
    assert max(converter.sizes) <= PIECE
    expected = resample(sf.read(tmp_path / "in.wav", dtype="float32")[0], rate, 16000)
    assert len(expected) > PIECE if rate == 1 else len(expected) >= 70_000
    assert np.array_equal(sf.read(tmp_path / "out.wav", dtype="float32")[0], expected)
