"""LoRA adapters change the weights they name, by what PEFT would have added, and nothing else."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from voxport_exporters import pack
from voxport_exporters.checkpoints import lora
from voxport_exporters.checkpoints.lora import merge
from voxport_exporters.checkpoints.weights import Weights
from voxport_exporters.systems.vyvo import job as vyvo

Q, EMBED = "model.layers.0.self_attn.q_proj", "model.embed_tokens"
BASE = {f"{Q}.weight": torch.randn(6, 4), f"{EMBED}.weight": torch.randn(9, 4), "model.norm.weight": torch.randn(4)}
A, B = torch.randn(2, 4), torch.randn(6, 2)


def adapter(folder: Path, tensors: dict[str, Tensor], **config: Any) -> Path:
    folder.mkdir()
    save_file(tensors, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 2, "lora_alpha": 3, **config}))
    return folder


def base(folder: Path) -> Weights:
    save_file(BASE, folder / "model.safetensors")
    return Weights.open(folder / "model.safetensors")


LORA = {f"base_model.model.{Q}.lora_A.weight": A, f"base_model.model.{Q}.lora_B.weight": B}


@pytest.mark.parametrize(
    ("config", "scale"),
    [
        ({}, 1.5),
        ({"use_rslora": True}, 3 / 2**0.5),
        ({"alpha_pattern": {"q_proj": 8}}, 4.0),
        ({"alpha_pattern": {"k_proj": 8}}, 1.5),
    ],
)
def test_update_is_added(tmp_path: Path, config: dict[str, Any], scale: float) -> None:
    weights = merge(base(tmp_path), adapter(tmp_path / "lora", LORA, **config), tied=False)
    torch.testing.assert_close(weights.take(f"{Q}.weight", 6, 4), BASE[f"{Q}.weight"] + scale * B @ A)
    assert torch.equal(weights.take("model.norm.weight", 4), BASE["model.norm.weight"])
    weights.take(f"{EMBED}.weight", 9, 4)
    weights.finish()


@pytest.mark.parametrize(
    ("pattern", "why"),
    [
        ("(q_proj", "is no regular expression: missing )"),
        ("*", "is no regular expression: nothing to repeat"),
        ("(" * 20_000, "is no regular expression"),
        ("((a|[a-z_.0-9])+)+!", "does not come to an end"),
    ],
)
def test_a_pattern_that_cannot_be_matched_is_one_line(
    pattern: str, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lora, "PATTERN_SECONDS", 1.0)
    folder = adapter(tmp_path / "lora", LORA, alpha_pattern={pattern: 8})
    with pytest.raises(ValueError, match=r"^[^\n]*adapter_config\.json: alpha_pattern: [^\n]*$") as error:
        merge(base(tmp_path), folder, tied=False)
    assert why in str(error.value)


@pytest.mark.parametrize(
    ("config", "why"),
    [
        ({"lora_alpha": None}, "lora_alpha is null"),
        ({"lora_alpha": "x"}, 'lora_alpha is "x"'),
        ({"alpha_pattern": ["q_proj"]}, "alpha_pattern is"),
        ({"alpha_pattern": {"q_proj": "x"}}, "alpha_pattern"),
        ({"modules_to_save": "lm_head"}, "modules_to_save is"),
        ({"init_lora_weights": []}, "init_lora_weights [] adapters are not merged here"),
        ({"peft_type": {}}, "{} adapters are not merged here"),
    ],
)
def test_a_wrong_value_in_an_adapters_config_is_one_line(config: dict[str, Any], why: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^[^\n]*adapter_config\.json: [^\n]*$") as error:
        merge(base(tmp_path), adapter(tmp_path / "lora", LORA, **config), tied=False)
    assert why in str(error.value)


@pytest.mark.parametrize("change", [{"lora_B": None}, {"lora_B": torch.zeros(6, 3)}, {"lora_A": torch.zeros(())}])
def test_halves_of_an_update_that_do_not_go_together_are_one_line(change: dict[str, Any], tmp_path: Path) -> None:
    key = {part: f"base_model.model.{Q}.{part}.weight" for part in change}
    tensors = {k: t for k, t in LORA.items() if k not in key.values()}
    tensors |= {key[part]: tensor for part, tensor in change.items() if tensor is not None}
    with pytest.raises(ValueError, match=r"^[^\n]*adapter_model\.safetensors: (lacks|[^\n]* are no update B A)"):
        merge(base(tmp_path), adapter(tmp_path / "lora", tensors), tied=False)


def test_embedding_update_and_replaced_module(tmp_path: Path) -> None:
    a, b = torch.randn(2, 9), torch.randn(4, 2)
    update = {f"base_model.model.{EMBED}.lora_embedding_A": a, f"base_model.model.{EMBED}.lora_embedding_B": b}
    weights = merge(base(tmp_path), adapter(tmp_path / "lora", update), tied=False)
    torch.testing.assert_close(weights.take(f"{EMBED}.weight", 9, 4), BASE[f"{EMBED}.weight"] + 1.5 * (b @ a).T)
    longer = torch.randn(12, 4)
    weights = merge(
        base(tmp_path), adapter(tmp_path / "saved", {f"base_model.model.{EMBED}.weight": longer}), tied=False
    )
    assert torch.equal(weights.take(f"{EMBED}.weight", 12, 4), longer)


def test_replacement_comes_before_the_update(tmp_path: Path) -> None:
    """PEFT saves the weights it adds to beside the update when these are the embedding's, and biases."""
    a, b, saved, bias = torch.randn(2, 9), torch.randn(4, 2), torch.randn(9, 4), torch.randn(4)
    tensors = {"embed_tokens.lora_embedding_A": a, "embed_tokens.lora_embedding_B": b, "norm.base_layer.weight": bias}
    tensors["embed_tokens.base_layer.weight"] = saved
    folder = adapter(tmp_path / "lora", {f"base_model.model.model.{name}": t for name, t in tensors.items()})
    weights = merge(base(tmp_path), folder, tied=False)
    torch.testing.assert_close(weights.take(f"{EMBED}.weight", 9, 4), saved + 1.5 * (b @ a).T)
    assert torch.equal(weights.take("model.norm.weight", 4), bias)


