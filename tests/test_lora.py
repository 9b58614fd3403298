"""LoRA adapters change the weights they name, by what PEFT would have added, and nothing else."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from voxport_exporters import vyvo
from voxport_exporters.lora import merge
from voxport_exporters.weights import Weights

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
    weights = merge(base(tmp_path), adapter(tmp_path / "lora", LORA, **config))
    torch.testing.assert_close(weights.take(f"{Q}.weight", 6, 4), BASE[f"{Q}.weight"] + scale * B @ A)
    assert torch.equal(weights.take("model.norm.weight", 4), BASE["model.norm.weight"])
    weights.take(f"{EMBED}.weight", 9, 4)
    weights.finish()


def test_embedding_update_and_replaced_module(tmp_path: Path) -> None:
    a, b = torch.randn(2, 9), torch.randn(4, 2)
    update = {f"base_model.model.{EMBED}.lora_embedding_A": a, f"base_model.model.{EMBED}.lora_embedding_B": b}
    weights = merge(base(tmp_path), adapter(tmp_path / "lora", update))
    torch.testing.assert_close(weights.take(f"{EMBED}.weight", 9, 4), BASE[f"{EMBED}.weight"] + 1.5 * (b @ a).T)
    longer = torch.randn(12, 4)
    weights = merge(base(tmp_path), adapter(tmp_path / "saved", {f"base_model.model.{EMBED}.weight": longer}))
    assert torch.equal(weights.take(f"{EMBED}.weight", 12, 4), longer)


def test_foreign_adapters_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="use_dora"):
        merge(base(tmp_path), adapter(tmp_path / "dora", LORA, use_dora=True))
    strange = {key.replace("q_proj", "w_proj"): value for key, value in LORA.items()}
    with pytest.raises(ValueError, match="base model"):
        merge(base(tmp_path), adapter(tmp_path / "strange", strange))
    with pytest.raises(FileNotFoundError, match="adapter_config"):
        merge(base(tmp_path), tmp_path)


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
