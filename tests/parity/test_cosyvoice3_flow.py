"""Parity of Fun-CosyVoice3's flow: every golden of it, from nets and graphs, whichever tensors a golden holds."""

import pytest
from tests.exporters.cosyvoice3_flows import FIXTURE, bundle, fixture, parts
from tests.parity.goldens import groups, only, without

from voxport import bounds
from voxport.bundle import Bundle
from voxport.recipe import Recipe
from voxport_exporters.systems.cosyvoice3.flow import FLOW_RULES
from voxport_parity.compare import compare, nearness
from voxport_parity.reference import TorchBundle
from voxport_parity.rounding import rounding
from voxport_parity.systems.cosyvoice3 import flow
from voxport_parity.trace import Golden, Trace


@pytest.fixture(scope="module")
def golden() -> Golden:
    found = Golden.of(FIXTURE)
    assert found is not None
    return found


@pytest.fixture(scope="module", params=["torch", "cpu", "portable"])
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    target = "cpu" if request.param == "torch" else request.param
    graphs = bundle(*fixture(), target, tmp_path_factory.mktemp("flow") / "bundle")
    return TorchBundle(graphs, parts(*fixture()).values()) if request.param == "torch" else graphs


def wrong(trace: Trace, golden: Golden) -> list[str]:
    shared = [name for name in trace if name in golden.tensors]
    diffs = [compare("", "", "", n, trace[n], golden.tensors[n], flow.bound(n)) for n in shared]
    return [str(diff) for diff in diffs if not diff.ok]


def test_every_golden_comes_out(exported: Bundle, golden: Golden) -> None:
    trace = flow.trace(exported, golden)
    assert wrong(trace, golden) == []
    names = {name for name in golden.tensors if flow.owns(name) and flow.input_reason(name) is None}
    layers = {name for name in names if name.startswith((flow.FULL, flow.BLOCKS))}
    missing = set() if isinstance(exported, TorchBundle) else layers - {f"{flow.FULL}time_embed"}
    assert names - trace.keys() == missing
    assert len(names) == 23


def test_the_streamed_mels_come_out_of_random_pieces(exported: Bundle, golden: Golden) -> None:
    trace = flow.streamed(exported, golden)
    assert sorted(trace) == [f"pipeline.stream_mel{i}" for i in range(3)]
    assert wrong(trace, golden) == []


def test_a_golden_may_hold_any_part(golden: Golden, tmp_path_factory: pytest.TempPathFactory) -> None:
    exported = bundle(*fixture(), "cpu", tmp_path_factory.mktemp("flow") / "bundle")
    for group in groups(golden):
        assert wrong(flow.trace(exported, without(golden, group)), golden) == []
        assert wrong(flow.trace(exported, only(golden, group)), golden) == []
        flow.streamed(exported, without(golden, group))


def test_an_int8_flow_is_the_net_that_rounds_as_it_does(
    golden: Golden, tmp_path_factory: pytest.TempPathFactory
) -> None:
    recipe, nets = Recipe("mixed", FLOW_RULES["mixed"]), list(parts(*fixture()).values())
    exported = bundle(*fixture(), "cpu", tmp_path_factory.mktemp("flow") / "bundle", recipe)
    rounding_nets = TorchBundle(exported, rounding(nets, recipe, exported))
    runs = (exported, rounding_nets, TorchBundle(exported, nets))
    trace, reference, plain = (flow.trace(opened, golden) for opened in runs)
    for name in ("flow.mel", "flow.est_out_step1", "dit_short.out_stream", "pipeline.stream_mel1"):
        assert compare("", "", "", name, trace[name], reference[name], flow.rounded(name)).ok
        assert nearness(trace[name], reference[name], plain[name]) < 0.5 * bounds.NEARER
        assert compare("", "", "", name, trace[name], plain[name], flow.bound(name)).excess > 1
