"""Checkpoints of upstream's trainer export as the release that upstream's scripts make of them, bit by bit."""

import argparse
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.bundles import FIXTURES, Bundles
from torch import Tensor

from voxport.bundle import Bundle
from voxport_exporters.pack import pack
from voxport_exporters.systems.t5gemma.checkpoint import Checkpoint, open_checkpoint
from voxport_exporters.systems.t5gemma.job import RECIPES, job

ROOT = FIXTURES / "t5gemma"
MODEL = ROOT / "t5gemma_tts"
RELEASE: dict[str, Any] = json.loads((MODEL / "config.json").read_text())
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
ALPHA, RANK = 8, 3
WRAPPED = "backbone.base_model.model."

Tensors = dict[str, Tensor]


@pytest.fixture(scope="module")
def release() -> Tensors:
    return load_file(MODEL / "model.safetensors")


def args(**changes: Any) -> argparse.Namespace:
    """The options of a run, as main.py leaves them: with many that are no part of config.json."""
    options = {key: value for key, value in RELEASE.items() if key not in ("t5_config_dict", "model_type", "dtype")}
    options |= {
        "t5gemma_model_name": "base",
        "lr": 0.035,
        "dataset_dir": "['x']",
        "silence_tokens": [],
        "y_sep_token": 260,
    }
    options |= {"uniform_weight_start_step": 1e50, "use_lora": 0, "load_model_from": None} | changes
    return argparse.Namespace(**options)


def save(path: Path, model: Mapping[str, Tensor], **changes: Any) -> Path:
    """bundle.pth as steps/trainer.py writes it."""
    optimizer = {"state": {0: {"step": torch.tensor(1.0)}}, "param_groups": [{"lr": 0.1, "params": [0]}]}
    scheduler = {"base_lrs": [0.1], "epoch": 0, "batch": 4}
    content = {"model": dict(model), "optimizer": optimizer, "scheduler": scheduler, "args": args(**changes)}
    torch.save(content, path)
    return path


def with_copies(model: Tensors, wrapper: str = "backbone.") -> Tensors:
    """The state dict of upstream's class, which holds each stack under two names."""
    copies = {f"{kind}_module.": f"{wrapper}model.{kind}." for kind in ("encoder", "decoder")}
    again = {key.replace(old, new): t for new, old in copies.items() for key, t in model.items() if key.startswith(old)}
    return model | again


def adapter(release: Tensors) -> dict[str, tuple[Tensor, Tensor]]:
    """Weight -> A [rank, in], B [out, rank], in bf16 as upstream trains them."""
    torch.manual_seed(0)
    names = [key for key in release if key.split(".")[-2] in TARGETS]
    sizes = {name: release[name].shape for name in names}
    pairs = {n: (torch.randn(RANK, i), torch.randn(o, RANK)) for n, (o, i) in sizes.items()}
    return {name: (0.1 * a.bfloat16(), 0.1 * b.bfloat16()) for name, (a, b) in pairs.items()}


def lora_run(release: Tensors) -> Tensors:
    """The state dict of a LoRA run: PEFT wraps the backbone."""
    wrapped: Tensors = {}
    updates = adapter(release)
    for key, tensor in release.items():
        name = key.replace("backbone.", WRAPPED, 1) if key.startswith("backbone.") else key
        module = name.removesuffix(".weight")
        if key in updates:
            a, b = updates[key]
            wrapped |= {f"{module}.base_layer.weight": tensor, f"{module}.lora_A.default.weight": a}
            wrapped[f"{module}.lora_B.default.weight"] = b
        else:
            wrapped[name] = tensor
    return with_copies(wrapped, WRAPPED)


def merged(release: Tensors) -> Tensors:
    """What PEFT's merge_and_unload() makes of bf16 weights on a CPU."""
    result = {key: tensor.clone() for key, tensor in release.items()}
    for key, (a, b) in adapter(release).items():
        result[key] += ((b.float() @ a.float()) * (ALPHA / RANK)).bfloat16()
    return result


def peft_folder(folder: Path, release: Tensors, wrapped: str = "", **config: Any) -> Path:
    """What PEFT saves. `wrapped`: where in what PEFT wraps the text model is."""
    folder.mkdir()
    names = {
        key: key.replace("backbone.", f"base_model.model.{wrapped}").removesuffix(".weight") for key in adapter(release)
    }
    pairs = adapter(release).items()
    halves = {f"{names[key]}.lora_{side}.weight": t for key, pair in pairs for side, t in zip("AB", pair, strict=True)}
    save_file(halves, folder / "adapter_model.safetensors")
    fields = {"peft_type": "LORA", "r": RANK, "lora_alpha": ALPHA, "base_model_name_or_path": "/data/base"}
    (folder / "adapter_config.json").write_text(json.dumps(fields | {"init_lora_weights": True} | config))
    return folder


