"""Reads a checkpoint key by key and accounts for every key.

    weights = Weights.open(path, inside="model")
    conv = weights.take("in_conv.0.weight", 512, 1, 48)      # shape from the config; a disagreement is an error
    layer = weights.at("mask_gen.encoder.dcc_layers.dcc_0")  # the same weights below a prefix
    weights.drop("mask_gen.decoder.pos_enc.pe", "a table the net computes itself")
    weights.finish()                                         # error: a key was neither taken nor dropped

Files are memory-mapped; a tensor is read when it is taken, so a checkpoint larger than memory can be walked.
A net whose large parameters are made with `later()` can be traced without reading them: see `deferring()`.
"""

import fnmatch
import itertools
import warnings
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from pathlib import Path

import msgspec
import safetensors
import torch
from torch import Tensor, nn

from voxport_exporters.checkpoints import jsonfile

Read = Callable[[str], Tensor]
Shape = Callable[[str], Iterable[int]]

_deferring: ContextVar[bool] = ContextVar("deferring", default=False)
_shapes_only: ContextVar[bool] = ContextVar("shapes_only", default=False)
_serial = itertools.count(1)


@contextmanager
def deferring() -> Iterator[None]:
    """Within: `later()` makes placeholders. A net built here takes no memory and can be traced, not run."""
    token = _deferring.set(True)
    try:
        yield
    finally:
        _deferring.reset(token)


def later(build: Callable[[], Tensor]) -> nn.Parameter:
    """A parameter with the values `build()`, which takes them from Weights.

    Under `deferring()` only its shape is worked out now (on the meta device: keys are accounted for, nothing is read);
    `built()` runs `build` again when the values are written, one parameter at a time.
    """
    if not _deferring.get():
        return nn.Parameter(build().contiguous(), requires_grad=False)
    token = _shapes_only.set(True)
    try:
        shape = build().shape
    finally:
        _shapes_only.reset(token)
    # One number in memory, repeated by strides; each its own, or the exporter would merge equal weights.
    placeholder = nn.Parameter(torch.full((1,), float(next(_serial))).expand(shape), requires_grad=False)
    placeholder.build = build  # type: ignore[attr-defined]
    placeholder.hollow = placeholder.data  # type: ignore[attr-defined]
    return placeholder


