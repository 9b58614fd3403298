"""Audio files, read and written."""

import contextlib
import subprocess
import sys
import wave
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from voxport.audio import files
from voxport.audio.files import Samples, Writer, pcm16, read, write

LLVC = Path(__file__).parents[2] / "fixtures" / "llvc"


def noise(count: int, seed: int = 0) -> Samples:
    return np.random.default_rng(seed).uniform(-0.9, 0.9, count).astype(np.float32)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# ---- reading


def test_stereo_is_averaged(llvc_golden: dict[str, Samples]) -> None:
    samples, rate = read(LLVC / "input_44k_stereo.wav")
    assert rate == files.sample_rate(LLVC / "input_44k_stereo.wav") == 44100
    assert np.array_equal(samples, llvc_golden["resample.mono"])
    assert np.array_equal(read(LLVC / "input_16k.wav")[0], llvc_golden["audio.input_16k"])


@pytest.mark.parametrize(
    ("name", "subtype", "bound"),
    [
        ("a.wav", "PCM_U8", 2**-7),
        ("a.wav", "PCM_16", 2**-15),
        ("a.wav", "PCM_24", 2**-23),
        ("a.wav", "PCM_32", 2**-24),
        ("a.wav", "FLOAT", 0),
        ("a.wav", "DOUBLE", 0),
        ("a.flac", "PCM_24", 2**-23),
        ("a.aiff", "PCM_16", 2**-15),
    ],
)
def test_every_sample_format_is_read(tmp_path: Path, name: str, subtype: str, bound: float) -> None:
    channels = noise(3 * 4000).reshape(-1, 3)
    sf.write(tmp_path / name, channels, 22050, subtype=subtype)
    samples, rate = read(tmp_path / name)
    assert (samples.shape, rate) == ((4000,), 22050)
    assert samples.dtype == np.float32
    assert np.abs(samples - channels.mean(axis=1)).max() <= bound + 1e-7


@pytest.mark.parametrize("name", ["a.ogg", "a.mp3", "a.flac", "a.wav"])
def test_blocks_are_the_file(tmp_path: Path, name: str) -> None:
    sf.write(tmp_path / name, noise(50_000), 16000)
    whole, _ = sf.read(tmp_path / name, dtype="float32")
    pieces = list(files.blocks(tmp_path / name, 1000))
    assert [len(piece) for piece in pieces] == [1000] * 50
    np.testing.assert_allclose(np.concatenate(pieces), whole, rtol=0, atol=1e-6)
    np.testing.assert_allclose(read(tmp_path / name)[0], whole, rtol=0, atol=1e-6)


def test_many_channels_are_read_in_shorter_blocks(tmp_path: Path) -> None:
    channels = noise(500 * 10_000).reshape(-1, 500)
    sf.write(tmp_path / "a.wav", channels, 16000, subtype="FLOAT")
    pieces = list(files.blocks(tmp_path / "a.wav"))
    assert max(len(piece) for piece in pieces) == files.VALUES // 500
    np.testing.assert_allclose(np.concatenate(pieces), channels.mean(axis=1), rtol=0, atol=1e-6)


def test_floats_beyond_full_scale_are_kept(tmp_path: Path) -> None:
    sf.write(tmp_path / "a.wav", np.array([1.5, -3.0], np.float32), 16000, subtype="FLOAT")
    assert read(tmp_path / "a.wav")[0].tolist() == [1.5, -3.0]


