"""A verified bundle is remembered as long as its files do not change; a changed byte is found."""

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.command import done, refusal, run

from voxport import checksums
from voxport.bundle import Bundle, Check
from voxport.manifest import FileRecord

GRAPH = "convert.onnx.data"


@pytest.fixture
def bundle(llvc_copy: Path) -> Path:
    """A bundle whose files were written a minute ago."""
    age(llvc_copy, 60)
    return llvc_copy


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "voxport" / "verified"


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that are read, in order."""
    names: list[str] = []
    record = checksums.record

    def recording(file: Path) -> FileRecord:
        names.append(file.name)
        return record(file)

    monkeypatch.setattr(checksums, "record", recording)
    return names


def age(folder: Path, seconds: float) -> None:
    then = time.time() - seconds
    for file in folder.rglob("*"):
        os.utime(file, (then, then))


def flip(file: Path) -> None:
    """Changes one byte in place: the same size and the same inode."""
    with file.open("r+b") as stream:
        stream.seek(5000)
        byte = stream.read(1)[0]
        stream.seek(5000)
        stream.write(bytes([byte ^ 1]))


def test_an_unchanged_bundle_is_read_once(bundle: Path, hashed: list[str]) -> None:
    files = len(Bundle(bundle).manifest.files)
    assert len(hashed) == files
    Bundle(bundle)
    assert len(hashed) == files
    Bundle(bundle, check=False)
    assert len(hashed) == files
    Bundle(bundle, check="always")
    assert len(hashed) == 2 * files


@pytest.mark.parametrize("check", [True, "always"])
def test_a_changed_byte_with_a_new_time_is_found(bundle: Path, hashed: list[str], check: Check) -> None:
    Bundle(bundle)
    del hashed[:]
    flip(bundle / GRAPH)
    with pytest.raises(ValueError, match=r"convert\.onnx\.data: corrupted"):
        Bundle(bundle, check=check)
    assert (hashed == [GRAPH]) is (check is True)  # and of the others nothing is read again
    assert "corrupted" in refusal(run("verify", bundle), exit_code=1)


def test_verify_reads_every_byte_whatever_is_remembered(bundle: Path) -> None:
    before = (bundle / GRAPH).stat()
    Bundle(bundle)
    flip(bundle / GRAPH)
    os.utime(bundle / GRAPH, ns=(before.st_atime_ns, before.st_mtime_ns))
    Bundle(bundle)  # nothing that is looked at has changed
    assert "convert.onnx.data: corrupted" in refusal(run("verify", bundle), exit_code=1)


REPLACE: dict[str, Callable[[Path], object]] = {
    "another file in its place": lambda file: Path(shutil.copy2(file, file.with_suffix(".new"))).replace(file),
    "touched": lambda file: os.utime(file),
}


@pytest.mark.parametrize("kind", REPLACE)
def test_a_file_that_may_have_changed_is_read_again(bundle: Path, hashed: list[str], kind: str) -> None:
    Bundle(bundle)
    del hashed[:]
    REPLACE[kind](bundle / GRAPH)
    Bundle(bundle)
    assert hashed == [GRAPH]


def test_a_copy_is_another_bundle(bundle: Path, hashed: list[str], tmp_path: Path) -> None:
    files = len(Bundle(bundle).manifest.files)
    Bundle(Path(shutil.copytree(bundle, tmp_path / "copy")))
    assert len(hashed) == 2 * files


def test_a_file_written_a_moment_ago_is_not_remembered(bundle: Path) -> None:
    os.utime(bundle / GRAPH)
    stamp = (bundle / GRAPH).stat().st_mtime_ns
    Bundle(bundle)
    flip(bundle / GRAPH)
    os.utime(bundle / GRAPH, ns=(stamp, stamp))  # as if within one tick of the clock that files are stamped with
    with pytest.raises(ValueError, match="corrupted"):
        Bundle(bundle)


def test_a_cache_that_cannot_be_used_only_costs_time(
    bundle: Path, hashed: list[str], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = len(Bundle(bundle).manifest.files)
    (memory,) = cache.iterdir()
    for content in (b"", b"[]", b'{"convert.onnx": 1}', b"\xff"):
        memory.write_bytes(content)
        del hashed[:]
        Bundle(bundle)
        assert len(hashed) == files
    for home in ("/dev/null", "/proc"):
        monkeypatch.setenv("XDG_CACHE_HOME", home)
        del hashed[:]
        Bundle(bundle)
        Bundle(bundle)
        assert len(hashed) == 2 * files
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(bundle.parent / "home"))
    Bundle(bundle)
    assert len(list((bundle.parent / "home/.cache/voxport/verified").iterdir())) == 1
    done(run("info", bundle))
