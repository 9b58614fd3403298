"""A quantized graph must be nearer to the net that rounds as it does than to the fp32 net."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from tests.bundles import Export
from tests.parity.goldens import wrong

from voxport.bundle import Bundle
from voxport.recipe import Recipe
from voxport_exporters.graphs.part import Part
from voxport_parity import chain as chains
from voxport_parity.compare import Diff, nearness


def diffs(checkpoint: Path, bundle: Path) -> list[Diff]:
    return list(chains.chain("llvc", checkpoint, bundle, None))


def test_a_reference_that_does_not_round_is_found_out(
    llvc_bundles: Export, llvc_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its samples are within the bound of a quantized graph, which allows for flips: only the distances tell."""
    bundle = llvc_bundles("int8", "cpu")
    assert wrong(diffs(llvc_checkpoint, bundle)) == []

    def plain(parts: Iterable[Part], _recipe: Recipe, _bundle: Bundle) -> list[Part]:
        return list(parts)

    monkeypatch.setattr(chains, "rounding", plain)
    quantized = [diff for diff in diffs(llvc_checkpoint, bundle) if diff.link == "quantized"]
    broken = {diff.tensor: diff for diff in quantized if not diff.ok}
    assert {"ns.out", "s1.out", "al1.out"} <= broken.keys()
    within = [diff for diff in broken.values() if diff.excess <= 1]
    assert within
    assert all(diff.nearer == pytest.approx(1, abs=1e-3) for diff in within)
    assert str(within[0]).endswith(
        " times as far from the net that rounds as it does as from the fp32 net, wanted 0.9 or less"
    )


def test_nearness_compares_distances() -> None:
    got, near, far = np.zeros(4), np.full(4, 0.1), np.full(4, 0.4)
    assert nearness(got, near, far) == pytest.approx(0.25)
    assert nearness(got, got, far) == 0
    assert nearness(got, near, got) == np.inf
    assert nearness(got, got, got) == 0


def test_scores_that_cannot_be_add_no_distance_where_they_meet() -> None:
    got, near, far = (np.array([-np.inf, x]) for x in (0.0, 1.0, 4.0))
    assert nearness(got, near, far) == pytest.approx(0.25)
    assert nearness(got, np.array([0.0, 1.0]), far) == np.inf
