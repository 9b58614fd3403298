"""A folder is replaced at once: a kill leaves the old one or the new one, and the next export removes the litter."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from voxport import atomic
from voxport.atomic import recover, replacement
from voxport.bundle import read_manifest

CHILD = """
import os, shutil, signal, sys
from pathlib import Path
from voxport import atomic

path, exchange, point = Path(sys.argv[1]), sys.argv[2] == "exchange", sys.argv[3]
calls = {}

def killed_around(name, function):
    def call(*arguments, **options):
        calls[name] = calls.get(name, 0) + 1
        if point == f"before {name} {calls[name]}":
            os.kill(os.getpid(), signal.SIGKILL)
        result = function(*arguments, **options)
        if point == f"after {name} {calls[name]}":
            os.kill(os.getpid(), signal.SIGKILL)
        return result
    return call

swap = atomic._exchange if exchange else lambda first, second: False
atomic._exchange = killed_around("exchange", swap)
Path.rename = killed_around("rename", Path.rename)
shutil.rmtree = killed_around("rmtree", shutil.rmtree)
with atomic.replacement(path) as folder:
    (folder / "name").write_text("new")
    if point == "writing":
        os.kill(os.getpid(), signal.SIGKILL)
    (folder / "data").write_text("new")
print("done")
"""
POINTS = {
    "exchange": ["writing", "before exchange 1", "after exchange 1", "before rmtree 1", "after rmtree 1"],
    "renames": [
        "writing",
        *(f"{when} rename {n}" for n in (1, 2) for when in ("before", "after")),
        "before rmtree 1",
        "after rmtree 1",
    ],
}
KILLS = [(way, point) for way, points in POINTS.items() for point in points]


def folder_of(path: Path, word: str) -> Path:
    path.mkdir(parents=True)
    for name in ("name", "data"):
        (path / name).write_text(word)
    return path


def contents(path: Path) -> list[str]:
    return [(path / name).read_text() for name in ("name", "data")]


def replace(path: Path, word: str) -> None:
    with replacement(path) as folder:
        for name in ("name", "data"):
            (folder / name).write_text(word)


def child(path: Path, way: str, point: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", CHILD, str(path), way, point]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(("way", "point"), KILLS)
def test_a_kill_at_any_point_leaves_the_old_folder_or_the_new_one(tmp_path: Path, way: str, point: str) -> None:
    path = folder_of(tmp_path / "b", "old")
    other = folder_of(tmp_path / ".b.new", "mine")
    assert child(path, way, point).returncode == -signal.SIGKILL
    recover(path)
    assert contents(path) in (["old"] * 2, ["new"] * 2)
    replace(tmp_path / "another", "other")  # an export of anything beside it
    assert sorted(p.name for p in tmp_path.iterdir()) == [".b.new", "another", "b"]
    assert contents(path) in (["old"] * 2, ["new"] * 2)
    assert contents(other) == ["mine"] * 2


@pytest.mark.parametrize("way", POINTS)
def test_without_a_kill_the_new_folder_stands_alone(tmp_path: Path, way: str) -> None:
    path = folder_of(tmp_path / "b", "old")
    assert child(path, way, "none").stdout == "done\n"
    assert contents(path) == ["new"] * 2
    assert [p.name for p in tmp_path.iterdir()] == ["b"]


def test_a_swap_that_was_cut_off_is_repaired_by_the_next_export_or_at_open(tmp_path: Path) -> None:
    for repair in (lambda path: replace(path.parent / "c", "c"), lambda path: replace(path, "newer"), opened):
        path = folder_of(tmp_path / "b", "old")
        assert child(path, "renames", "after rename 1").returncode == -signal.SIGKILL
        assert not path.exists()
        repair(path)
        assert contents(path)[0] in ("old", "newer")
        shutil.rmtree(path)


def opened(path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no manifest"):
        read_manifest(path)


def test_a_living_process_keeps_its_temporary_folder(tmp_path: Path) -> None:
    with replacement(tmp_path / "b") as folder:
        replace(tmp_path / "c", "c")
        replace(tmp_path / "b", "another export")
        assert folder.is_dir()
        for name in ("name", "data"):
            (folder / name).write_text("new")
    assert contents(tmp_path / "b") == ["new"] * 2
    assert sorted(p.name for p in tmp_path.iterdir()) == ["b", "c"]


def test_temporary_folders_of_other_machines_are_swept_when_they_are_old(tmp_path: Path) -> None:
    names = [f".b.new.{host}-{os.getpid()}-1-00000000" for host in ("00000000", "11111111")]
    for name in names:
        folder_of(tmp_path / name, "new")
    long_ago = time.time() - 2 * atomic.FOREIGN_SECONDS
    for file in (tmp_path / names[0], *(tmp_path / names[0]).iterdir()):
        os.utime(file, (long_ago, long_ago))
    replace(tmp_path / "c", "c")
    assert sorted(p.name for p in tmp_path.iterdir()) == [names[1], "c"]


@pytest.mark.parametrize("way", POINTS)
def test_exports_at_once_to_one_place_do_not_destroy_each_other(tmp_path: Path, way: str) -> None:
    path = folder_of(tmp_path / "b", "old")
    loop = CHILD.replace("with atomic.replacement", "for _ in range(60):\n  with atomic.replacement")
    command = [sys.executable, "-c", loop, str(path), way, "none"]
    rivals = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    ends = [(rival.communicate(), rival.returncode) for rival in rivals]
    assert ends == [(("done\n", ""), 0)] * 3
    assert contents(path) == ["new"] * 2
    assert [p.name for p in tmp_path.iterdir()] == ["b"]
