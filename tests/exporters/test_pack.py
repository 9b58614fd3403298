"""An output is replaced whole or not at all: errors, full disks, kills and foreign folders lose nothing."""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import onnx
import pytest
import torch
from tests.bundles import Export
from tests.command import done, run
from tests.runtime.test_bundle import MANIFEST
from torch import Tensor, nn

from voxport import atomic
from voxport.bundle import Bundle, writing
from voxport.checksums import record
from voxport.graphs.stage import Stage, TensorSpec
from voxport.manifest import Cost
from voxport.recipe import Recipe, Rule
from voxport.systems.llvc.section import Section
from voxport_exporters.graphs import measure
from voxport_exporters.graphs.part import Part
from voxport_exporters.graphs.store import Store
from voxport_exporters.pack import Job, pack, source_names


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


class Linear(nn.Module):
    """A weight worth quantizing."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(size, size, generator=torch.Generator().manual_seed(0)), False)

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight


class Net(nn.Module):
    def __init__(self, size: int = 64) -> None:
        super().__init__()
        self.layer = Linear(size)

    def forward(self, x: Tensor) -> tuple[Tensor]:
        return (self.layer(x),)


def job(tmp_path: Path) -> Job:
    source = tmp_path / "weights.bin"
    source.write_bytes(b"1")
    stage = Stage("convert", (TensorSpec("x", "float32", ("rows", 64)),), (TensorSpec("y", "float32", ("rows", 64)),))
    parts = [Part(stage, Net(), {"rows": 1})]
    return Job("llvc", "tiny", 16000, parts, (source,), tmp_path, section=Section(hop=1), rehearse=False)


def test_a_bundle_records_every_file_it_holds(tmp_path: Path) -> None:
    pack(job(tmp_path), tmp_path / "b", Recipe("fp32"), "cpu")
    manifest = Bundle(tmp_path / "b").manifest
    assert manifest.files.keys() == contents(tmp_path / "b").keys() - {"manifest.json"}
    assert manifest.source.files == {"weights.bin": record(tmp_path / "weights.bin")}
    assert manifest.tools["torch"] == torch.__version__
    assert manifest.stages["convert"].axes == {"rows": 1}
    graph = onnx.load(tmp_path / "b" / "convert.onnx", load_external_data=False)
    assert {p.key: p.value for p in graph.metadata_props}["voxport.recipe"] == "fp32"


class Attention(Net):
    """Rows that look at each other behind a layer that takes each for itself."""

    def forward(self, x: Tensor) -> tuple[Tensor]:
        y = self.layer(x)[None]
        return ((y @ y.mT @ y)[0],)


@pytest.mark.parametrize("recipe", [Recipe("fp32"), Recipe("int8", [Rule("int8")])], ids=["fp32", "int8"])
def test_a_record_tells_how_the_costs_grow(recipe: Recipe, tmp_path: Path) -> None:
    whole = job(tmp_path)
    pack(replace(whole, parts=[replace(next(iter(whole.parts)), net=Attention())]), tmp_path / "b", recipe, "cpu")
    stage = Bundle(tmp_path / "b").manifest.stages["convert"]
    for rows, cost in enumerate((Cost(stage.flops, stage.int8_ops), *stage.growth["rows"]), 1):
        layer, attention = 2 * 64 * 64 * rows, 4 * 64 * rows**2
        assert cost == (Cost(attention, layer) if recipe.rule else Cost(attention + layer, 0))


def test_source_files_keep_names_of_their_own(tmp_path: Path) -> None:
    root, codec, other = tmp_path / "lm", tmp_path / "a" / "snac", tmp_path / "b" / "snac"
    inside, outside, third = (folder / "config.json" for folder in (root, codec, other))
    nested = root / "codec" / "config.json"
    names = source_names((inside, nested, outside, third, inside), root)
    assert names == {
        "config.json": inside,
        "codec/config.json": nested,
        "snac/config.json": outside,
        "b/snac/config.json": third,
    }


def test_a_section_is_checked_at_export_as_strictly_as_at_open(tmp_path: Path) -> None:
    wrong = replace(job(tmp_path), section=Section(hop=0))
    with pytest.raises(ValueError, match=r"section: Expected `int` >= 1 - at `\$\.hop`"):
        pack(wrong, tmp_path / "b", Recipe("fp32"), "cpu")
    assert not (tmp_path / "b").exists()


def test_the_gate_keeps_a_stage_fp32_that_fails_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "LEAST_SPEED_UP", 1000.0)
    recipe = Recipe("int8", [Rule("int8")])
    for gate in (True, False):
        (warning,) = pack(job(tmp_path), tmp_path / "b", recipe, "cpu", gate)
        assert "stage convert, int8: " in warning
        assert "of fp32" in warning
        assert warning.endswith("; kept fp32") is gate
        manifest = Bundle(tmp_path / "b").manifest
        exceptions = [Rule("fp32", stage="convert", weights="layer.weight")] if gate else []
        assert manifest.recipe == Recipe("int8", [Rule("int8"), *exceptions])  # as applied
        stage = manifest.stages["convert"]
        assert (stage.int8_ops == 0) is gate
        assert (stage.speed_up is None) is gate


def test_a_rule_that_matches_no_weight_is_named(tmp_path: Path) -> None:
    rules = [Rule("fp32", weights="layer.*"), Rule("int8", stage="convrt"), Rule("fp16row", weights="layer.*")]
    assert pack(job(tmp_path), tmp_path / "b", Recipe("mine", rules), "cpu") == [
        "recipe mine: rule int8, stage 'convrt', weights '*' matches no weight",
        "recipe mine: rule fp16row, stage '*', weights 'layer.*' matches no weight",  # a product is no table
    ]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), ValueError("x"), KeyboardInterrupt()])
def test_an_export_that_fails_leaves_the_old_bundle_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    pack(job(tmp_path), tmp_path / "b", Recipe("fp32"), "cpu")
    before = contents(tmp_path)

    def broken(*arguments: object) -> None:
        raise error

    monkeypatch.setattr(Store, "finish", broken)  # after weights were written
    with pytest.raises(type(error)):
        pack(job(tmp_path), tmp_path / "b", Recipe("int8", [Rule("int8")]), "cpu")
    assert contents(tmp_path) == before


@contextmanager
def room_for(size: int) -> Iterator[None]:
    """Within: no file of this process can grow beyond `size` bytes, which is what a full disk looks like."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_is_one_line_and_leaves_the_old_bundle(tmp_path: Path) -> None:
    out = tmp_path / "b"
    pack(job(tmp_path), out, Recipe("fp32"), "cpu")
    before = contents(tmp_path)
    with pytest.raises(OSError, match="is the disk full") as caught, room_for(len(before["b/convert.onnx.data"]) // 2):
        pack(job(tmp_path), out, Recipe("fp32"), "cpu")
    assert str(caught.value) == f"{out}: could not be written to the end (File too large); is the disk full?"
    assert contents(tmp_path) == before


def old_bundle(tmp_path: Path) -> Path:
    out = tmp_path / "b"
    out.mkdir()
    (out / "manifest.json").write_text(json.dumps(MANIFEST | {"files": {"a.bin": {}}}))
    (out / "a.bin").write_text("old")
    return out


def test_the_old_bundle_stands_until_the_new_one_is_whole(tmp_path: Path) -> None:
    out = old_bundle(tmp_path)
    with writing(out) as (temporary, _):
        (temporary / "a.bin").write_text("new")
        assert (out / "a.bin").read_text() == "old"
    assert (out / "a.bin").read_text() == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["b"]


def test_a_swap_that_fails_half_way_is_undone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = old_bundle(tmp_path)
    rename = Path.rename

    def failing(self: Path, target: Path) -> Path:
        if self.name.startswith(".b.new.") and target == out.resolve():
            raise OSError("no")
        return rename(self, target)

    monkeypatch.setattr(atomic, "_exchange", lambda *_: False)
    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(OSError, match="no"), writing(out) as (temporary, _):
        (temporary / "a.bin").write_text("new")
    assert (out / "a.bin").read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["b"]


def test_what_a_swap_that_was_cut_off_left_behind_is_protected_too(tmp_path: Path) -> None:
    out = old_bundle(tmp_path)
    (out / "voice.wav").write_text("mine")
    out.rename(tmp_path / ".b.old.00000000-1-1-00000000")
    with pytest.raises(FileExistsError, match=r"voice\.wav: is not part of the bundle"), writing(out):
        raise AssertionError("nothing may be computed for it")
    assert (out / "voice.wav").read_text() == "mine"


def test_a_link_to_a_bundle_stays_a_link(tmp_path: Path) -> None:
    out = old_bundle(tmp_path)
    (tmp_path / "link").symlink_to(out)
    with writing(tmp_path / "link") as (temporary, _):
        (temporary / "a.bin").write_text("new")
    assert (tmp_path / "link").is_symlink()
    assert (out / "a.bin").read_text() == "new"


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"notes.txt": "mine"}, "b: exists and is not a bundle"),
        ({"manifest.json": "{}"}, "b: exists and is not a bundle"),
        ({"manifest.json": '{"name": "a web app", "files": []}'}, "b: exists and is not a bundle"),
        ({"manifest.json": json.dumps(MANIFEST), "voice.wav": "mine"}, "voice.wav: is not part of the bundle and"),
    ],
)
def test_nothing_but_a_bundle_is_replaced(tmp_path: Path, files: dict[str, str], words: str) -> None:
    out = tmp_path / "b"
    out.mkdir()
    for name, text in files.items():
        (out / name).write_text(text)
    with pytest.raises(FileExistsError, match=words), writing(out):
        pass
    assert contents(tmp_path) == {f"b/{name}": text.encode() for name, text in files.items()}
    refused = run("export", "llvc", tmp_path, "-o", out)
    assert refused.exit_code == 2


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OSError, match="file/b: cannot be written: "), writing(tmp_path / "file" / "b"):
        pass


