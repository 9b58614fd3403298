"""The noise of Fun-CosyVoice3 is what torch draws while upstream builds its modules (docs/systems/cosyvoice3.md 6)."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from safetensors.numpy import load_file
from tests.bundles import FIXTURES
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from voxport import bounds
from voxport.systems.cosyvoice3 import noise
from voxport.systems.cosyvoice3.noise import SineNoise, flow_noise
from voxport_exporters.systems.cosyvoice3.config import Config, F0Config, read_config
from voxport_exporters.systems.cosyvoice3.source import draws_before_source

ROOT = FIXTURES / "cosyvoice3"


@pytest.fixture(scope="module")
def config() -> Config:
    return read_config(ROOT)


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    return load_file(ROOT / "golden.safetensors")


def drawn_by_torch(config: Config, rows: int) -> np.ndarray:
    """Upstream's modules in upstream's order, then the first rows of the source's noise."""
    flow, f0 = config.flow, config.hift.f0_predictor
    torch.manual_seed(0)
    torch.randn([1, 80, 50 * 300])
    nn.Embedding(flow.vocab_size, flow.input_size)
    nn.Linear(flow.spk_embed_dim, flow.output_size)
    weight_norm(nn.Conv1d(f0.in_channels, f0.cond_channels, 4))
    for _ in range(4):
        weight_norm(nn.Conv1d(f0.cond_channels, f0.cond_channels, 3))
    nn.Linear(f0.cond_channels, f0.num_class)
    torch.rand(1, 9)
    return torch.rand(rows, 9).numpy()


@pytest.mark.parametrize(
    ("flow", "f0"),
    [({}, {}), ({"vocab_size": 7, "input_size": 3}, {"cond_channels": 5}), ({"vocab_size": 5, "input_size": 3}, {}),
     ({"spk_embed_dim": 9, "vocab_size": 33}, {"in_channels": 11, "cond_channels": 1})],
)  # fmt: skip
def test_the_sources_noise_begins_where_torchs_does(config: Config, flow: dict[str, int], f0: dict[str, int]) -> None:
    hift = replace(config.hift, f0_predictor=F0Config(**{"cond_channels": 24, **f0}))
    changed = replace(config, flow=replace(config.flow, **flow), hift=hift)
    drawn = SineNoise(draws_before_source(changed)).take(50, 9)
    np.testing.assert_array_equal(drawn, drawn_by_torch(changed, 50))
    assert 0 <= drawn.min() < 0.1 < 0.9 < drawn.max() < 1  # even over [0, 1): a port drew it Gaussian


def test_upstreams_first_phases_come_right_before(config: Config, golden: dict[str, np.ndarray]) -> None:
    phases = SineNoise(draws_before_source(config) - 9).take(1, 9)
    np.testing.assert_array_equal(phases[0, 1:], golden["hift.rand_ini"][0, 1:])  # the first one upstream sets to 0


def test_the_release_draws_what_the_facts_say(config: Config) -> None:
    flow = replace(config.flow, vocab_size=6561)
    release = replace(config, flow=flow, hift=replace(config.hift, f0_predictor=F0Config()))
    assert draws_before_source(release) == 5_052_970


def test_the_flows_noise_is_upstreams(golden: dict[str, np.ndarray]) -> None:
    expected = golden["flow.rand_noise"][0]
    got = flow_noise(*expected.shape)
    np.testing.assert_allclose(got, expected, rtol=0, atol=bounds.FLOW_NOISE.absolute)
    np.testing.assert_allclose(got[0, :4], (-1.12584, -1.15236, -0.250579, -0.433879), rtol=0, atol=1e-5)


@pytest.mark.parametrize("bands", [1, 3, 80])  # of odd numbers torch draws the last block once more
def test_the_flows_noise_of_any_bands_is_torchs(bands: int) -> None:
    torch.manual_seed(0)
    expected = torch.randn(1, bands, noise.FRAMES)[0].numpy()
    got = flow_noise(bands, noise.FRAMES)
    np.testing.assert_allclose(got, expected, rtol=0, atol=bounds.FLOW_NOISE.absolute)
    with pytest.raises(ValueError, match="split the text"):
        flow_noise(bands, noise.FRAMES + 1)


@given(sizes=st.lists(st.integers(0, 40), max_size=12), at=st.integers(0, 12))
@settings(deadline=None, derandomize=True)
def test_noise_is_the_same_however_it_is_taken(sizes: list[int], at: int) -> None:
    whole, stream, pieces = SineNoise(17).take(sum(sizes), 3), SineNoise(17), []
    for i, size in enumerate(sizes):
        if i == at:
            stream.copy().take(5, 3)  # what a copy takes, the original does not miss
            stream = stream.copy()
        pieces.append(stream.take(size, 3))
    np.testing.assert_array_equal(np.concatenate(pieces or [whole]), whole)


def test_no_buffer_is_kept_for_the_source(config: Config) -> None:
    """Upstream keeps 288 MB for it."""
    stream = SineNoise(draws_before_source(config))
    stream.take(24000, 9)
    state = stream._generator.state["state"]
    assert sum(np.asarray(value).nbytes for value in state.values()) < 10_000
    assert not list(Path(noise.__file__).parent.glob("*.npy"))
