"""`voxport verify` holds every output to the bound of the graphs it passed through; a bug is no broken bundle."""

import shutil
from pathlib import Path

import msgspec
import numpy as np
import pytest
from tests.bundles import Export
from tests.command import refusal, run
from tests.runtime.test_bundle import rehashed

from voxport import bounds
from voxport.bundle import read_manifest
from voxport.recipe import Recipe
from voxport.rehearsal import Output
from voxport.systems.llvc.converter import Converter
from voxport.verify import BrokenError, bound_of, verify

FP32, INT8 = bounds.VERIFY_FP32.absolute, bounds.VERIFY_INT8.absolute
SCORES = {f"scores.{place}" for place in range(7)}


@pytest.fixture
def quantized(vyvo_bundles: Export, tmp_path: Path) -> Path:
    """A bundle whose language model is quantized, and whose codec is not."""
    return Path(shutil.copytree(vyvo_bundles("int4", "cpu"), tmp_path / "bundle"))


def test_each_row_has_the_bound_of_the_stages_it_passed_through(quantized: Path) -> None:
    rows = verify(quantized)
    assert {row.name: row.bound for row in rows} == dict.fromkeys(SCORES, INT8) | {"audio": FP32}
    assert all(row.ok for row in rows)


def test_a_drift_of_a_float32_codec_beside_a_quantized_model_is_found(quantized: Path) -> None:
    file = quantized / "codec_decode.onnx.data"
    weights = np.frombuffer(file.read_bytes(), np.float32) * np.float32(1.00003)
    file.write_bytes(weights.tobytes())
    rehashed(quantized, file.name)
    rows = {row.name: row for row in verify(quantized)}
    assert FP32 < rows["audio"].max_abs < INT8
    assert {name for name, row in rows.items() if not row.ok} == {"audio"}
    assert refusal(run("verify", quantized), exit_code=1).endswith("than the one that exported it")


def test_a_stage_rounds_if_its_products_or_its_caches_do(vyvo_bundles: Export) -> None:
    manifest = read_manifest(vyvo_bundles("int8", "cpu"))
    array = np.zeros(1, np.float32)
    assert bound_of(Output(array, ("codec_decode",)), manifest) == bounds.VERIFY_FP32
    assert bound_of(Output(array, ("codec_decode", "head.0")), manifest) == bounds.VERIFY_INT8
    plain = {name: msgspec.structs.replace(stage, int8_ops=0) for name, stage in manifest.stages.items()}
    caches = msgspec.structs.replace(manifest, stages=plain)
    assert bound_of(Output(array, ("lm",)), caches) == bounds.VERIFY_INT8
    neither = msgspec.structs.replace(caches, recipe=Recipe("fp32"))
    assert bound_of(Output(array, ("lm",)), neither) == bounds.VERIFY_FP32


@pytest.mark.parametrize("bug", [ZeroDivisionError("bug"), TypeError("bug"), AssertionError("bug")])
def test_an_error_of_ours_is_not_called_a_broken_bundle(
    llvc_bundles: Export, monkeypatch: pytest.MonkeyPatch, bug: Exception
) -> None:
    def rehearse(_: Converter) -> None:
        raise bug

    monkeypatch.setattr(Converter, "rehearse", rehearse)
    with pytest.raises(type(bug), match="bug"):
        verify(llvc_bundles("fp32", "cpu"))


def test_the_recorded_outputs_are_hashed_too(llvc_copy: Path) -> None:
    file = llvc_copy / "golden" / "rehearsal.safetensors"
    raw = bytearray(file.read_bytes())
    raw[-1] ^= 1
    file.write_bytes(raw)
    with pytest.raises(BrokenError, match=r"rehearsal\.safetensors: corrupted"):
        verify(llvc_copy)
    file.unlink()
    with pytest.raises(BrokenError, match=r"rehearsal\.safetensors: missing"):
        verify(llvc_copy)