def same(checkpoint: Checkpoint, tensors: Tensors) -> None:
    for key, tensor in tensors.items():
        assert torch.equal(checkpoint.weights.take(key, *tensor.shape), tensor.float()), key
    checkpoint.weights.finish()
    assert checkpoint.config == open_checkpoint(ROOT).config


# ---- a run of the whole model


def base_folder(path: Path) -> Path:
    """The folder of the text model that the run began with."""
    path.mkdir()
    (path / "config.json").write_text(json.dumps(RELEASE["t5_config_dict"]))
    return path


def test_a_run_is_what_its_release_is(tmp_path: Path, release: Tensors) -> None:
    model = with_copies(release | {"backbone.lm_head.out_proj.weight": torch.zeros(512, 64)})
    path = save(tmp_path / "bundle.pth", model)
    same(open_checkpoint(ROOT, path), release)
    same(open_checkpoint(ROOT, tmp_path), release)
    checkpoint = open_checkpoint(base_folder(tmp_path / "base"), path)
    same(checkpoint, release)
    assert [file.name for file in checkpoint.files] == ["config.json", "bundle.pth"]


@pytest.mark.slow
def test_a_run_and_its_release_export_to_equal_bundles(tmp_path: Path, bundles: Bundles, release: Tensors) -> None:
    path = save(tmp_path / "bundle.pth", with_copies(release), codec_audio_sr=44100)
    pack(job(ROOT, weights=path), tmp_path / "bundle", RECIPES["fp32"], "cpu")
    mine, other = (Bundle(folder).manifest for folder in (tmp_path / "bundle", bundles.of("t5gemma")("fp32", "cpu")))
    assert mine.files == other.files
    assert (mine.section, mine.tokens, mine.sampling) == (other.section, other.tokens, other.sampling)
    assert mine.source != other.source


@pytest.mark.parametrize(("precision", "dtype"), [("bfloat16", torch.bfloat16), ("float32", torch.float32)])
def test_a_run_has_the_precision_that_it_says(
    tmp_path: Path, release: Tensors, precision: str, dtype: torch.dtype
) -> None:
    """Upstream trains in mixed precision, and rounds when it runs or exports the model."""
    finer = {key: tensor.float() * 1.001 for key, tensor in release.items()}
    path = save(tmp_path / "bundle.pth", with_copies(finer), precision=precision)
    same(open_checkpoint(ROOT, path), {key: tensor.to(dtype) for key, tensor in finer.items()})


def test_a_runs_options_come_before_the_folders_config(tmp_path: Path, release: Tensors) -> None:
    path = save(tmp_path / "bundle.pth", release, progress_scale=1000.0, extra_cutoff=3, x_sep_token=None)
    voice = open_checkpoint(ROOT, path).config.voice
    assert (voice.progress_scale, voice.extra_cutoff, voice.x_sep_token) == (1000.0, 3.0, RELEASE["x_sep_token"])


@pytest.mark.parametrize("size", ["256", "[256]", [256], 256])
def test_special_ids_follow_the_codes_where_a_run_names_none(tmp_path: Path, release: Tensors, size: object) -> None:
    names = ("empty_token", "eog", "audio_pad_token", "eos", "y_sep_token")
    path = save(tmp_path / "bundle.pth", release, audio_vocab_size=size, x_sep_token=511, **dict.fromkeys(names))
    tokens = open_checkpoint(base_folder(tmp_path / "base"), path).config.tokens
    assert tokens == open_checkpoint(ROOT).config.tokens


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"audio_vocab_size": "many"}, r"bundle\.pth: args: audio_vocab_size is \"many\""),
        ({"progress_scale": "x"}, r"bundle\.pth: args: progress_scale"),
        ({"model": {}}, r"bundle\.pth: does not hold a dict of tensors"),
    ],
)
def test_a_bad_run_is_one_line(tmp_path: Path, release: Tensors, changes: dict[str, Any], words: str) -> None:
    path = save(tmp_path / "bundle.pth", changes.pop("model", release), **changes)
    with pytest.raises(ValueError, match=rf"^[^\n]*{words}[^\n]*$"):
        open_checkpoint(ROOT, path)


def test_a_folder_of_the_text_model_alone_needs_a_run(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"config\.json: the text model .* --weights"):
        open_checkpoint(base_folder(tmp_path / "base"))
    with pytest.raises(FileNotFoundError, match=r"none\.pth: no such checkpoint"):
        open_checkpoint(ROOT, tmp_path / "none.pth")
    with pytest.raises(FileNotFoundError, match=r"base: no bundle\.pth"):
        open_checkpoint(ROOT, tmp_path / "base")


# ---- LoRA


