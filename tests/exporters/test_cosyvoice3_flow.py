"""Fun-CosyVoice3's flow says what upstream says: nets and graphs, for the release's kind of config and for others."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from tests.conftest import golden
from tests.exporters.cosyvoice3_flows import BLOCK, ODD, fixture, graphs, nets, odd

from voxport import bounds
from voxport.graphs.session import Array, Session
from voxport.graphs.stage import CAPACITY
from voxport.systems.cosyvoice3.schedule import schedule
from voxport_exporters.nets import ops
from voxport_exporters.systems.cosyvoice3 import dit
from voxport_exporters.systems.cosyvoice3 import lookahead as encoder
from voxport_parity.compare import compare
from voxport_parity.reference import taps_of

Sessions = dict[str, Session]
GOLDEN = golden("cosyvoice3")
TIME = float(GOLDEN["dit_short.t"][0])
TOKENS = ("frontend.prompt_token", "pipeline.tokens_after_silent_filter")
IDS = np.concatenate([GOLDEN[name].reshape(-1) for name in TOKENS]).astype(np.int64)


@pytest.fixture(scope="module", params=["torch", "cpu", "portable"])
def sessions(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Sessions:
    if request.param == "torch":
        return nets(*fixture(), times=(TIME,))
    return graphs(*fixture(), request.param, tmp_path_factory.mktemp("flow"), times=(TIME,))


def called(session: Session, **inputs: Array) -> dict[str, Array]:
    return session(session.start(), into=None, **inputs)[0]


def off(got: Array, name: str, bound: bounds.Bound) -> float:
    """The largest error over what `bound` allows."""
    return compare("", "", "", name, got, GOLDEN[name], bound).excess


def short(sessions: Sessions) -> dict[str, Array]:
    """The golden's call of the net, for one of its rows."""
    frames = {name: np.ascontiguousarray(GOLDEN[f"dit_short.{name}"][0].T) for name in ("x", "mu", "cond")}
    modulation = called(sessions["flow_modulation"], time=GOLDEN["dit_short.t"][:1])["modulation"]
    return frames | {"modulation": modulation, "spks": GOLDEN["dit_short.spks"][0]}


def in_blocks(session: Session, inputs: dict[str, Array], block: int, depth: int, fixed_blocks: int = 0) -> Array:
    """flow_stream over `inputs`, a block at a time; the first `fixed_blocks` are then handed on as the reference's."""
    frames = len(inputs["x"])
    caches = {t.name: t for t in session.stage.inputs if t.name.startswith("prompt.")}
    state = session.start({n: np.zeros(t.sized({"prompt": 0}), np.float32) for n, t in caches.items()}, capacity=frames)
    velocities, before = [], 0
    for start in range(0, frames, block):
        if start == fixed_blocks * block and fixed_blocks:
            fixed = {f"prompt.{n}": state[n][:, :, :start].copy() for n in state if not n.startswith("tail")}
            other = session.start(fixed, capacity=frames - start)
            for name in ("tail.1", "tail.2"):
                other[name][:] = state[name]
            state, before = other, start
        at = slice(start, start + block)
        fed = {name: array[at] if name in ("x", "mu", "cond") else array for name, array in inputs.items()}
        size = len(fed["x"])
        places = {
            "start": [start],
            "slots": range(start - before, start - before + size),
            "filled": [start - before + size],
        }
        outputs, state = session(state, into=None, **fed, **{n: np.array(v, np.int64) for n, v in places.items()})
        velocities.append(outputs["velocity"])
    return np.concatenate(velocities, axis=1)


def test_the_schedule_is_upstreams() -> None:
    grid = schedule(10, "cosine")
    assert off(grid.span, "flow.t_span", bounds.FLOW_TIME) <= 1
    assert off(grid.times, "flow.t_used", bounds.FLOW_TIME) <= 1


def test_tokens_and_speaker_are_upstreams(sessions: Sessions) -> None:
    encode, none = sessions["flow_encode"], np.full(3, -1)
    assert off(called(encode, ids=IDS, ahead=none)["mu"][None], "flow.prelook_full", bounds.FLOW_NET) <= 1
    assert off(called(encode, ids=IDS[:-3], ahead=IDS[-3:])["mu"][None], "flow.prelook_stream", bounds.FLOW_NET) <= 1
    spks = called(sessions["flow_speaker"], embedding=GOLDEN["frontend.spk_embedding"][0])["spks"]
    assert off(spks[None], "flow.spks", bounds.FLOW_NET) <= 1


