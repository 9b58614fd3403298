from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from voxport.draws import exponentials, exponentials_at, normals, uniforms

Draw = Callable[[int, str, int, Any], npt.NDArray[np.float32]]
KINDS: list[Draw] = [uniforms, normals, exponentials]


def test_draws_are_pinned() -> None:
    """A seed keeps its voice: these numbers must never change, on any machine and with any numpy."""
    assert uniforms(7, "tokens", 3, 4).tolist() == [
        float(np.float32(x)) for x in (0.69261026, 0.92329675, 0.3845786, 0.48254293)
    ]
    np.testing.assert_allclose(normals(7, "tokens", 3, 4), [0.75945073, -0.39725327, -1.3741587, 0.15133329], rtol=2e-7)
    np.testing.assert_allclose(
        exponentials(7, "tokens", 3, 4), [0.36728778, 0.07980454, 0.955607, 0.7286854], rtol=2e-7
    )


@pytest.mark.parametrize("draw", KINDS)
def test_an_address_is_independent_of_what_was_drawn_before(draw: Draw) -> None:
    forward = [draw(1, "tokens", step, (2, 3)) for step in range(5)]
    draw(1, "noise", 0, 1000)
    backward = [draw(1, "tokens", step, (2, 3)) for step in reversed(range(5))]
    assert np.array_equal(forward, backward[::-1])


@pytest.mark.parametrize("draw", KINDS)
def test_every_part_of_the_address_counts(draw: Draw) -> None:
    addresses = [(1, "a", 0), (2, "a", 0), (-1, "a", 0), (1, "b", 0), (1, "a", 1), (1, "a", 2**40), (2**40, "a", 0)]
    draws = np.concatenate([draw(*address, 1000) for address in addresses])
    assert len(np.unique(draws)) > 0.999 * len(draws)  # 24-bit numbers meet by chance, streams that overlap do not


@pytest.mark.parametrize("draw", KINDS)
@given(short=st.integers(0, 50), more=st.integers(0, 50), seed=st.integers(-(2**63), 2**63))
def test_a_longer_draw_starts_with_the_shorter(draw: Draw, short: int, more: int, seed: int) -> None:
    assert np.array_equal(draw(seed, "noise", 1, short + more)[:short], draw(seed, "noise", 1, short))


@pytest.mark.parametrize("draw", KINDS)
@pytest.mark.parametrize("shape", [0, 5, (), (3,), (2, 0), (2, 3, 5)])
def test_shape_and_type_are_as_asked(draw: Draw, shape: int | tuple[int, ...]) -> None:
    numbers = draw(0, "noise", 0, shape)
    assert numbers.shape == ((shape,) if isinstance(shape, int) else shape)
    assert numbers.dtype == np.float32


def ranks_off(draws: npt.NDArray[np.float32], cdf: Callable[[npt.NDArray[np.float64]], Any]) -> float:
    """Kolmogorov-Smirnov distance of the draws to their distribution, times sqrt(n): above 2 once in 1,500 seeds."""
    ordered = cdf(np.sort(draws).astype(np.float64))
    return float(np.abs(ordered - (np.arange(len(draws)) + 0.5) / len(draws)).max() * np.sqrt(len(draws)))


def test_uniforms_are_uniform_below_one() -> None:
    draws = uniforms(3, "u", 0, 200_000)
    assert 0 <= draws.min() < 1e-4
    assert 1 - 1e-4 < draws.max() < 1
    assert ranks_off(draws, lambda x: x) < 2


def test_exponentials_are_exponential_above_zero() -> None:
    draws = exponentials(3, "e", 0, 200_000)
    assert 0 < draws.min() < 1e-4
    assert ranks_off(draws, lambda x: 1 - np.exp(-x)) < 2


def test_some_exponentials_are_those_of_all() -> None:
    places = np.array([[700, 3], [0, 4]])
    np.testing.assert_array_equal(exponentials_at(3, "e", 5, places), exponentials(3, "e", 5, 1000)[places])


def test_normals_are_normal_and_independent() -> None:
    draws = normals(3, "n", 0, 200_000)
    grid = np.linspace(-6, 6, 12001)
    density = np.exp(-(grid**2) / 2) / np.sqrt(2 * np.pi)
    cdf = np.concatenate([[0], np.cumsum((density[1:] + density[:-1]) / 2 * np.diff(grid))])
    assert ranks_off(draws, lambda x: np.interp(x, grid, cdf)) < 2
    for lag in (1, 2, 3):  # the two numbers of a Box-Muller pair among them; squares would show a shared radius
        assert abs(np.corrcoef(draws[:-lag], draws[lag:])[0, 1]) < 0.01
        assert abs(np.corrcoef(draws[:-lag] ** 2, draws[lag:] ** 2)[0, 1]) < 0.01


def test_steps_are_counted_from_zero() -> None:
    with pytest.raises(ValueError, match="step must be 0 or more, not -1"):
        uniforms(0, "tokens", -1, 1)
