"""What writes a random release: the tensors that nets ask for, safetensors written piece by piece, byte-level BPE.

Values are all different, so that neither the page cache nor onnxruntime can share any, and sized so that a signal
neither dies nor explodes on its way.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from voxport_exporters.checkpoints.weights import Weights

PIECE = 1 << 22  # values in memory at a time
Shapes = dict[str, tuple[int, ...]]
Spread = Callable[[str, tuple[int, ...]], tuple[float, float]]
Constants = Mapping[str, np.ndarray[Any, np.dtype[np.float32]]]  # tensors that are not random, by name


class Recorder(Weights):
    """Has every key of every shape, and notes what is taken. Weight norms have torch's newer names."""

    def __init__(self) -> None:
        self.source, self.shapes, self._prefix = Path("release"), Shapes(), ""

    def has(self, name: str) -> bool:
        return not name.endswith(("weight_g", "weight_v"))

    def take(self, name: str, *shape: int) -> Tensor:
        self.shapes[self._prefix + name] = shape
        return torch.zeros(1).expand(shape)

    def drop(self, pattern: str, why: str) -> None:
        pass

    def finish(self) -> None:
        pass


def spread(name: str, shape: tuple[int, ...]) -> tuple[float, float]:
    """(mean, standard deviation) of a tensor of a transformer: norms about 1, matrices by the root of their inputs."""
    if len(shape) == 1 and "norm" in name and "weight" in name:
        return 1.0, 0.05
    if "embedding" not in name and len(shape) > 1:
        return 0.0, float(int(np.prod(shape[1:])) ** -0.5)
    return 0.0, 0.02


def save(
    path: Path, shapes: Shapes, seed: int, half: bool, spread: Spread = spread, constants: Constants | None = None
) -> None:
    """A safetensors file of normal random values, in bf16 or float32, written piece by piece. `constants` are written
    as they are."""
    size, constants = 2 if half else 4, constants or {}
    header, at = {}, 0
    for name in sorted(shapes):
        length = int(np.prod(shapes[name])) * size
        header[name] = {"dtype": "BF16" if half else "F32", "shape": shapes[name], "data_offsets": [at, at + length]}
        at += length
    text = json.dumps(header | {"__metadata__": {"format": "pt"}}).encode()
    text += b" " * (-len(text) % 8)
    random = np.random.default_rng(seed)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in sorted(shapes):
            count = int(np.prod(shapes[name]))
            mean, deviation = spread(name, shapes[name])
            for start in range(0, count, PIECE):
                piece = random.standard_normal(min(PIECE, count - start), np.float32)
                values = mean + np.float32(deviation) * piece
                if name in constants:
                    values = constants[name].reshape(-1)[start : start + PIECE]
                file.write(((values.view(np.uint32) >> 16).astype(np.uint16) if half else values).data)


def save_shards(folder: Path, shapes: Shapes, seed: int, limit: int, spread: Spread = spread) -> None:
    """model-0000i-of-0000n.safetensors of at most `limit` bytes each, in bf16, and their index; in the order of
    `shapes`, as transformers' save_pretrained splits a model. A single one is model.safetensors, without an index."""
    shards, room = [Shapes()], limit
    for name, shape in shapes.items():
        size = 2 * int(np.prod(shape))
        if size > room and shards[-1]:
            shards.append(Shapes())
            room = limit
        shards[-1][name] = shape
        room -= size
    if len(shards) == 1:
        save(folder / "model.safetensors", shapes, seed, half=True, spread=spread)
        return
    files: dict[str, str] = {}
    for i, shard in enumerate(shards):
        file = f"model-{i + 1:05}-of-{len(shards):05}.safetensors"
        save(folder / file, shard, seed + i, half=True, spread=spread)
        files |= dict.fromkeys(shard, file)
    count = sum(int(np.prod(shape)) for shape in shapes.values())
    metadata = {"total_parameters": count, "total_size": 2 * count}
    save_json(folder / "model.safetensors.index.json", {"metadata": metadata, "weight_map": files})


def save_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def byte_letters() -> list[str]:
    """The 256 bytes as byte-level BPE writes them: printable ones first, the others from U+0100 on."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    return [*map(chr, printable), *(chr(256 + i) for i in range(256 - len(printable)))]


def byte_pairs(count: int, words: tuple[str, ...] = ()) -> tuple[list[str], list[tuple[str, str]]]:
    """`letter_pairs` of the 256 bytes."""
    return letter_pairs(byte_letters(), count, words)


def letter_pairs(
    letters: list[str], count: int, words: tuple[str, ...] = ()
) -> tuple[list[str], list[tuple[str, str]]]:
    """(tokens, merges) of a vocabulary of `count`: the letters, `words` letter by letter, then any two letters, any
    three and so on, as far as there is room."""
    merges = [(word[:i], word[i]) for word in words for i in range(1, len(word))]
    tokens = letters + ["".join(pair) for pair in merges]
    known = set(tokens)
    for first in tokens:  # grows as it goes
        for letter in letters:
            if len(tokens) < count and first + letter not in known:
                known.add(first + letter)
                tokens.append(first + letter)
                merges.append((first, letter))
        if len(tokens) == count:
            break
    return tokens, merges
