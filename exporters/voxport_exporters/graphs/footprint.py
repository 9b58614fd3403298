"""How many bytes the weights of a bundle will take, told from their shapes before anything is written."""

import math
from collections.abc import Iterable

import torch

from voxport.recipe import BLOCKWISE, Kind, Recipe
from voxport_exporters.graphs.part import Part

FLOAT = 4
BYTES: dict[Kind, float] = {"fp32": FLOAT, "fp16": 2, "fp16row": 2, "int4": 0.5, "hqq4": 0.5}  # all other kinds: 1


def footprint(parts: Iterable[Part], recipe: Recipe) -> int:
    """Bytes of the parameters as `recipe` would store them, if every rule applies that names a matrix: no more than
    what a bundle takes. Stages of the same parameters are taken for one net in two forms, which share them.
    """
    stages = set()
    for part in parts:
        name = part.stage.name
        named = part.net.named_parameters()
        stages.add(frozenset((key, p.shape, recipe.of(name, key).kind, recipe.of(name, key).block) for key, p in named))
    return sum(_size(shape, kind, block) for stage in stages for _, shape, kind, block in stage)


def _size(shape: torch.Size, kind: Kind, block: int) -> int:
    count = shape.numel()
    if len(shape) < 2:
        return FLOAT * count
    size = BYTES.get(kind, 1)
    scales = count / block * (FLOAT + size) if kind in BLOCKWISE else 0  # and zero points
    return math.floor(size * count + scales)