@pytest.mark.parametrize(
    "config",
    [
        {"init_lora_weights": "pissa_niter_4"},
        {"init_lora_weights": "olora"},
        {"alora_invocation_tokens": [3]},
        {"trainable_token_indices": [3]},
        {"fan_in_fan_out": True},
    ],
)
def test_other_kinds_are_refused(tmp_path: Path, config: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(config))}.* merge with PEFT"):
        merge(base(tmp_path), adapter(tmp_path / "lora", LORA, **config), tied=False)
    for method in (True, False, "gaussian"):
        merge(base(tmp_path), adapter(tmp_path / f"lora-{method}", LORA, init_lora_weights=method), tied=False)


@pytest.mark.parametrize("parts", [(f"{EMBED}.lora_embedding_", ""), ("lm_head.lora_", ".weight")])
def test_update_of_a_tied_matrix_is_refused(tmp_path: Path, parts: tuple[str, str]) -> None:
    tensors = {f"base_model.model.{parts[0]}{side}{parts[1]}": torch.randn(2, 2) for side in "AB"}
    with pytest.raises(ValueError, match="at once; merge with PEFT"):
        merge(base(tmp_path), adapter(tmp_path / "lora", tensors), tied=True)


def heads(job: pack.Job) -> tuple[Tensor, Tensor]:
    """The embedding and the transposed head of what is exported."""
    nets = {part.stage.name: part.net for part in job.parts}
    embedding = next(t for name, t in nets["lm"].state_dict().items() if "embed" in name)
    return embedding, nets["head"].state_dict()["weight"].T