@contextmanager
def reading(net: nn.Module) -> Iterator[None]:
    """Within: a net made under `deferring()` can be run; each module reads its weights when called, then lets go."""
    hooks = []
    for module in net.modules():
        waiting = [p for p in module.parameters(recurse=False) if deferred(p)]
        if waiting:
            hooks += [
                module.register_forward_pre_hook(lambda _, __, own=waiting: _fill(own)),
                module.register_forward_hook(lambda _, __, ___, own=waiting: _empty(own)),
            ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _fill(parameters: list[nn.Parameter]) -> None:
    for parameter in parameters:
        parameter.data = built(parameter)


def _empty(parameters: list[nn.Parameter]) -> None:
    for parameter in parameters:
        parameter.data = parameter.hollow  # type: ignore[attr-defined]


def deferred(parameter: Tensor) -> bool:
    """True for a placeholder, whose values only `built()` knows."""
    return hasattr(parameter, "build")


def built(parameter: Tensor) -> Tensor:
    """The values of a parameter, read now if it is a placeholder."""
    return parameter.build().contiguous() if deferred(parameter) else parameter.detach()  # type: ignore[attr-defined]


class Weights:
    """The tensors of one checkpoint below a prefix. What is taken or dropped, the whole checkpoint knows."""

    def __init__(self, source: Path, keys: Iterable[str], read: Read, shape: Shape | None = None) -> None:
        """`read` and `shape` give a key's tensor and its sizes; without `shape` the tensor is read to know them."""
        self.source = source
        self._read = read
        self._shape = shape or (lambda key: read(key).shape)
        self._left = set(keys)  # shared with every view
        self._keys = frozenset(self._left)
        self._prefix = ""

    @classmethod
    def open(cls, path: Path, inside: str | None = None) -> "Weights":
        """A `.safetensors` file (or the folder or `.index.json` of a sharded one), or a torch `.pth/.pt/.bin/.ckpt`.

        `inside`: the key of the state dict in a torch file that holds more than the state dict.
        Raises FileNotFoundError, ValueError (not a checkpoint, truncated, foreign) in one line that names the file.
        """
        if path.is_dir():
            index = sorted(path.glob("*.safetensors.index.json"))
            single = sorted(path.glob("*.safetensors"))
            if not index and len(single) != 1:
                raise FileNotFoundError(f"{path}: wanted one .safetensors file or an index, found {len(single)} files")
            path = (index or single)[0]
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such checkpoint")
        if path.name.endswith(".safetensors.index.json"):
            return cls._sharded(path)
        if path.suffix == ".safetensors":
            shard = _open_safetensors(path)
            return cls(path, shard.keys(), partial(_get, path), lambda key: shard.get_slice(key).get_shape())
        return cls._pickled(path, inside)

    @classmethod
    def _sharded(cls, path: Path) -> "Weights":
        where = weight_map(path)
        shards = {name: _open_safetensors(path.parent / name) for name in sorted(set(where.values()))}
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
    def _pickled(cls, path: Path, inside: str | None) -> "Weights":
        try:
            with warnings.catch_warnings(action="ignore"):
                # Files of torch < 1.6 are no zip and cannot be mapped.
                held = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
        except OSError:
            raise
        except Exception as error:  # a damaged pickle fails in whatever it happens to call
            reason = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
            raise ValueError(f"{path}: not a whole torch checkpoint (truncated or foreign): {reason}") from None
        if inside is not None:
            if not isinstance(held, dict) or inside not in held:
                found = ", ".join(map(str, list(held)[:8])) if isinstance(held, dict) else type(held).__name__
                raise ValueError(
                    f"{path}: no state dict under '{inside}' (found {found}); is this the right checkpoint?"
                )
            held = held[inside]
        if not isinstance(held, dict) or not held or not all(isinstance(t, Tensor) for t in held.values()):
            raise ValueError(f"{path}: does not hold a dict of tensors; is this the right checkpoint?")
        return cls(path, held, held.__getitem__)

    def at(self, prefix: str) -> "Weights":
        """The same weights below `prefix.`"""
        view = object.__new__(Weights)
        view.__dict__.update(self.__dict__)
        view._prefix = f"{self._prefix}{prefix}."
        return view

    def has(self, name: str) -> bool:
        return self._prefix + name in self._keys

    @property
    def keys(self) -> frozenset[str]:
        """Every key of the checkpoint, in full."""
        return self._keys

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._shape(self._prefix + name))

    def take(self, name: str, *shape: int) -> Tensor:
        """The tensor `name` in float32, which must have `shape`; KeyError when missing, ValueError when not."""
        key = self._prefix + name
        if key not in self._keys:
            raise KeyError(f"{self.source}: lacks {key} {list(shape)}; is the config that of this checkpoint?")
        got = tuple(self._shape(key))
        if got != shape:
            raise ValueError(f"{self.source}: {key} has shape {list(got)}, the config says {list(shape)}")
        self._left.discard(key)
        if _shapes_only.get():
            return torch.empty(shape, device="meta")
        return self._read(key).detach().to(torch.float32)

    def folded(self, name: str, *shape: int) -> Tensor:
        """The weight of the weight-normed convolution `name`: g v / |v|, the norm over all axes but the first.

        Reads torch's names of either generation (`weight_g`, `weight_v` and `parametrizations.weight.original0/1`).
        """
        old = self.has(f"{name}.weight_g")
        g, v = ("weight_g", "weight_v") if old else (f"parametrizations.weight.original{i}" for i in (0, 1))
        scale = self.take(f"{name}.{g}", shape[0], *(1 for _ in shape[1:]))
        direction = self.take(f"{name}.{v}", *shape)
        norm: Tensor = torch.linalg.vector_norm(direction, dim=tuple(range(1, len(shape))), keepdim=True)
        return direction * (scale / norm)

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


def weight_map(path: Path) -> dict[str, str]:
    """key -> name of the shard beside `path`, a safetensors index, that holds it."""
    try:
        return msgspec.convert(jsonfile.read(path)["weight_map"], dict[str, str])
    except (KeyError, msgspec.ValidationError):
        raise ValueError(f"{path}: not a safetensors index (no weight_map)") from None


def _open_safetensors(path: Path) -> "safetensors.safe_open":
    try:
        return safetensors.safe_open(path, framework="pt")
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: no such checkpoint") from None
    except (safetensors.SafetensorError, OSError) as error:
        raise ValueError(f"{path}: not a whole safetensors file: {error}") from None
