"""Checkpoints of upstream's trainer (steps/trainer.py): bundle.pth, a dict of `model` and `args` among others.

`model` holds the keys of a release under their own names. Of a LoRA run the text model in it is wrapped by PEFT: a
weight that the adapter adds to is `<module>.base_layer.weight`, beside `<module>.lora_A.default.weight` and `lora_B`.
`args` are the options of the run; upstream's scripts/export_t5gemma_voice_hf.py makes config.json of them.
"""

import argparse
import ast
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from voxport_exporters.checkpoints import torchfile
from voxport_exporters.checkpoints.jsonfile import short
from voxport_exporters.checkpoints.weights import Weights

BUNDLE = "bundle.pth"  # the name of the last one, in the folder of a run
WRAPPED = "backbone.base_model.model."  # PEFT's name of what it wraps
COPIES = ("encoder_module.", "decoder_module.")  # upstream's second names of the two stacks
KEYS = (  # of config.json, that are options of a run
    *("t5gemma_model_name", "attn_implementation", "precision", "prune_text_modules", "use_pm_rope", "n_codebooks"),
    *("audio_vocab_size", "n_special", "empty_token", "eog", "eos", "audio_pad_token", "audio_mask_token"),
    *("y_sep_token", "x_sep_token", "special_first", "encodec_sr", "progress_scale", "progress_lookahead_secs"),
    *("extra_cutoff", "text_guard_frames_per_token", "add_eos_to_text", "add_bos_to_text", "parallel_pattern"),
    *("audio_max_length", "audio_tokenizer", "xcodec2_model_name", "codec_audio_sr", "text_tokenizer_name"),
)
SPECIAL = ("empty_token", "eog", "audio_pad_token", "eos", "y_sep_token")  # the ids after the codes, in this order
LORA_ALPHA = 32.0  # of a run whose args lack it (models/t5gemma.py)
PRECISIONS = {"float16": torch.float16, "fp16": torch.float16, "bfloat16": torch.bfloat16, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Run:
    """One checkpoint of a run. The tensors have the precision of the run, as when upstream runs it."""

    path: Path
    args: Mapping[str, Any]
    weights: Weights  # by the names of a release; of a LoRA run without what the adapter adds
    adapter: Weights  # lora_A and lora_B, below the same names
    pairs: Mapping[str, tuple[str, str]]  # weight -> its lora_A and lora_B

    @property
    def alpha(self) -> float:
        alpha = self.args.get("lora_alpha", LORA_ALPHA)
        if not isinstance(alpha, int | float):
            raise ValueError(f"{self.path}: args: lora_alpha is {short(alpha)}, wanted a number")
        return float(alpha)

    def fields(self, release: Mapping[str, Any]) -> dict[str, Any]:
        """config.json as upstream's export writes it; `release`: what holds where the run's args say nothing."""
        options = {key: self.args[key] for key in KEYS if self.args.get(key) is not None}
        codes = options.get("audio_vocab_size", release.get("audio_vocab_size", 65536))
        if isinstance(codes, str):  # the option is a text, a number or a list of one
            codes = options["audio_vocab_size"] = _number(self.path, codes)
        first = codes[0] if isinstance(codes, list) and codes else codes
        special = {name: first + i for i, name in enumerate(SPECIAL)} if isinstance(first, int) else {}
        return special | dict(release) | options


def open_run(path: Path) -> Run:
    """Raises FileNotFoundError or ValueError that say in one line what is missing or wrong."""
    content = torchfile.load(path, argparse.Namespace)
    if not isinstance(content, dict) or "model" not in content:
        raise ValueError(f"{path}: no state dict under 'model'; is it a checkpoint of upstream's trainer?")
    args = content.get("args", {})
    args = vars(args) if isinstance(args, argparse.Namespace) else args
    if not isinstance(args, dict):
        raise ValueError(f"{path}: args are {short(args)}, wanted the options of the run")
    tensors = Weights.of_shells(path, content["model"])
    precision = args.get("precision", "float32")
    dtype = PRECISIONS.get(precision.lower(), torch.float32) if isinstance(precision, str) else torch.float32
    names = {_name(key): key for key in sorted(tensors.keys) if not key.startswith(COPIES)}
    pairs = {}
    for name in names:
        module, _, rest = name.partition(".lora_A.")
        if rest:
            pairs[f"{module}.weight"] = name, f"{module}.lora_B.{rest}"
    adapter = {name: names.pop(name) for pair in pairs.values() for name in pair if name in names}
    if extra := sorted({f"{name.split('.lora_')[0]}.weight" for name in names if ".lora_" in name}):
        raise ValueError(f"{path}: more than a LoRA update B A of {extra[0]}; merge with PEFT and export the result")
    return Run(path, args, tensors.renamed(names, dtype), tensors.renamed(adapter, dtype), pairs)


def _name(key: str) -> str:
    """The name in a release of a key of a state dict."""
    name = f"backbone.{key.removeprefix(WRAPPED)}" if key.startswith(WRAPPED) else key
    return name.replace(".base_layer.", ".")


def _number(path: Path, text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        raise ValueError(f"{path}: args: audio_vocab_size is {short(text)}, wanted a number") from None
