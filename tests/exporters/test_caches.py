"""Caches in 8 bits: what the graph keeps is what the net computes, to half a step of each channel."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from voxport.graphs.ort import OrtSession, OrtState
from voxport.graphs.stage import Stage, TensorSpec
from voxport.recipe import Recipe, Rule
from voxport_exporters.graphs import caches
from voxport_exporters.graphs.part import Part
from voxport_exporters.pack import save
from voxport_exporters.systems.qwen3tts import job as qwen3tts
from voxport_exporters.systems.vyvo import job as vyvo

FIXTURES = Path(__file__).parents[1] / "fixtures"
CACHES = Recipe("caches", [Rule(caches.KIND, weights=f"{kind}.*") for kind in ("keys", "values")])
TOKENS = 40


def language_model() -> Part:
    return next(iter(vyvo.job(FIXTURES / "vyvo").parts))


def run(lm: OrtSession, tokens: np.ndarray) -> tuple[np.ndarray, OrtState]:
    """In a call of half the tokens, one of five, then one by one."""
    state = lm.start(batch=1, capacity=TOKENS + 3)
    half = TOKENS // 2
    for start, stop in [(0, half), (half, half + 5), *((i, i + 1) for i in range(half + 5, TOKENS))]:
        out, state = lm(state, tokens=tokens[:, start:stop], past=np.array([start]))
    return out["hidden"], state


def test_a_cache_holds_keys_and_values_to_half_a_step(tmp_path: Path) -> None:
    part = language_model()
    for name in ("fp32", "caches"):
        (tmp_path / name).mkdir()
        save(part, tmp_path / name, Recipe("fp32") if name == "fp32" else CACHES, "cpu")
    tokens = np.random.default_rng(3).integers(0, 5000, (1, TOKENS))  # not those of the sample
    exact, expected = run(OrtSession(tmp_path / "fp32/lm.onnx"), tokens)
    hidden, got = run(OrtSession(tmp_path / "caches/lm.onnx"), tokens)

    names = [name for name in got if name.startswith(("keys.", "values."))]
    scales = caches.scales(part, names)
    first = names[:2]  # nothing before them has read a rounded cache
    assert first[0].startswith("keys.")
    assert first[1].startswith("values.")
    for name in names:
        assert got[name].dtype == np.int8
        assert not got[name][:, :, TOKENS:].any()
        dequantized = got[name][:, :, :TOKENS] * scales[name].reshape(got[name].shape[1], 1, -1)
        error = np.abs(dequantized - expected[name][:, :, :TOKENS]) / scales[name].reshape(got[name].shape[1], 1, -1)
        assert error.max() < (0.501 if name in first else 2)
        assert np.abs(got[name]).max() > 127 / caches.MARGIN / 2  # the scale is not far too wide
    assert 1e-6 < np.abs(hidden - exact).max() < 0.02 * np.abs(exact).max()


def test_keys_are_measured_without_their_rotation() -> None:
    """Rotating every key of the sample by another angle leaves the scales as they are."""

    class Turned(torch.nn.Module):
        def forward(self, tokens: torch.Tensor, *_: torch.Tensor) -> object:
            x = torch.randn(1, 2, tokens.shape[1], 8, generator=torch.Generator().manual_seed(0))
            low, high = x.chunk(2, dim=-1)
            angle = torch.linspace(0, self.reach, tokens.shape[1])[:, None]
            turned = (low * angle.cos() - high * angle.sin(), high * angle.cos() + low * angle.sin())
            return tokens, torch.cat(turned, dim=-1), x

        reach = 0.0

    cache = ("batch", 2, "capacity", 8)
    stage = Stage(
        "lm",
        inputs=(
            TensorSpec("tokens", "int64", ("batch", "time")),
            TensorSpec("past", "int64", ("batch",)),
        ),
        outputs=(TensorSpec("hidden", "int64", ("batch", "time")),),
        state=(TensorSpec("keys.0", "float32", cache), TensorSpec("values.0", "float32", cache)),
    )
    none = torch.zeros(1, dtype=torch.int64)
    net = Turned()
    part = Part(stage, net, {}, sample=lambda: (torch.zeros(1, 30, dtype=torch.int64), none))
    still = caches.scales(part, ["keys.0", "values.0"])
    net.reach = 20.0
    turned = caches.scales(part, ["keys.0", "values.0"])
    np.testing.assert_allclose(turned["keys.0"], still["keys.0"], rtol=1e-5)
    assert (still["keys.0"] >= still["values.0"] * 0.9999).all()


def test_the_portable_target_keeps_float32(tmp_path: Path) -> None:
    save(language_model(), tmp_path, CACHES, "portable")
    kinds = {v.type.tensor_type.elem_type for v in onnx.load(tmp_path / "lm.onnx").graph.input if "keys" in v.name}
    assert kinds == {onnx.TensorProto.FLOAT}


def test_a_stage_without_a_sample_is_named(tmp_path: Path) -> None:
    parts = qwen3tts.job(FIXTURES / "qwen3tts-customvoice").parts
    talker = next(p for p in parts if p.stage.name == "talker")
    with pytest.raises(
        ValueError, match=r"^stage talker: it has no sample to measure its caches by; leave int8cache out$"
    ):
        save(talker, tmp_path, CACHES, "cpu")
