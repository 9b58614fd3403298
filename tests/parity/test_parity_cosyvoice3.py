"""`voxport parity cosyvoice3`: the whole chain, on what the fixture holds and on a checkpoint nobody recorded."""

import shutil
from pathlib import Path

import pytest
from tests.bundles import Export

from voxport_parity.chain import chain

pytestmark = pytest.mark.slow
RECIPES = ["mixed", "int8+codec-int8", "hqq4", "mixed+codec-frontend-int8"]


@pytest.mark.parametrize("target", ["cpu", "portable"])
def test_every_golden_holds_in_every_link(target: str, cosyvoice3_checkpoint: Path) -> None:
    diffs = list(chain("cosyvoice3", cosyvoice3_checkpoint, None, None, target))
    assert [str(diff) for diff in diffs if not diff.ok] == []
    assert all(diff.bound is not None for diff in diffs)  # none that nothing was compared with
    links = {link: {diff.tensor for diff in diffs if diff.link == link} for link in ("torch", "graph", "streamed")}
    assert {"dit_short.out_full", "dit_short.out_stream", "flow.mel", "llm.bistream_tokens"} <= links["graph"]
    assert {"pipeline.wav_nonstream", "pipeline.stream_mel1"} <= links["streamed"]
    assert links["graph"] < links["torch"]


@pytest.mark.parametrize("target", ["cpu", "portable"])
@pytest.mark.parametrize("recipe", RECIPES)
def test_a_quantized_bundle_is_proved_by_product_and_by_net(
    recipe: str, target: str, cosyvoice3_bundles: Export, cosyvoice3_checkpoint: Path
) -> None:
    bundle = cosyvoice3_bundles(recipe, target)
    diffs = list(chain("cosyvoice3", cosyvoice3_checkpoint, bundle, None))
    assert [str(diff) for diff in diffs if not diff.ok] == []
    stages = {diff.stage for diff in diffs if diff.link == "products"}
    assert {"lm", "flow", "flow_stream"} <= stages


def test_a_checkpoint_without_goldens_is_compared_with_its_own_nets(
    cosyvoice3_checkpoint: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(cosyvoice3_checkpoint, tmp_path / "model"))
    for file in copy.glob("golden.*"):
        file.unlink()
    diffs = list(chain("cosyvoice3", copy, None, "mixed"))
    assert [str(diff) for diff in diffs if not diff.ok] == []
    tensors = {diff.tensor for diff in diffs if diff.link == "graph"}
    assert {"flow.mel", "hift_short.final_wav"} <= tensors
    assert any(name.startswith("llm.") for name in tensors)
