"""LoRA adapters (PEFT's safetensors) merged into the weights as these are read: W + scale B A.

weights = merge(Weights.open(base), adapter_folder, tied=False)
"""

import math
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from voxport_exporters.checkpoints import jsonfile
from voxport_exporters.checkpoints.weights import Weights

Change = Callable[[Tensor], Tensor]
WRAPPED = "base_model.model."  # PEFT's prefix before the names of the model it wraps
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
REFUSED = (  # kinds whose update is more than scale B A
    "use_dora",
    "use_bdlora",
    "use_qalora",
    "lora_bias",
    "kasa_config",
    "layer_replication",
    "alora_invocation_tokens",
    "trainable_token_indices",
)
INITIALISED = (None, True, False, "gaussian", "eva", "orthogonal")  # the others change the base's weights too
ADVICE = "merge with PEFT and export the result"


def merge(base: Weights, folder: Path, tied: bool) -> Weights:
    """`base` with the adapter in `folder` merged. ValueError in one line when it is of another kind or model.

    `tied`: the base's head is its embedding. PEFT saves a module of its own for each that was trained in full, and an
    untrained one keeps the old matrix: the result then holds a head and an embedding that differ.
    """
    file = folder / "adapter_config.json"
    if not file.is_file():
        raise FileNotFoundError(f"{file}: no such file; an adapter is a folder that PEFT saved")
    config = jsonfile.read(file)
    other = [name for name in (*REFUSED, "fan_in_fan_out") if config.get(name)]
    if config.get("init_lora_weights") not in INITIALISED:
        other.append(f"init_lora_weights {config['init_lora_weights']}")
    if config.get("peft_type") != "LORA" or other:
        kind = ", ".join([str(config.get("peft_type")), *other])
        raise ValueError(f"{file}: {kind} adapters are not merged here; {ADVICE}")
    adapter = Weights.open(folder / "adapter_model.safetensors")
    replaced: dict[str, Change] = {}
    added: dict[str, Change] = {}
    shapes = {}
    for key in sorted(adapter.keys):
        name, _, part = key.removeprefix(WRAPPED).partition(".lora_")
        name = name.replace(".base_layer", "")
        if part in ("A.weight", "A.default.weight", "embedding_A"):
            other_key = key.replace("lora_A", "lora_B").replace("lora_embedding_A", "lora_embedding_B")
            scale = _scale(config, name, adapter.shape(key))
            added[f"{name}.weight"] = partial(_add, adapter, key, other_key, scale)
        elif not part:
            target = name.replace(".modules_to_save", "")
            replaced[target] = partial(_replace, adapter, key)
            shapes[target] = adapter.shape(key)
        elif not part.startswith(("B", "embedding_B")):
            raise ValueError(f"{folder}: {key} is not a LoRA weight; {ADVICE}")
    if tied and (both := sorted({EMBEDDING, HEAD} & added.keys())):
        raise ValueError(f"{folder}: adds to {both[0]}, which is the embedding and the head at once; {ADVICE}")
    if tied and not base.has(HEAD) and (HEAD in replaced or _alone(config)):
        base = base.copied(EMBEDDING, HEAD)
    strangers = sorted((replaced.keys() | added.keys()) - base.keys)
    if strangers:
        raise ValueError(
            f"{folder}: changes {strangers[0]}, which {base.source} lacks; is it the adapter's base model?"
        )
    change = replaced | {target: _after(replaced.get(target), add) for target, add in added.items()}
    return base.changed(change, shapes)


def _alone(config: dict[str, Any]) -> bool:
    """True where the embedding was trained as a module of its own, which the head does not follow."""
    saved = config.get("modules_to_save") or []
    return any(f".{EMBEDDING}".endswith(f".{name}.weight") for name in saved) and not config.get("ensure_weight_tying")


def _after(first: Change | None, then: Change) -> Change:
    return (lambda weight: then(first(weight))) if first else then


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