def test_the_net_is_upstreams_at_once_and_in_blocks(sessions: Sessions) -> None:
    inputs = short(sessions)
    full = called(sessions["flow"], **inputs)["velocity"]
    assert off(full.transpose(0, 2, 1), "dit_short.out_full", bounds.FLOW_NET) <= 1
    config = fixture()[0].flow.dit
    for fixed_blocks in (0, 1):
        streamed = in_blocks(sessions["flow_stream"], inputs, config.static_chunk_size, config.depth, fixed_blocks)
        assert off(streamed.transpose(0, 2, 1), "dit_short.out_stream", bounds.FLOW_NET) <= 1


def test_every_layer_is_upstreams() -> None:
    sessions = nets(*fixture(), times=(TIME,))
    inputs = short(sessions)
    called(sessions["flow"], **inputs)
    taps = taps_of(sessions["flow_modulation"]) | {n: tap[:1] for n, tap in taps_of(sessions["flow"]).items()}
    names = [name for name in GOLDEN if name.startswith("dit_short.full_")]
    assert len(names) == 7
    for name in names:
        tap = taps[name.removeprefix("dit_short.full_")]
        assert off(np.broadcast_to(tap, GOLDEN[name].shape), name, bounds.FLOW_NET) <= 1


def test_a_time_that_is_not_in_the_table_is_told_by_the_nearest(tmp_path: Path) -> None:
    modulation = graphs(*fixture(), "cpu", tmp_path)["flow_modulation"]
    expected = nets(*fixture())["flow_modulation"]
    for steps in (4, 5, 6, 8, 10):
        for time in schedule(steps, "cosine").times:
            outputs = called(modulation, time=time[None])
            assert abs(outputs["nearest"] - time) < 1e-6
            np.testing.assert_allclose(
                outputs["modulation"], called(expected, time=time[None])["modulation"], atol=2e-5
            )
    assert abs(called(modulation, time=np.array([TIME], np.float32))["nearest"] - TIME) > 1e-3


def test_both_nets_share_their_weights(tmp_path: Path) -> None:
    graphs(*fixture(), "cpu", tmp_path)
    assert (tmp_path / "flow.onnx.data").is_file()
    assert not (tmp_path / "flow_stream.onnx.data").exists()
    model = onnx.load(tmp_path / "flow.onnx", load_external_data=False)
    assert not [i.name for i in model.graph.initializer if "attn_norm" in i.name]