def bad_input(folder: Path, kind: str) -> Path:
    path = folder / f"{kind}.wav"
    if kind == "text":
        path.write_text("not audio at all")
    elif kind == "nothing":
        path.touch()
    elif kind == "silent":
        sf.write(path, np.zeros(0), 16000)
    elif kind == "folder":
        path.mkdir()
    elif kind == "raw":
        path = path.with_suffix(".raw")
        path.write_bytes(bytes(100))
    elif kind == "cut":
        path = path.with_suffix(".flac")
        sf.write(path, noise(100_000), 16000)
        path.write_bytes(path.read_bytes()[:100_000])
    elif kind in ("nan", "inf"):
        samples = np.zeros((70_000, 2), np.float32)
        samples[69_990, 1] = float(kind)
        sf.write(path, samples, 16000, subtype="FLOAT")
    return path


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("text", "not an audio file"),
        ("nothing", "not an audio file"),
        ("raw", "not an audio file"),
        ("silent", "holds no samples"),
        ("missing", "cannot be read: No such file"),
        ("folder", "cannot be read: Is a directory"),
        ("cut", "damaged somewhere after sample"),
        ("nan", "sample 69990 is nan"),
        ("inf", "sample 69990 is inf"),
    ],
)
def test_bad_input_is_one_line_that_names_the_file(tmp_path: Path, kind: str, words: str) -> None:
    path = bad_input(tmp_path, kind)
    with pytest.raises(ValueError, match=words) as caught:
        read(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_a_block_holds_at_least_one_sample() -> None:
    with pytest.raises(ValueError, match="at least 1 sample"):
        next(files.blocks(LLVC / "input_16k.wav", 0))


# ---- writing


@pytest.mark.parametrize("name", ["a.wav", "a.flac"])
def test_16_bit_round_trip_is_exact(tmp_path: Path, name: str) -> None:
    every = np.arange(-32768, 32768).astype(np.int16)
    sf.write(tmp_path / "in.wav", every, 16000, subtype="PCM_16")
    write(tmp_path / name, *read(tmp_path / "in.wav"))
    assert sf.info(tmp_path / name).subtype == "PCM_16"
    assert np.array_equal(sf.read(tmp_path / name, dtype="int16")[0], every)


def test_samples_are_rounded_and_saturated() -> None:
    steps = np.array([0.4, 0.6, -0.6, 1.5, 32766.4, 32767.5, 40000, -32768.6, -1e9], np.float32)
    assert pcm16(steps / np.float32(32768)).tolist() == [0, 1, -1, 2, 32766, 32767, 32767, -32768, -32768]


def test_wav_is_readable_by_the_standard_library(tmp_path: Path) -> None:
    write(tmp_path / "a.wav", [0.0, 0.5, -1.0], 24000)
    with wave.open(str(tmp_path / "a.wav")) as file:
        assert file.getparams()[:4] == (1, 2, 24000, 3)
        assert file.readframes(3) == b"\x00\x00\x00\x40\x00\x80"


def test_float_files_keep_every_bit(tmp_path: Path) -> None:
    samples = np.array([0.1, -1.7, 1e-9], np.float32)
    write(tmp_path / "a.wav", samples, 16000, float32=True)
    assert sf.info(tmp_path / "a.wav").subtype == "FLOAT"
    assert np.array_equal(read(tmp_path / "a.wav")[0], samples)


@pytest.mark.parametrize("name", ["a.ogg", "a.mp3"])
def test_lossy_formats_are_written_at_any_length(tmp_path: Path, name: str) -> None:
    tone = 0.5 * np.sin(np.arange(1_000_000) / 20)  # in one write libsndfile's Vorbis encoder would crash on more
    write(tmp_path / name, tone, 16000)
    assert np.abs(read(tmp_path / name)[0] - tone).max() < 0.05


def test_pieces_make_the_same_file(tmp_path: Path) -> None:
    samples = noise(5000)
    write(tmp_path / "a.wav", samples, 16000)
    with Writer(tmp_path / "b.wav", 16000) as file:
        for piece in np.split(samples, [0, 1, 1000]):
            file.write(piece)
        assert file.written == 5000
        assert not (tmp_path / "b.wav").exists()
    assert (tmp_path / "a.wav").read_bytes() == (tmp_path / "b.wav").read_bytes()
    assert names(tmp_path) == ["a.wav", "b.wav"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_an_exception_leaves_nothing_behind(tmp_path: Path, error: type[BaseException]) -> None:
    def interrupted() -> None:
        with Writer(tmp_path / "a.wav", 16000) as file:
            file.write(noise(100))
            assert len(names(tmp_path)) == 1
            raise error

    with pytest.raises(error):
        interrupted()
    assert names(tmp_path) == []


def test_an_exception_leaves_the_old_file_alone(tmp_path: Path) -> None:
    write(tmp_path / "a.wav", noise(10), 16000)
    old = (tmp_path / "a.wav").read_bytes()
    with Writer(tmp_path / "b.wav", 8000) as file:
        file.write(noise(100))
        with pytest.raises(ValueError, match=r"b\.wav: sample 103 is nan"):
            file.write([0, 0, 0, np.nan])
    (tmp_path / "b.wav").unlink()
    with pytest.raises(ValueError, match=r"a\.wav: sample 3 is nan"):
        write(tmp_path / "a.wav", [0, 0, 0, np.nan], 8000)
    assert names(tmp_path) == ["a.wav"]
    assert (tmp_path / "a.wav").read_bytes() == old
    write(tmp_path / "a.wav", noise(20), 8000)
    assert sf.info(tmp_path / "a.wav").frames == 20


def test_a_link_is_written_through(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "a.wav").symlink_to(tmp_path / "deep" / "b.wav")
    write(tmp_path / "a.wav", noise(10), 16000)
    assert (tmp_path / "a.wav").is_symlink()
    assert sf.info(tmp_path / "deep" / "b.wav").frames == 10


# Room for the header and half the samples; for all samples but the encoder's last bytes.
@pytest.mark.parametrize(("name", "room"), [("a.wav", 40_000), ("a.flac", 40_000), ("a.flac", -50), ("a.ogg", -50)])
def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path: Path, name: str, room: int) -> None:
    code = "import sys, resource; import numpy as np; from voxport.audio.files import write\n"
    code += "x = np.random.default_rng(0).uniform(-0.5, 0.5, 40_000)\n"
    code += "resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), int(sys.argv[2])))\n"
    code += "try: write(sys.argv[1], x, 16000)\nexcept OSError as error: print(error)\n"
    if room < 0:
        write(tmp_path / name, np.random.default_rng(0).uniform(-0.5, 0.5, 40_000), 16000)
        room += (tmp_path / name).stat().st_size
        (tmp_path / name).unlink()
    path = str(tmp_path / name)
    done = subprocess.run([sys.executable, "-c", code, path, str(room)], capture_output=True, text=True, check=True)
    assert done.stdout == f"{path}: could not be written to the end; is the disk full?\n"
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    ("name", "rate", "float32", "words"),
    [
        ("a.xyz", 16000, False, r"unknown audio extension; use one of \.wav, \.flac"),
        ("a", 16000, False, "unknown audio extension"),
        ("a.flac", 16000, True, r"flac cannot hold 32-bit float; write \.wav"),
        ("a.wav", 0, False, "the sample rate must be 1 to 192000 Hz, not 0"),
        ("a.mp3", 12345, False, "mp3 cannot hold a rate of 12345 Hz"),
        ("no/a.wav", 16000, False, "cannot be written: No such file or directory"),
        ("folder.wav", 16000, False, "cannot be written: it is a folder"),
    ],
)
def test_bad_output_is_one_line_that_names_the_file(
    tmp_path: Path, name: str, rate: int, float32: bool, words: str
) -> None:
    (tmp_path / "folder.wav").mkdir()
    with pytest.raises(ValueError, match=words) as caught:
        write(tmp_path / name, noise(10), rate, float32)
    assert str(caught.value).startswith(f"{tmp_path / name}: ")
    assert "\n" not in str(caught.value)
    assert names(tmp_path) == ["folder.wav"]


def test_an_empty_file_can_be_written(tmp_path: Path) -> None:
    with Writer(tmp_path / "a.wav", 16000):
        pass
    with contextlib.closing(wave.open(str(tmp_path / "a.wav"))) as file:
        assert file.getnframes() == 0
