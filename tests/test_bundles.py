"""The cache of exported bundles that the tests share."""

import os
import time
from pathlib import Path

from tests.bundles import ROOT, UNUSED_SECONDS, cached, digest, export_sources


def _make(folder: Path) -> None:
    folder.mkdir()
    (folder / "content").write_text(str(time.time_ns()))


def test_what_is_there_is_not_made_again_and_another_key_is_another_folder(tmp_path: Path) -> None:
    first = cached(tmp_path, "a", "1" * 64, _make)
    content = (first / "content").read_text()
    assert cached(tmp_path, "a", "1" * 64, _make) == first
    assert (first / "content").read_text() == content
    assert cached(tmp_path, "a", "2" * 64, _make) != first


def test_folders_of_one_name_go_once_they_were_unused_for_an_hour(tmp_path: Path) -> None:
    old, recent, other = (cached(tmp_path, name, key * 64, _make) for name, key in (("a", "1"), ("a", "2"), ("b", "1")))
    for folder in (old, other):
        os.utime(folder, (time.time() - UNUSED_SECONDS - 60,) * 2)
    new = cached(tmp_path, "a", "3" * 64, _make)
    assert [path.is_dir() for path in (old, recent, other, new)] == [False, True, True, True]


def test_a_key_changes_with_every_name_content_and_word(tmp_path: Path) -> None:
    one, two = tmp_path / "one.py", tmp_path / "two.py"
    one.write_text("x = 1\n")
    two.write_text("x = 1\n")
    before = digest([one], tmp_path, "fp32")
    keys = {
        before,
        digest([two], tmp_path, "fp32"),
        digest([one, two], tmp_path, "fp32"),
        digest([one], tmp_path, "int8"),
    }
    one.write_text("x = 2\n")
    assert len({*keys, digest([one], tmp_path, "fp32")}) == 5


def test_the_key_covers_what_an_export_runs_and_not_the_command_line() -> None:
    names = {path.relative_to(ROOT).as_posix() for path in export_sources(ROOT)}
    assert {
        "models.lock",
        "exporters/voxport_exporters/pack.py",
        "exporters/voxport_exporters/systems/llvc/configs/llvc.json",
        "runtime/voxport/systems/llvc/converter.py",
    } <= names
    assert not [name for name in names if "/cli" in name or "/bench/" in name or "__pycache__" in name]
