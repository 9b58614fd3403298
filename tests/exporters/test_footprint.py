"""An export tells what it will take before it writes, and stops where the disk is too small."""

import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from tests.bundles import FIXTURES, Bundles
from tests.exporters.test_pack import contents, job

from voxport.recipe import Recipe, Rule
from voxport_exporters.checkpoints.later import deferring
from voxport_exporters.graphs.footprint import footprint
from voxport_exporters.pack import pack
from voxport_exporters.systems import SYSTEMS


def test_a_disk_too_small_is_told_before_anything_is_traced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, out = replace(job(tmp_path), files={"note.txt": b"1" * 5000}), tmp_path / "b"
    pack(whole, out, Recipe("fp32"), "cpu")
    before = contents(tmp_path)
    weights = 4 * 64 * 64
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=weights + 5000))
    pack(whole, out, Recipe("fp32"), "cpu")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=weights + 4999))
    monkeypatch.setattr("voxport_exporters.pack.trace", None)
    with pytest.raises(OSError, match=r"b: takes about 21 kB, and its disk has 21 kB free; make room"):
        pack(whole, out, Recipe("fp32"), "cpu")
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    ("rule", "size"),
    [
        (Rule("fp32"), 4 * 4096),
        (Rule("int8"), 4096),
        (Rule("int4", block=32), 2048 + 128 * 4.5),
        (Rule("int8b", block=64), 4096 + 64 * 5),
        (Rule("fp16row"), 2 * 4096),
    ],
)
def test_a_footprint_is_what_the_weights_take(tmp_path: Path, rule: Rule, size: int) -> None:
    assert footprint(job(tmp_path).parts, Recipe("mine", [rule])) == size


@pytest.mark.parametrize(
    ("system", "recipe", "least"),
    # In a tiny bundle pages that hold little and the graphs themselves are half of all.
    [
        ("llvc", "int8", 0.4),
        ("vyvo", "int4", 0.4),
        pytest.param("qwen3tts-base", "mixed", 0.7, marks=pytest.mark.slow),
        pytest.param("cosyvoice3", "mixed", 0.7, marks=pytest.mark.slow),
        pytest.param("t5gemma", "mixed", 0.4, marks=pytest.mark.slow),
    ],
)
def test_a_footprint_is_no_more_than_a_bundle_takes(bundles: Bundles, system: str, recipe: str, least: float) -> None:
    exporter = SYSTEMS[system.partition("-")[0]]()
    size = sum(p.stat().st_size for p in bundles.of(system)(recipe, "cpu").glob("*.onnx*"))
    with deferring():
        expected = footprint(exporter.job(FIXTURES / system).parts, exporter.recipes[recipe])
    assert least * size < expected <= size
