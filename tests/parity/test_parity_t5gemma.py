"""`voxport parity t5gemma`: the whole chain on the fixture, and without goldens."""

import shutil
from pathlib import Path

import pytest
from tests.bundles import FIXTURES, Export

from voxport_parity.chain import chain
from voxport_parity.compare import NOT_COMPARED

CHECKPOINT = FIXTURES / "t5gemma"


def test_every_golden_that_is_no_input_is_compared_and_holds(t5gemma_bundles: Export) -> None:
    diffs = list(chain("t5gemma", CHECKPOINT, t5gemma_bundles("fp32", "cpu"), None))
    assert all(diff.ok for diff in diffs), next(str(diff) for diff in diffs if not diff.ok)
    assert {diff.link for diff in diffs} == {"torch", "live", "graph", "streamed"}
    codes = {diff.link for diff in diffs if diff.tensor == "t5.greedy.codes" and diff.max_abs == 0}
    assert codes == {"torch", "graph"}
    assert {diff.tensor for diff in diffs if diff.link == "live"} >= {"text.seconds.0", "text.normalized.0"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("recipe", "target"),
    [("mixed+codec-int8", "cpu"), ("mixed+codec-int8", "portable"), ("int4", "cpu"), ("int8", "portable")],
)
def test_quantized_bundles_are_proved(t5gemma_bundles: Export, recipe: str, target: str) -> None:
    diffs = list(chain("t5gemma", CHECKPOINT, t5gemma_bundles(recipe, target), None))
    assert all(diff.ok for diff in diffs), next(str(diff) for diff in diffs if not diff.ok)
    assert {"products", "quantized", "quantized to fp32"} <= {diff.link for diff in diffs}
    assert not [diff for diff in diffs if diff.link == NOT_COMPARED]


@pytest.mark.slow
def test_a_checkpoint_without_goldens_is_held_to_its_nets(tmp_path: Path) -> None:
    copy = Path(shutil.copytree(CHECKPOINT, tmp_path / "t5gemma", ignore=shutil.ignore_patterns("golden.*")))
    diffs = list(chain("t5gemma", copy, None, None))
    assert all(diff.ok for diff in diffs), next(str(diff) for diff in diffs if not diff.ok)
    assert {"decoder", "encoder", "codec_decode", "codec_quantize"} <= {diff.stage for diff in diffs}
