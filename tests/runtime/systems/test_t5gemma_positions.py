"""Positions and turns of T5Gemma-TTS against upstream's, and against their definition."""

import numpy as np
import pytest
import torch
from tests.conftest import golden
from tests.t5gemma_nets import section

from voxport.systems.t5gemma.positions import Positions, Turns
from voxport.systems.t5gemma.section import RopeSection


def test_positions_are_upstreams() -> None:
    upstream, positions = golden("t5gemma"), Positions(section())
    expected = int(upstream["t5.target_total"][0]) + 1
    text, prompt, steps = (upstream[f"t5.{name}.position_ids"][0] for name in ("enc", "prefill", "step"))
    np.testing.assert_array_equal(positions.text(len(text)), text)
    np.testing.assert_array_equal(positions.prompt(len(prompt), expected), prompt)
    tokens = [positions.token(len(prompt) + step, expected) for step in range(len(steps))]
    np.testing.assert_array_equal(np.array(tokens), steps)


def test_a_speech_longer_than_expected_stays_at_its_end() -> None:
    positions = Positions(section(progress_scale=1000.0))
    assert [positions.token(index, 5) for index in (2, 3, 4, 5, 900)] == [500, 750, 1000, 1000, 1000]
    assert positions.prompt(5, 5).tolist() == [0, 250, 500, 750, 1000]
    assert positions.text(1).tolist() == positions.prompt(1, 1).tolist() == [0]


def test_without_progress_tokens_are_counted() -> None:
    positions = Positions(section(progress=False))
    assert positions.text(4).tolist() == positions.prompt(4, 3).tolist() == [0, 1, 2, 3]
    assert positions.token(4, 3) == 4


@pytest.mark.parametrize("size", [2, 16, 80, 256])
@pytest.mark.parametrize("theta", [10000.0, 500000.0])
def test_turns_are_within_a_rounding_of_the_angle(size: int, theta: float) -> None:
    places = np.arange(0, 2000, 7.3, dtype=np.float32)
    turns = Turns(RopeSection(theta, size)).at(places)
    angles = places.astype(np.float64)[:, None] * theta ** (-np.arange(0, size, 2) / size)
    for name, function in (("cos", np.cos), ("sin", np.sin)):
        assert turns[name].dtype == np.float32
        assert turns[name].shape == (len(places), size // 2)
        np.testing.assert_allclose(turns[name], function(angles), rtol=0, atol=4e-4)  # 2,000 rad in float32


def test_turns_are_those_of_torch() -> None:
    """Upstream's table for the head size of the fixture, in its own arithmetic."""
    places = np.arange(0, 2000, 7.3, dtype=np.float32)
    speeds = 1.0 / (10000.0 ** (torch.arange(0, 16, 2).float() / 16))
    angles = torch.from_numpy(places)[:, None] * speeds
    turns = Turns(RopeSection(10000.0, 16)).at(places)
    np.testing.assert_allclose(turns["cos"], angles.cos(), rtol=0, atol=2e-7)
    np.testing.assert_allclose(turns["sin"], angles.sin(), rtol=0, atol=2e-7)
