"""Reads a checkpoint key by key and accounts for every key.

    weights = Weights.open(path, inside="model")
    conv = weights.take("in_conv.0.weight", 512, 1, 48)      # shape from the config; a disagreement is an error
    layer = weights.at("mask_gen.encoder.dcc_layers.dcc_0")  # the same weights below a prefix
    weights.drop("mask_gen.decoder.pos_enc.pe", "a table the net computes itself")
    weights.finish()                                         # error: a key was neither taken nor dropped

A tensor is read when it is taken, so a checkpoint larger than memory can be walked.
A net whose large parameters are made with `later()` can be traced without reading them: see later.py.
"""

import fnmatch
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Self

import safetensors
import torch
from torch import Tensor

from voxport_exporters.checkpoints import folder, torchfile
from voxport_exporters.checkpoints.later import shapes_only

Read = Callable[[str], Tensor]
Shape = Callable[[str], Iterable[int]]


class Weights:
    """The tensors of one checkpoint below a prefix. All views of a checkpoint share the account of its keys."""

    def __init__(self, source: Path, keys: Iterable[str], read: Read, shape: Shape | None = None) -> None:
        """`read` and `shape` give a key's tensor and its sizes; without `shape` the tensor is read to know them."""
        self.source = source
        self._read = read
        self._shape = shape or (lambda key: read(key).shape)
        self._left = set(keys)  # shared with every view
        self._keys = frozenset(self._left)
        self._prefix = ""

    @classmethod
    def open(cls, path: Path, inside: str | None = None, *, strangers: bool = False) -> "Weights":
        """A `.safetensors` file (or the folder or `.index.json` of a sharded one), or a torch `.pth/.pt/.bin/.ckpt`.

        `inside`: the key of the state dict in a torch file that holds more than the state dict; `strangers`: whatever
        that is (torchfile.py).
        Raises FileNotFoundError, ValueError (not a checkpoint, truncated, foreign) in one line that names the file.
        """
        if path.is_dir():
            path = folder.weights(path)
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such checkpoint")
        if path.name.endswith(".safetensors.index.json"):
            return cls._sharded(path)
        if path.suffix == ".safetensors":
            shard = _open_safetensors(path)
            return cls(path, shard.keys(), partial(_get, path), lambda key: shard.get_slice(key).get_shape())
        return cls._pickled(path, inside, strangers)

    @classmethod
    def _sharded(cls, path: Path) -> "Weights":
        where = folder.weight_map(path)
        names = sorted(set(where.values()))
        if missing := [name for name in names if not (path.parent / name).is_file()]:
            raise FileNotFoundError(f"{path}: lacks {len(missing)} of its {len(names)} shards: {', '.join(missing)}")
        shards = {name: _open_safetensors(path.parent / name) for name in names}
        for key, name in where.items():
            if key not in shards[name].keys():  # noqa: SIM118 - not a dict
                raise ValueError(f"{path.parent / name}: lacks {key}, which {path.name} says it holds")
        return cls(
            path,
            where,
            lambda key: _get(path.parent / where[key], key),
            lambda key: shards[where[key]].get_slice(key).get_shape(),
        )

    @classmethod
    def _pickled(cls, path: Path, inside: str | None, strangers: bool) -> "Weights":
        content = torchfile.load(path, strangers=strangers)
        if inside is not None:
            if not isinstance(content, dict) or inside not in content:
                found = ", ".join(map(str, list(content)[:8])) if isinstance(content, dict) else type(content).__name__
                raise ValueError(
                    f"{path}: no state dict under '{inside}' (found {found}); is this the right checkpoint?"
                )
            content = content[inside]
        return cls.of_shells(path, content)

    @classmethod
    def of_shells(cls, path: Path, shells: object) -> "Weights":
        """A state dict that `torchfile.load(path)` gave. Raises ValueError when it is none."""
        if not isinstance(shells, dict) or not shells or not all(isinstance(t, Tensor) for t in shells.values()):
            raise ValueError(f"{path}: does not hold a dict of tensors; is this the right checkpoint?")
        return cls(path, shells, lambda key: torchfile.read(path, shells[key]), lambda key: shells[key].shape)

    def at(self, prefix: str) -> Self:
        """The same weights below `prefix.`"""
        view = object.__new__(type(self))
        view.__dict__.update(self.__dict__)
        view._prefix = f"{self._prefix}{prefix}."
        return view

    def key(self, name: str) -> str:
        """The key of the tensor `name` in full."""
        return self._prefix + name

    def has(self, name: str) -> bool:
        return self._prefix + name in self._keys

    @property
    def keys(self) -> frozenset[str]:
        """Every key of the checkpoint, in full."""
        return self._keys

    def shape(self, name: str) -> tuple[int, ...]:
        """The sizes of the tensor `name`. Raises ValueError when the checkpoint lacks it."""
        key = self._prefix + name
        if key not in self._keys:
            raise ValueError(f"{self.source}: lacks {key}; is this the right checkpoint?")
        return tuple(self._shape(key))

    def take(self, name: str, *shape: int) -> Tensor:
        """The tensor `name` in float32. Raises ValueError when it is missing or has another shape than `shape`."""
        key = self._prefix + name
        if key not in self._keys:
            raise ValueError(f"{self.source}: lacks {key} {list(shape)}; is the config that of this checkpoint?")
        found = tuple(self._shape(key))
        if found != shape:
            raise ValueError(f"{self.source}: {key} has shape {list(found)}, the config says {list(shape)}")
        self._left.discard(key)
        if shapes_only():
            return torch.empty(shape, device="meta")
        return self._read(key).detach().to(torch.float32)

    def folded(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """The weight-normed weight below this prefix: g v / |v| in `dtype`, the norm over all axes but the first.

        Reads torch's names of either generation (`weight_g`, `weight_v` and `parametrizations.weight.original0/1`).
        """
        old = ("weight_g", "weight_v")
        g, v = old if self.has("weight_g") else (f"parametrizations.weight.original{i}" for i in (0, 1))
        scale = self.take(g, shape[0], *(1 for _ in shape[1:])).to(dtype)
        direction = self.take(v, *shape).to(dtype)
        norm: Tensor = torch.linalg.vector_norm(direction, dim=tuple(range(1, len(shape))), keepdim=True)
        return direction * (scale / norm)

    def stored(self, name: str) -> Tensor:
        """The tensor `name` as the file holds it, in its own dtype. It stays to be accounted for."""
        return self._read(self._prefix + name).detach()

    def changed(
        self, change: Mapping[str, Callable[[Tensor], Tensor]], shapes: Mapping[str, Iterable[int]]
    ) -> "Weights":
        """The same keys, of which some are changed as they are read; `shapes` of those whose shape changes too."""
        read, shape = self._read, self._shape
        return Weights(
            self.source,
            self._keys,
            lambda key: change[key](read(key)) if key in change else read(key),
            lambda key: shapes.get(key) or shape(key),
        )

    def renamed(self, names: Mapping[str, str], dtype: torch.dtype | None = None) -> "Weights":
        """Those of the keys that `names`, new name -> key, lists; the tensors in `dtype` if there is one."""
        read, shape = self._read, self._shape
        return Weights(
            self.source,
            names,
            lambda name: read(names[name]).to(dtype) if dtype else read(names[name]),
            lambda name: shape(names[name]),
        )

    def copied(self, source: str, name: str) -> "Weights":
        """The same keys and `name`, which holds what `source` holds."""
        read, shape = self._read, self._shape
        return Weights(
            self.source,
            self._keys | {name},
            lambda key: read(source if key == name else key),
            lambda key: shape(source if key == name else key),
        )

    def drop(self, pattern: str, why: str) -> None:
        """Accounts for keys that are not needed; `pattern` as in file names. The reason is for the reader."""
        assert why
        self._left -= set(fnmatch.filter(self._left, self._prefix + pattern))

    def finish(self) -> None:
        """ValueError when a key was neither taken nor dropped."""
        if self._left:
            extra = sorted(self._left)
            more = f" and {len(extra) - 4} more" if len(extra) > 4 else ""
            raise ValueError(
                f"{self.source}: holds {', '.join(extra[:4])}{more}, which this net does not know; "
                "is the config that of this checkpoint?"
            )


def _get(path: Path, key: str) -> Tensor:
    """Opened anew for each tensor, so the pages it maps leave memory with it."""
    tensor: Tensor = _open_safetensors(path).get_tensor(key)
    return tensor


def _open_safetensors(path: Path) -> "safetensors.safe_open":
    try:
        return safetensors.safe_open(path, framework="pt")
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: no such checkpoint") from None
    except (safetensors.SafetensorError, OSError) as error:
        raise ValueError(f"{path}: not a whole safetensors file: {error}") from None
