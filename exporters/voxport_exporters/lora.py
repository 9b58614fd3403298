"""LoRA adapters (PEFT's safetensors) merged into the weights as these are read: W + scale B A.

weights = merge(Weights.open(base), adapter_folder)
"""

import json
import math
import re
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from voxport_exporters.weights import Weights

WRAPPED = "base_model.model."  # PEFT's prefix before the names of the model it wraps
REFUSED = ("use_dora", "use_bdlora", "lora_bias")


def merge(base: Weights, folder: Path) -> Weights:
    """`base` with the adapter in `folder` merged. ValueError in one line when it is of another kind or model."""
    file = folder / "adapter_config.json"
    try:
        config = json.loads(file.read_text())
    except FileNotFoundError:
        raise FileNotFoundError(f"{file}: no such file; an adapter is a folder that PEFT saved") from None
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from None
    other = [name for name in REFUSED if config.get(name)]
    if config.get("peft_type") != "LORA" or other or config.get("fan_in_fan_out"):
        kind = ", ".join([str(config.get("peft_type")), *other])
        raise ValueError(f"{file}: {kind} adapters are not merged here; merge with PEFT and export the result")
    adapter = Weights.open(folder / "adapter_model.safetensors")
    change, shapes = {}, {}
    for key in sorted(adapter.keys):
        name, _, part = key.removeprefix(WRAPPED).partition(".lora_")
        module = name.removesuffix(".base_layer")
        if part in ("A.weight", "A.default.weight", "embedding_A"):
            target = f"{module}.weight"
            other_key = key.replace("lora_A", "lora_B").replace("lora_embedding_A", "lora_embedding_B")
            change[target] = partial(_add, adapter, key, other_key, _scale(config, module, adapter.shape(key)))
        elif not part:
            target = name.replace(".modules_to_save", "")
            change[target] = partial(_replace, adapter, key)
            shapes[target] = adapter.shape(key)
        elif not part.startswith(("B", "embedding_B")):
            raise ValueError(f"{folder}: {key} is not a LoRA weight; merge with PEFT and export the result")
    strangers = sorted(change.keys() - base.keys)
    if strangers:
        raise ValueError(
            f"{folder}: changes {strangers[0]}, which {base.source} lacks; is it the adapter's base model?"
        )
    return base.changed(change, shapes)


def _scale(config: dict[str, Any], module: str, shape: tuple[int, ...]) -> float:
    """alpha / rank, or alpha / sqrt(rank); alpha may differ by pattern of module names. The rank is that of A."""
    alpha = config["lora_alpha"]
    for pattern, value in (config.get("alpha_pattern") or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            alpha = value
            break
    rank = shape[0]
    return float(alpha / (math.sqrt(rank) if config.get("use_rslora") else rank))


def _add(adapter: Weights, a: str, b: str, scale: float, weight: Tensor) -> Tensor:
    first, second = (adapter.take(key, *adapter.shape(key)) for key in (a, b))
    update = second @ first  # [out, rank] @ [rank, in]; of an embedding [width, rank] @ [rank, rows]
    update = update.T if "lora_embedding_A" in a else update
    if update.shape != weight.shape:
        wanted, got = list(weight.shape), list(update.shape)
        raise ValueError(f"{adapter.source}: {a} changes a weight of shape {got}, the base has {wanted}: another model")
    return weight.to(torch.float32) + scale * update


def _replace(adapter: Weights, key: str, _: Tensor) -> Tensor:
    return adapter.take(key, *adapter.shape(key))