def test_an_output_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "b").write_text("mine")
    with pytest.raises(FileExistsError, match="exists and is not a bundle"), writing(tmp_path / "b"):
        pass
    assert (tmp_path / "b").read_text() == "mine"


# ---- interrupted


def test_a_terminated_conversion_leaves_nothing(llvc_bundles: Export, tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "voxport.cli",
        "convert",
        str(llvc_bundles("fp32", "cpu")),
        "-",
        str(tmp_path / "out.wav"),
    ]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        while not list(tmp_path.iterdir()):
            assert process.poll() is None
            time.sleep(0.01)
        process.terminate()
        _, stderr = process.communicate()
    assert (process.returncode, stderr) == (128 + signal.SIGTERM, b"")
    assert not list(tmp_path.iterdir())


def test_a_killed_export_leaves_the_old_bundle_intact(llvc_copy: Path, llvc_checkpoint: Path) -> None:
    before = {p: p.read_bytes() for p in llvc_copy.rglob("*") if p.is_file()}
    command = [sys.executable, "-m", "voxport.cli", "export", "llvc", str(llvc_checkpoint), "-o", str(llvc_copy)]
    with subprocess.Popen(command, env=os.environ | {"OMP_NUM_THREADS": "1"}) as process:
        while not list(llvc_copy.parent.glob(f".{llvc_copy.name}.*/*.onnx")):
            assert process.poll() is None, "the export ended before it could be killed"
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    assert {p: p.read_bytes() for p in llvc_copy.rglob("*") if p.is_file()} == before
    done(run("verify", llvc_copy))
