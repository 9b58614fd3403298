"""Writes a checkpoint as transformers' save_pretrained() does: safetensors in shards, with one tensor in memory."""

import json
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from math import prod
from pathlib import Path

import torch
from torch import Tensor

from voxport_exporters.checkpoints.folder import INDEX

SHARD = 5_000_000_000  # bytes of tensors; transformers' default
BFLOAT16 = 2  # bytes
ALIGN = 8  # of the tensors in a safetensors file

Shapes = Mapping[str, Sequence[int]]


def write(folder: Path, shapes: Shapes, read: Callable[[str], Tensor], most: int = SHARD) -> None:
    """Writes the tensors `read(name)` of `shapes` in bf16, at most `most` bytes to a file or one tensor.

    model.safetensors; or model-00001-of-00002.safetensors and so on, with model.safetensors.index.json.
    """
    shards = list(_shards(shapes, most))
    names = [f"model-{i:05d}-of-{len(shards):05d}.safetensors" for i in range(1, len(shards) + 1)]
    names = names if len(shards) > 1 else ["model.safetensors"]
    for name, shard in zip(names, shards, strict=True):
        _write_shard(folder / name, shard, read)
    if len(shards) > 1:
        where = {key: name for name, shard in zip(names, shards, strict=True) for key in shard}
        numbers = sum(map(prod, shapes.values()))
        metadata = {"total_parameters": numbers, "total_size": size(shapes)}
        index = json.dumps({"metadata": metadata, "weight_map": dict(sorted(where.items()))}, indent=2)
        (folder / f"model{INDEX}").write_text(f"{index}\n")


def size(shapes: Shapes) -> int:
    """Bytes of the tensors."""
    return BFLOAT16 * sum(map(prod, shapes.values()))


def _shards(shapes: Shapes, most: int) -> Iterator[Shapes]:
    """The tensors in order, a new shard where the next one would be too much."""
    shard: dict[str, Sequence[int]] = {}
    for name, shape in shapes.items():
        if shard and size(shard) + size({name: shape}) > most:
            yield shard
            shard = {}
        shard[name] = shape
    yield shard


def _write_shard(path: Path, shapes: Shapes, read: Callable[[str], Tensor]) -> None:
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    start = 0
    for name, shape in shapes.items():
        end = start + size({name: shape})
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [start, end]}
        start = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % ALIGN)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name, shape in shapes.items():
            tensor = read(name).to(torch.bfloat16).contiguous()
            assert tuple(tensor.shape) == tuple(shape)
            file.write(tensor.reshape(-1).view(torch.uint8).numpy().data)