@pytest.mark.parametrize("saved", [("embed_tokens", "lm_head"), ("lm_head",), ("embed_tokens",)])
def test_modules_saved_for_a_tied_base_untie_it(vyvo_checkpoint: Path, tmp_path: Path, saved: tuple[str, ...]) -> None:
    """Upstream's recipe trains both; the one that is not trained stays what it was."""
    old, head = heads(vyvo.job(vyvo_checkpoint))
    assert torch.equal(old, head)
    new = {name: torch.randn_like(old) for name in saved}
    keys = {"embed_tokens": EMBED, "lm_head": "lm_head"}
    tensors = {f"base_model.model.{keys[name]}.weight": value for name, value in new.items()}
    folder = adapter(tmp_path / "lora", tensors, modules_to_save=list(saved))
    embedding, head = heads(vyvo.job(vyvo_checkpoint, lora=folder))
    assert torch.equal(embedding, new.get("embed_tokens", old))
    assert torch.equal(head, new.get("lm_head", old))


def test_embedding_that_peft_keeps_tied_stays_tied(vyvo_checkpoint: Path, tmp_path: Path) -> None:
    new = torch.randn_like(heads(vyvo.job(vyvo_checkpoint))[0])
    config = {"modules_to_save": ["embed_tokens"], "ensure_weight_tying": True}
    folder = adapter(tmp_path / "lora", {f"base_model.model.{EMBED}.weight": new}, **config)
    embedding, head = heads(vyvo.job(vyvo_checkpoint, lora=folder))
    assert torch.equal(embedding, new)
    assert torch.equal(head, new)


def test_head_of_its_own_in_a_tied_file_is_used(vyvo_checkpoint: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    shutil.copytree(vyvo_checkpoint, root)
    file = next((root / "lm").glob("*.safetensors"))
    tensors = load_file(file)
    save_file(tensors | {"lm_head.weight": tensors[f"{EMBED}.weight"].clone()}, file)
    embedding, head = heads(vyvo.job(root))
    assert torch.equal(embedding, head)
    own = torch.randn(embedding.shape)
    save_file(tensors | {"lm_head.weight": own}, file)
    assert torch.equal(heads(vyvo.job(root))[1], own)


def test_foreign_adapters_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="use_dora"):
        merge(base(tmp_path), adapter(tmp_path / "dora", LORA, use_dora=True), tied=False)
    strange = {key.replace("q_proj", "w_proj"): value for key, value in LORA.items()}
    with pytest.raises(ValueError, match="base model"):
        merge(base(tmp_path), adapter(tmp_path / "strange", strange), tied=False)
    with pytest.raises(FileNotFoundError, match="adapter_config"):
        merge(base(tmp_path), tmp_path, tied=False)


def test_export_merges_an_adapter_and_refuses_a_foreign_one(vyvo_checkpoint: Path, tmp_path: Path) -> None:
    weights = Weights.open(vyvo_checkpoint / "lm")
    key = next(k for k in sorted(weights.keys) if k.endswith("q_proj.weight"))
    rows, columns = weights.shape(key)
    name = f"base_model.model.{key.removesuffix('.weight')}"

    def lora(folder: str, width: int) -> Path:
        update = {f"{name}.lora_A.weight": torch.randn(2, width), f"{name}.lora_B.weight": torch.randn(rows, 2)}
        return adapter(tmp_path / folder, update)

    job = vyvo.job(vyvo_checkpoint, lora=lora("mine", columns))
    plain = next(p for p in vyvo.job(vyvo_checkpoint).parts if p.stage.name == "lm").net.state_dict()
    merged = next(p for p in job.parts if p.stage.name == "lm").net.state_dict()
    changed = [n for n in plain if not torch.equal(plain[n], merged[n])]
    assert len(changed) == 1  # the layer's joint q, k and v
    assert {p.name for p in job.checkpoint} >= {"adapter_config.json", "adapter_model.safetensors"}
    with pytest.raises(ValueError, match=r"adapter_model\.safetensors: .* another model"):
        list(vyvo.job(vyvo_checkpoint, lora=lora("other", columns + 1)).parts)
