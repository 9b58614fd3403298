"""Export hears what quantization does to the flow's mel, writes it down, and with the gate keeps a bad one fp32."""

from pathlib import Path

import numpy as np
import pytest
from tests.exporters.cosyvoice3_flows import ODD, bundle, fixture, odd

from voxport.bundle import Bundle
from voxport.recipe import Recipe
from voxport.systems.cosyvoice3.section import Section
from voxport_exporters.checkpoints.later import deferring
from voxport_exporters.graphs import agreement
from voxport_exporters.pack import Job, pack
from voxport_exporters.systems.cosyvoice3 import flow
from voxport_exporters.systems.cosyvoice3.trial import trial

STAGES = ("flow", "flow_stream")
MIXED = Recipe("mixed", flow.FLOW_RULES["mixed"])


def mel(source: Bundle, stage: str) -> np.ndarray:
    config, _ = fixture()
    return trial(config, flow.section(config.flow))(source.session(stage), source.path)


@pytest.mark.parametrize("target", ["cpu", pytest.param("portable", marks=pytest.mark.slow)])
def test_the_manifest_says_how_near_the_mel_stays(target: str, tmp_path: Path) -> None:
    mixed = bundle(*fixture(), target, tmp_path / "mixed", MIXED)
    exact = bundle(*fixture(), target, tmp_path / "fp32")
    for stage in STAGES:
        ratio = mixed.manifest.stages[stage].output_db
        assert ratio == pytest.approx(agreement.decibels(mel(exact, stage), mel(mixed, stage)), abs=0.1)
        assert ratio is not None
        assert agreement.LEAST_DB < ratio < 60
        assert exact.manifest.stages[stage].output_db is None
        assert mixed.manifest.stages[stage].equal_ids is None
    assert mel(exact, "flow").shape == mel(exact, "flow_stream").shape


@pytest.mark.parametrize("gate", [pytest.param(False, marks=pytest.mark.slow), True])
def test_a_mel_that_is_too_far_off_is_warned_about_or_kept_fp32(
    gate: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agreement, "LEAST_DB", 1000.0)
    source = bundle(*fixture(), "cpu", tmp_path / "source")
    config, weights = fixture()
    with deferring():
        stages = flow.parts(weights, config)
        section = source.section(Section)
        job = Job("cosyvoice3", "test", config.sample_rate, stages, (), tmp_path, section, rehearse=False)
        warnings = pack(job, tmp_path / "b", MIXED, "cpu", gate)
    sentences = [text for text in warnings if "its outputs keep" in text]
    assert [text.split(",")[0] for text in sentences] == [f"stage {stage}" for stage in STAGES]
    assert all(text.endswith("; kept fp32") is gate for text in sentences)
    manifest = Bundle(tmp_path / "b").manifest
    for stage in STAGES:
        assert (manifest.stages[stage].int8_ops == 0) is gate
        assert manifest.recipe.kind(stage, "blocks.0.q.weight") == ("fp32" if gate else "int8r")
    assert {path.suffix for path in (tmp_path / "b").iterdir()} == {".onnx", ".data", ".json"}  # and no folder


@pytest.mark.slow
@pytest.mark.parametrize("name", ODD)
def test_flows_far_from_the_release_are_tried_too(name: str, tmp_path: Path) -> None:
    mixed = bundle(*odd(name), "portable", tmp_path / "b", MIXED)
    assert all(mixed.manifest.stages[stage].output_db is not None for stage in STAGES)
