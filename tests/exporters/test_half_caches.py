"""Caches in fp16: a graph that keeps them so is the net that rounds what it keeps, for both targets."""

from pathlib import Path

import numpy as np
import pytest
from tests.exporters.cosyvoice3_flows import bundle, odd, parts

from voxport.bundle import Bundle
from voxport.graphs.session import Array
from voxport.recipe import Recipe, Rule
from voxport.systems.cosyvoice3.flow import Flow
from voxport.systems.cosyvoice3.flowstream import Reference
from voxport.systems.cosyvoice3.section import Section
from voxport_exporters.graphs import half_caches
from voxport_parity.reference import TorchBundle
from voxport_parity.rounding import rounding

NAME, STEPS = "wide heads", 4
HALF = Recipe("half", [Rule("fp16cache", stage="flow_stream", weights=f"*{kind}.*") for kind in ("keys", "values")])


def streamed(opened: Bundle) -> Array:
    """A reference and speech of several blocks."""
    section, rng = opened.section(Section), np.random.default_rng(0)
    mel = rng.standard_normal((32, 4)).astype(np.float32)
    voice = Reference(rng.integers(5, size=8), mel, rng.standard_normal(10).astype(np.float32))
    stream = Flow(opened, 1, section.flow, section.token_rate).stream(voice, STEPS, window=0.2)
    return np.concatenate((stream.feed(rng.integers(5, size=20)), stream.flush()))


@pytest.mark.parametrize("target", ["cpu", "portable"])
def test_caches_in_fp16_are_what_a_net_that_rounds_keeps(target: str, tmp_path: Path) -> None:
    half = bundle(*odd(NAME), target, tmp_path / "half", HALF)
    stage = half.session("flow_stream").stage
    caches = [t for t in stage.feeds if "keys" in t.name or "values" in t.name]
    assert len(caches) == 2 * 2 * 3
    assert {t.dtype for t in caches} == {"float16"}
    assert {t.dtype for t in stage.feeds if t.name in ("x", "mu", "tail.1")} == {"float32"}
    nets = list(parts(*odd(NAME)).values())
    got, exact = streamed(half), streamed(TorchBundle(half, nets))
    expected = streamed(TorchBundle(half, rounding(nets, HALF, half)))
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-4)
    # a value next to a step of fp16 may round to either side, so not every element must be nearer
    assert np.abs(got - expected).mean() < 0.2 * np.abs(got - exact).mean()
    assert np.abs(got - exact).max() < 1e-2


def test_only_what_is_moved_before_it_is_read_can_be_a_cache(tmp_path: Path) -> None:
    everything = Recipe("all", [Rule(half_caches.KIND)])
    stage = bundle(*odd(NAME), "cpu", tmp_path / "all", everything).session("flow_stream").stage
    assert {t.name for t in stage.feeds if t.dtype == "float32"} >= {"modulation"}
    assert {t.dtype for t in stage.feeds if t.name.startswith(("keys", "prompt.values"))} == {"float16"}
