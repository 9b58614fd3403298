"""Writes a checkpoint back as a release: a plain folder in bf16, for `voxport export t5gemma ... --to hf`.

As by upstream's scripts/export_t5gemma_voice_hf.py and its twin for LoRA, but with one tensor in memory, and without
upstream's two files of code, which are not ours to hand on.
"""

import fnmatch
import json
from pathlib import Path
from typing import Any

import torch

from voxport import atomic
from voxport_exporters.checkpoints import diskspace, shards
from voxport_exporters.systems.t5gemma.checkpoint import UNUSED, Checkpoint

CODE = {  # where transformers looks for the classes
    "AutoConfig": "configuration_t5gemma_voice.T5GemmaVoiceConfig",
    "AutoModelForSeq2SeqLM": "modeling_t5gemma_voice.T5GemmaVoiceForConditionalGeneration",
}
PRUNED = 2  # prune_text_modules: neither the text head nor the decoder's text table


def write_hf(checkpoint: Checkpoint, out: Path, most: int = shards.SHARD) -> str:
    """Writes the folder `out` atomically, with at most `most` bytes in a shard. Returns what to do before its use.

    Accounts for no keys: the same checkpoint can be exported afterwards.
    Raises FileExistsError when `out` holds anything, OSError when the disk has no room.
    """
    out = out.resolve()
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise FileExistsError(f"{out}: exists; name a new folder")
    weights = checkpoint.weights
    names = [key for key in sorted(weights.keys) if not any(fnmatch.fnmatch(key, pattern) for pattern in UNUSED)]
    shapes = {name: weights.shape(name) for name in names}
    diskspace.require(out, shards.size(shapes))
    with atomic.replacement(out) as folder, torch.no_grad():
        shards.write(folder, shapes, weights.stored, most)
        fields = _fields(checkpoint)
        _write(folder / "config.json", fields)
        ids = {key: fields[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
        _write(folder / "generation_config.json", {"_from_model_config": True, **ids})
    files = sorted({f"{name.partition('.')[0]}.py" for name in CODE.values()})
    return f"copy {' and '.join(files)} there from upstream's hf_export/ to load it with trust_remote_code"


def _fields(checkpoint: Checkpoint) -> dict[str, Any]:
    voice = checkpoint.config.voice
    return checkpoint.fields | {
        "architectures": [CODE["AutoModelForSeq2SeqLM"].partition(".")[2]],
        "auto_map": CODE,
        "dtype": "bfloat16",
        "text_input_type": "text",
        "prune_text_modules": PRUNED,
        "tie_word_embeddings": False,
        "tie_input_output_embeddings": False,
        "bos_token_id": voice.empty_token,
        "eos_token_id": voice.eos,
        "pad_token_id": voice.audio_pad_token,
    }


def _write(path: Path, fields: dict[str, Any]) -> None:
    path.write_text(json.dumps(fields, indent=2, sort_keys=True) + "\n")
