"""`voxport parity llvc`: goldens under any names and in any part, and checkpoints nobody has goldens for."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from benchmarks.fullsize.llvc import randomize
from benchmarks.references.llvc import LlvcReference
from safetensors.numpy import save_file
from tests.bundles import Export
from tests.command import done, run
from tests.parity.goldens import compared, groups, only, renamed, without, wrong
from tests.parity.test_llvc_reference import ODD

from voxport.bundle import Bundle
from voxport_exporters.systems.llvc import job as llvc
from voxport_parity.chain import chain
from voxport_parity.reference import TorchBundle
from voxport_parity.systems.llvc import feeds
from voxport_parity.trace import Golden


@pytest.fixture(scope="module")
def bundle(llvc_bundles: Export) -> Bundle:
    return Bundle(llvc_bundles("fp32", "cpu"))


@pytest.fixture(scope="module")
def golden(llvc_checkpoint: Path) -> Golden:
    golden = Golden.of(llvc_checkpoint)
    assert golden is not None
    return golden


def outputs(golden: Golden) -> set[str]:
    return {name for name in golden.tensors if feeds.input_reason(name) is None}


def test_the_names_of_runs_mean_nothing(golden: Golden, bundle: Bundle, llvc_checkpoint: Path) -> None:
    """Every run and mode of the fixture gets a word for a name; the notes say how each was made."""
    words: dict[str, str] = {}

    def rename(name: str) -> str:
        runs = re.compile(r"^(ns|s\d+|al\d+|nst|edge|silence|resample)$")
        return ".".join(words.setdefault(p, f"word{len(words)}") if runs.match(p) else p for p in name.split("."))

    other = renamed(golden, rename)
    assert len(words) == 9
    nets = TorchBundle(bundle, llvc.job(llvc_checkpoint).parts)
    diffs = compared(feeds, feeds.trace(nets, other), other)
    assert wrong(diffs) == []
    assert {d.tensor for d in diffs} == {rename(name) for name in outputs(golden)}


def test_any_part_of_a_golden_is_compared_as_in_the_whole(golden: Golden, bundle: Bundle) -> None:
    whole = feeds.trace(bundle, golden).keys()
    for group in groups(golden):
        for other in (only(golden, group), without(golden, group)):
            diffs = compared(feeds, feeds.trace(bundle, other), other)
            assert wrong(diffs) == []
            assert {d.tensor for d in diffs} == other.tensors.keys() & whole & outputs(golden)


CONFIGS: dict[str, dict[str, Any]] = {
    "no look-ahead": {"lookahead": False},
    "chunks shorter than the context": {"dec_chunk_size": 1},
}


@pytest.mark.parametrize("name", CONFIGS)
def test_without_goldens_every_mode_of_the_config_is_proved(name: str, tmp_path: Path) -> None:
    params = ODD | CONFIGS[name]
    net = LlvcReference(**params)
    randomize(net, seed=1)
    weights, config = tmp_path / "models/checkpoints/odd/G_1.pth", tmp_path / "experiments/odd/config.json"
    for file in (weights, config):
        file.parent.mkdir(parents=True)
    torch.save({"model": net.state_dict()}, weights)
    config.write_text(json.dumps({"data": {"sr": 16000}, "model_params": params}))
    diffs = list(chain("llvc", tmp_path, None, None))
    assert wrong(diffs) == []
    names = {d.tensor for d in diffs if d.link == "graph"}
    offline = {"ns.out"}
    assert names == (offline if name == "no look-ahead" else offline | {"s2.out", "s3.out", "al1.out", "al3.out"})
    assert {d.tensor for d in diffs if d.link == "streamed"} == names


def test_what_no_stage_produces_is_listed_and_counted(
    golden: Golden, bundle: Bundle, llvc_checkpoint: Path, tmp_path: Path
) -> None:
    names = ("audio.input_16k", "ns.out", "edge.16.ns")
    tensors = {name: golden.tensors[name] for name in names}
    tensors |= {"al1.otu": tensors["ns.out"], "nst.pre.99.out": np.zeros((1, 1, 9), np.float32)}
    root = Path(shutil.copytree(llvc_checkpoint, tmp_path / "checkpoint"))
    save_file(tensors, root / "golden.safetensors")
    result = run("parity", "llvc", root, "--bundle", bundle.path, "--json", tmp_path / "rows.json")
    done(result)
    listed = "2 golden tensors are not compared, no stage produces them: al1.otu, nst.pre.99.out\n"
    assert result.stderr == listed
    rows = [row for row in json.loads((tmp_path / "rows.json").read_text()) if row["link"] == "not compared"]
    assert [(r["tensor"], r["shape"], r["max_abs"], r["bound"], r["ok"]) for r in rows] == [
        ("al1.otu", [8003], None, None, True),
        ("nst.pre.99.out", [1, 1, 9], None, None, True),
    ]
