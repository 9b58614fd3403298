"""LoRA adapters of the text model, in either form that upstream has: its trainer's bundle.pth, or a folder of PEFT.

Both are merged as upstream's scripts/export_t5gemma_voice_hf_lora.py does, rounded to the same bits.
"""

import math
import re
from pathlib import Path

import torch

from voxport_exporters.checkpoints import jsonfile
from voxport_exporters.checkpoints.lora import FILES, WRAPPED, merge, merge_pairs
from voxport_exporters.checkpoints.weights import Weights
from voxport_exporters.systems.t5gemma.trainer import Run

PLACE = "backbone."  # of the model that upstream wraps; PEFT's names begin below it
REPOSITORY = re.compile(r"[\w-][\w.-]*/([\w.-]+)")
COMPARED = 100_000_000  # numbers; of a model of 2 x 2 billion all norms and some tens of matrices
SAME = 1 / 64  # bf16 or fp16 of one number differ by less from each other, relatively


def merged_run(run: Run) -> Weights:
    """The weights of a run, with its adapter merged if it has one."""
    return merge_pairs(run.weights, run.adapter, run.pairs, run.alpha) if run.pairs else run.weights


def merged_lora(run: Run, base: Weights | None) -> Weights:
    """The weights of a LoRA run, merged. `base`: what it was trained on, where that is at hand.

    A file of a run that lacks what it was trained on is merged into `base`.
    Raises ValueError in one line when the run has no adapter, or one of another base.
    """
    if not run.pairs:
        raise ValueError(f"{run.path}: holds no LoRA weights; a checkpoint of the whole model is named with --weights")
    if base is None:
        return merged_run(run)
    if run.pairs.keys() <= run.weights.keys:
        _check_same(run, base)
        return merged_run(run)
    return merge_pairs(base, run.adapter, run.pairs, run.alpha)


def merged_folder(base: Weights, folder: Path, backbone: object) -> Weights:
    """`base` with the adapter merged that PEFT saved in `folder`. `backbone`: the config's name of the text model.

    Raises FileNotFoundError or ValueError in one line when it is of another kind or base.
    """
    weights = merge(base, folder, tied=False, rounded=True, place=PLACE)
    config, tensors = (folder / name for name in FILES)
    if any(key.startswith(WRAPPED + PLACE) for key in Weights.open(tensors).keys):
        return weights  # of a whole T5Gemma-TTS; its name is not that of the text model
    own = jsonfile.read(config).get("base_model_name_or_path")
    names = [_repository(name) for name in (own, backbone)]
    if None not in names and names[0] != names[1]:
        raise ValueError(f"{config}: an adapter of {own}, and this model was made from {backbone}")
    return weights


def _repository(name: object) -> str | None:
    """The name of a repository of the hub without its owner. A path says nothing about the model in it."""
    match = REPOSITORY.fullmatch(name) if isinstance(name, str) else None
    return match[1].lower() if match else None


def _check_same(run: Run, base: Weights) -> None:
    """Raises ValueError when the run's frozen weights are not those of `base`: the smallest COMPARED numbers of them.

    An adapter changes none of these; they differ by the rounding to the run's precision alone.
    """
    shapes = {key: run.weights.shape(key) for key in run.weights.keys & base.keys}
    if shapes and (unknown := sorted(run.pairs.keys() - base.keys)):
        raise _other(run.path, base, unknown[0])
    count = 0
    for key in sorted(shapes, key=lambda key: (math.prod(shapes[key]), key)):
        count += math.prod(shapes[key])
        if count > COMPARED:
            return
        if shapes[key] != base.shape(key):
            raise _other(run.path, base, key)
        first, second = run.weights.stored(key).float(), base.stored(key).float()
        if not torch.allclose(first, second, rtol=SAME, atol=1e-6):
            raise _other(run.path, base, key)


def _other(path: Path, base: Weights, key: str) -> ValueError:
    return ValueError(f"{path}: its LoRA was trained on another base than {base.source}: {key} differs")
