"""A T5Gemma-TTS checkpoint is found in every layout, and what is missing is named."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.bundles import FIXTURES
from torch import Tensor

from voxport_exporters.systems.t5gemma.checkpoint import Checkpoint, open_checkpoint
from voxport_exporters.systems.t5gemma.hf import write_hf

ROOT = FIXTURES / "t5gemma"
MODEL = "t5gemma_tts"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The fixture's folders, to be changed."""
    return Path(shutil.copytree(ROOT, tmp_path / "root"))


def edit(path: Path, **changes: Any) -> None:
    fields = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in fields.items() if value is not None}))


def same(checkpoint: Checkpoint, tensors: dict[str, Tensor]) -> None:
    """The checkpoint holds these tensors, and has no others to account for."""
    for key, tensor in tensors.items():
        assert torch.equal(checkpoint.weights.take(key, *tensor.shape), tensor.float()), key
    checkpoint.weights.finish()


def beside(checkpoint: Checkpoint) -> list[Path]:
    return [checkpoint.tokenizer(), checkpoint.codec(), checkpoint.semantic()]


@pytest.mark.parametrize("path", [ROOT, ROOT / MODEL])
def test_folders_are_found_from_all_of_them_and_from_the_model(path: Path) -> None:
    checkpoint = open_checkpoint(path)
    assert checkpoint.model == ROOT / MODEL
    assert beside(checkpoint) == [ROOT / "text_tokenizer", ROOT / "xcodec2", ROOT / "w2v-bert-2.0"]
    assert [file.name for file in checkpoint.files] == ["config.json", "model.safetensors"]
    same(checkpoint, load_file(ROOT / MODEL / "model.safetensors"))


@pytest.mark.parametrize("name", [None, "owner/xcodec2", "owner/other"])
def test_codec_is_the_one_that_the_config_names_or_the_only_one(root: Path, name: str | None) -> None:
    edit(root / MODEL / "config.json", xcodec2_model_name=name)
    assert open_checkpoint(root).codec() == root / "xcodec2"
    shutil.copytree(root / "xcodec2", root / "other")
    if name is None:
        with pytest.raises(ValueError, match=r"wanted one XCodec2 .*found other, xcodec2; name it with --codec"):
            open_checkpoint(root).codec()
    else:
        assert open_checkpoint(root).codec() == root / name.split("/")[1]
    assert open_checkpoint(root / MODEL).codec(root / "other") == root / "other"


def test_tokenizer_may_lie_with_the_model(root: Path) -> None:
    shutil.move(root / "text_tokenizer" / "tokenizer.json", root / MODEL)
    assert open_checkpoint(root).tokenizer() == root / MODEL


def test_what_is_missing_is_named(root: Path, tmp_path: Path) -> None:
    for name in ("text_tokenizer", "xcodec2", "w2v-bert-2.0"):
        shutil.rmtree(root / name)
    checkpoint = open_checkpoint(root)
    with pytest.raises(FileNotFoundError, match=r"root: no tokenizer folder .* --tokenizer"):
        checkpoint.tokenizer()
    with pytest.raises(FileNotFoundError, match=r"root: no XCodec2 folder .* --codec"):
        checkpoint.codec()
    with pytest.raises(FileNotFoundError, match=r"root: no w2v-BERT 2\.0 folder .* --semantic"):
        checkpoint.semantic()
    with pytest.raises(FileNotFoundError, match=r"none: no such folder; --codec"):
        checkpoint.codec(root / "none")
    with pytest.raises(FileNotFoundError, match=r"none: no such folder"):
        open_checkpoint(root / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"empty: holds no T5Gemma-TTS model"):
        open_checkpoint(tmp_path / "empty")


def test_several_models_are_listed(root: Path) -> None:
    shutil.copytree(root / MODEL, root / "other")
    with pytest.raises(ValueError, match=r"found other, t5gemma_tts"):
        open_checkpoint(root)


def test_quantized_release_is_refused(root: Path) -> None:
    edit(root / MODEL / "config.json", quantization_config={"quant_method": "bitsandbytes"})
    with pytest.raises(ValueError, match=r"config\.json: its weights are quantized .* encoder-int4"):
        open_checkpoint(root)


def test_copies_and_text_modules_are_no_part_of_the_model(root: Path) -> None:
    """Upstream's class keeps the stacks under a second name, and prunes what only text needs."""
    file = root / MODEL / "model.safetensors"
    tensors = load_file(file)
    extra = {
        "encoder_module.norm.weight": torch.ones(64),
        "decoder_module.layers.0.mlp.up_proj.weight": torch.ones(160, 64),
        "backbone.lm_head.out_proj.weight": torch.ones(512, 64),
        "backbone.model.decoder.embed_tokens.weight": torch.ones(512, 64),
    }
    save_file(tensors | extra, file)
    same(open_checkpoint(root), tensors)


def test_missing_shards_and_a_missing_index_are_named(root: Path) -> None:
    model = root / MODEL
    write_hf(open_checkpoint(root), model / "shards", most=150_000)
    (model / "model.safetensors").unlink()
    for file in (model / "shards").glob("model*"):
        file.rename(model / file.name)
    names = sorted(path.name for path in model.glob("*.safetensors"))
    (model / names[1]).unlink()
    (model / names[3]).unlink()
    words = rf"model\.safetensors\.index\.json: lacks 2 of its {len(names)} shards: {names[1]}, {names[3]}$"
    with pytest.raises(FileNotFoundError, match=words):
        open_checkpoint(root)
    (model / "model.safetensors.index.json").unlink()
    with pytest.raises(FileNotFoundError, match=rf"lacks the index \(model\.safetensors\.index\.json\) of {names[0]}"):
        open_checkpoint(root)