# Mistakes of other ports (docs/systems/cosyvoice3.md 10), each as (what is changed, the golden that must tell it).
def every_head(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    heads = x.unflatten(-1, (2, -1)).unbind(-2)
    return torch.cat([ROTARY(head, cos, sin) for head in heads], dim=-1)


ROTARY, NORM = ops.rotary_pairs, dit.norm
MISTAKES: dict[str, tuple[object, str, object]] = {
    "positions for all heads": (ops, "rotary_pairs", every_head),
    "gelu of erf": (F, "gelu", lambda x, **_: x * 0.5 * (1 + torch.erf(x / 2**0.5))),
    "layer norm with another eps": (dit, "EPS", 1e-2),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_of_other_ports_is_found(mistake: str, monkeypatch: pytest.MonkeyPatch) -> None:
    owner, name, wrong = MISTAKES[mistake]
    sessions = nets(*fixture(), times=(TIME,))
    inputs = short(sessions)
    monkeypatch.setattr(owner, name, wrong)
    full = called(sessions["flow"], **inputs)["velocity"]
    assert off(full.transpose(0, 2, 1), "dit_short.out_full", bounds.FLOW_NET) > 1


def test_other_orders_slopes_and_grids_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scale and shift of the last norm in the order of the others; LeakyReLU 0.1; a linear grid; one row for both."""
    sessions = nets(*fixture(), times=(TIME,))
    inputs = short(sessions)
    swapped = inputs["modulation"].copy()
    swapped[-2:] = swapped[-1] + 1, swapped[-2] - 1
    full = called(sessions["flow"], **{**inputs, "modulation": swapped})["velocity"]
    assert off(full.transpose(0, 2, 1), "dit_short.out_full", bounds.FLOW_NET) > 1
    assert off(schedule(10, "linear").times, "flow.t_used", bounds.FLOW_TIME) > 1
    same = called(sessions["flow"], **inputs)["velocity"][[0, 0]]
    assert off(same.transpose(0, 2, 1), "dit_short.out_full", bounds.FLOW_NET) > 1
    monkeypatch.setattr(encoder, "SLOPE", 0.1)
    mu = called(sessions["flow_encode"], ids=IDS, ahead=np.full(3, -1))["mu"]
    assert off(mu[None], "flow.prelook_full", bounds.FLOW_NET) > 1


def masked_attention(block: int) -> Callable[..., torch.Tensor]:
    """Attention of which frame i sees the frames up to the end of its block, as upstream masks it."""

    def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, heads: int, name: str) -> torch.Tensor:
        q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))
        frame = torch.arange(q.shape[2])
        visible = frame[None] < (frame[:, None] // block + 1) * block
        return F.scaled_dot_product_attention(q, k, v, attn_mask=visible).transpose(1, 2).flatten(-2)

    return attend


@pytest.mark.parametrize("name", ODD)
@pytest.mark.parametrize("target", ["cpu", "portable"])
def test_other_configs_run_at_once_and_in_blocks(
    name: str, target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, weights = odd(name)
    dit_config, found, frames = config.flow.dit, graphs(*odd(name), target, tmp_path), 3 * BLOCK + 2
    expected, rng = nets(config, weights), np.random.default_rng(0)
    sizes = {"x": dit_config.mel_dim, "mu": dit_config.mu, "cond": dit_config.mel_dim}
    inputs: dict[str, Array] = {n: rng.standard_normal((frames, width), np.float32) for n, width in sizes.items()}
    if dit_config.speaker:
        inputs["spks"] = rng.standard_normal(dit_config.speaker, np.float32)
    time = schedule(5, "linear").times[2:3]
    inputs["modulation"] = called(found["flow_modulation"], time=time)["modulation"]
    modulation = called(expected["flow_modulation"], time=time)["modulation"]
    np.testing.assert_allclose(inputs["modulation"], modulation, atol=2e-5)

    full = called(expected["flow"], **inputs)["velocity"]
    np.testing.assert_allclose(called(found["flow"], **inputs)["velocity"], full, rtol=0, atol=2e-5)
    ids, ahead = rng.integers(config.flow.vocab_size, size=9), rng.integers(-1, 1, size=config.flow.pre_lookahead_len)
    mu = [called(stages["flow_encode"], ids=ids, ahead=ahead)["mu"] for stages in (expected, found)]
    np.testing.assert_allclose(mu[1], mu[0], rtol=0, atol=2e-5)

    with monkeypatch.context() as patch:
        patch.setattr(ops, "attention", masked_attention(BLOCK))
        in_mask = called(expected["flow"], **inputs)["velocity"]
    assert np.abs(in_mask - full).max() > 1e-3
    for fixed_blocks in (0, 2):
        streamed = in_blocks(found["flow_stream"], inputs, BLOCK, dit_config.depth, fixed_blocks)
        np.testing.assert_allclose(streamed, in_mask, rtol=0, atol=2e-5)


def test_what_unwritten_slots_hold_has_no_effect(sessions: Sessions) -> None:
    inputs, session = short(sessions), sessions["flow_stream"]
    caches = {t.name: t for t in session.stage.inputs if t.name.startswith("prompt.")}
    fixed = {n: np.zeros(t.sized({"prompt": 0}), np.float32) for n, t in caches.items()}
    state = session.start(fixed, capacity=90)
    for tensor in session.stage.state:
        if CAPACITY in tensor.shape:
            state[tensor.name][:] = np.nan
    fed = {name: array[:50] if name in ("x", "mu", "cond") else array for name, array in inputs.items()}
    places = {"start": np.array([0]), "slots": np.arange(50), "filled": np.array([50])}
    velocity = session(state, into=None, **fed, **places)[0]["velocity"]
    expected = GOLDEN["dit_short.out_stream"][..., :50]
    assert compare("", "", "", "", velocity.transpose(0, 2, 1), expected, bounds.FLOW_NET).ok
