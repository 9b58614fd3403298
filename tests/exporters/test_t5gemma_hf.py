"""A checkpoint is written back as a release that opens as what it was made from, here and in transformers."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.bundles import FIXTURES
from torch import Tensor

from voxport_exporters.systems.t5gemma.checkpoint import open_checkpoint
from voxport_exporters.systems.t5gemma.hf import write_hf
from voxport_exporters.systems.t5gemma.parts import parts

ROOT = FIXTURES / "t5gemma"
MODEL = ROOT / "t5gemma_tts"


@pytest.fixture(scope="module")
def release() -> dict[str, Tensor]:
    return load_file(MODEL / "model.safetensors")


def equal(found: dict[str, Tensor], tensors: dict[str, Tensor]) -> bool:
    return found.keys() == tensors.keys() and all(torch.equal(found[key], tensors[key]) for key in tensors)


def fields(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((path / "config.json").read_text())
    return content


def test_a_release_is_written_as_it_is(tmp_path: Path, release: dict[str, Tensor]) -> None:
    checkpoint = open_checkpoint(ROOT)
    note = write_hf(checkpoint, tmp_path / "out")
    assert "configuration_t5gemma_voice.py and modeling_t5gemma_voice.py" in note
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        *("config.json", "generation_config.json", "model.safetensors")
    ]
    assert equal(load_file(tmp_path / "out" / "model.safetensors"), release)
    assert fields(tmp_path / "out") == fields(MODEL)
    list(parts(checkpoint.weights, checkpoint.config))  # the same checkpoint can still be exported


@pytest.mark.parametrize("most", [30_000, 1])
def test_shards_hold_what_an_index_says(tmp_path: Path, release: dict[str, Tensor], most: int) -> None:
    write_hf(open_checkpoint(ROOT), tmp_path / "out", most)
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    names = sorted(set(index["weight_map"].values()))
    assert names == [f"model-{i:05d}-of-{len(names):05d}.safetensors" for i in range(1, len(names) + 1)]
    found: dict[str, Tensor] = {}
    for name in names:
        shard = load_file(tmp_path / "out" / name)
        assert {index["weight_map"][key] for key in shard} == {name}
        assert len(shard) == 1 or sum(t.nbytes for t in shard.values()) <= most
        found |= shard
    assert equal(found, release)
    assert index["metadata"]["total_size"] == sum(t.nbytes for t in release.values())
    assert open_checkpoint(tmp_path / "out").config == open_checkpoint(ROOT).config


def test_what_is_no_part_of_a_release_is_left_out(tmp_path: Path, release: dict[str, Tensor]) -> None:
    """In float32, with the text modules; the config then says that these are pruned."""
    model = tmp_path / "model"
    shutil.copytree(MODEL, model)
    config = fields(MODEL) | {"prune_text_modules": 0, "dtype": "float32"}
    (model / "config.json").write_text(json.dumps(config))
    extra = {"backbone.lm_head.out_proj.weight": torch.ones(512, 64), "encoder_module.norm.weight": torch.ones(64)}
    extra["backbone.model.decoder.embed_tokens.weight"] = torch.ones(512, 64)
    save_file({key: t.float() for key, t in release.items()} | extra, model / "model.safetensors")
    write_hf(open_checkpoint(model), tmp_path / "out")
    assert equal(load_file(tmp_path / "out" / "model.safetensors"), release)
    assert fields(tmp_path / "out") == fields(MODEL)


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("x")
    with pytest.raises(FileExistsError, match="out: exists; name a new folder"):
        write_hf(open_checkpoint(ROOT), tmp_path / "out")
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_a_disk_too_small_is_told_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, release: dict[str, Tensor]
) -> None:
    free = sum(t.nbytes for t in release.values()) - 1
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
    with pytest.raises(OSError, match=r"out: takes about 0\.7 MB, and its disk has 0\.7 MB free"):
        write_hf(open_checkpoint(ROOT), tmp_path / "out")
    assert not list(tmp_path.iterdir())