@pytest.mark.parametrize("form", ["run", "weights", "folder", "folder on a run"])
def test_an_adapter_is_merged_as_by_upstream(tmp_path: Path, release: Tensors, form: str) -> None:
    run = save(tmp_path / "lora.pth", lora_run(release), use_lora=1, lora_alpha=ALPHA, lora_r=RANK)
    if form == "run":
        checkpoint = open_checkpoint(ROOT, lora=run)
    elif form == "weights":
        checkpoint = open_checkpoint(base_folder(tmp_path / "base"), run)
    else:
        weights = save(tmp_path / "bundle.pth", release) if form == "folder on a run" else None
        checkpoint = open_checkpoint(ROOT, weights, peft_folder(tmp_path / "peft", release))
    same(checkpoint, merged(release))


def test_peft_may_wrap_the_whole_model(tmp_path: Path, release: Tensors) -> None:
    name = "Aratako/T5Gemma-TTS-2b-2b"
    folder = peft_folder(tmp_path / "peft", release, "backbone.", base_model_name_or_path=name)
    same(open_checkpoint(ROOT, lora=folder), merged(release))


def test_a_file_of_an_adapter_alone_is_merged_into_the_folders_weights(tmp_path: Path, release: Tensors) -> None:
    halves = {key: tensor for key, tensor in lora_run(release).items() if ".lora_" in key}
    same(open_checkpoint(ROOT, lora=save(tmp_path / "lora.pth", halves, lora_alpha=ALPHA)), merged(release))


def test_an_adapter_needs_no_base_beside_it(tmp_path: Path, release: Tensors) -> None:
    run = save(tmp_path / "lora.pth", lora_run(release), lora_alpha=ALPHA)
    shutil.copytree(MODEL, tmp_path / "model", ignore=shutil.ignore_patterns("*.safetensors"))
    same(open_checkpoint(tmp_path / "model", lora=run), merged(release))


@pytest.mark.parametrize("change", ["norms", "matrices", "head", "sizes", "names"])
def test_a_lora_run_of_another_base_is_refused(tmp_path: Path, release: Tensors, change: str) -> None:
    other = {}
    for key, tensor in release.items():
        vector = tensor.dim() == 1
        name = key.replace("layers.2", "layers.7") if change == "names" else key
        changed = {"norms": vector, "matrices": not vector, "head": key == "predict_layer.0.2.weight"}
        scale = 1.5 if changed.get(change) else 1.0
        other[name] = torch.cat([tensor, tensor]) if change == "sizes" else scale * tensor
    run = save(tmp_path / "lora.pth", lora_run(other), lora_alpha=ALPHA)
    with pytest.raises(ValueError, match=r"^[^\n]*lora\.pth: [^\n]* another base [^\n]*$"):
        open_checkpoint(ROOT, lora=run)


def test_a_folder_of_another_base_is_refused(tmp_path: Path, release: Tensors) -> None:
    folder = peft_folder(tmp_path / "peft", release, base_model_name_or_path="google/t5gemma-9b-2b-ul2")
    with pytest.raises(
        ValueError, match=r"adapter_config\.json: an adapter of google/t5gemma-9b-2b-ul2, [^\n]* google/t5gemma-2b"
    ):
        open_checkpoint(ROOT, lora=folder)
    wider = {key: torch.cat([tensor, tensor]) for key, tensor in release.items()}
    with pytest.raises(ValueError, match=r"adapter_model\.safetensors: .* another model"):
        open_checkpoint(ROOT, lora=peft_folder(tmp_path / "wider", wider))
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"empty: no bundle\.pth of .* and no adapter_config\.json"):
        open_checkpoint(ROOT, lora=tmp_path / "empty")


def test_a_run_without_an_adapter_is_no_lora(tmp_path: Path, release: Tensors) -> None:
    with pytest.raises(ValueError, match=r"bundle\.pth: holds no LoRA weights; .* --weights"):
        open_checkpoint(ROOT, lora=save(tmp_path / "bundle.pth", release))


def test_more_than_a_lora_update_is_refused(tmp_path: Path, release: Tensors) -> None:
    model = lora_run(release)
    key = next(key for key in model if ".lora_A." in key and not key.startswith("encoder"))
    model[key.replace("lora_A", "lora_magnitude_vector")] = torch.ones(3)
    with pytest.raises(ValueError, match=r"more than a LoRA update B A of backbone\."):
        open_checkpoint(ROOT, lora=save(tmp_path / "lora.pth", model))
    del model[key.replace("lora_A", "lora_magnitude_vector")], model[key.replace("lora_A", "lora_B")]
    with pytest.raises(ValueError, match=r"lora\.pth: lacks backbone\..*lora_B"):
        open_checkpoint(ROOT, lora=save(tmp_path / "lora.pth", model))
