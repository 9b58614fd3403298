"""Files that torch.save() wrote, read without running code, and tensor by tensor.

content = load(path)               # the objects; tensors are shells that have a shape and a dtype, and no values
tensor = read(path, content["w"])  # the values of one of them

Nothing stays mapped: a file that is larger than memory can be walked, and what was read leaves memory with its tensor.
"""

import math
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


class Stranger(dict[Any, Any]):
    """Stands for an object of a class that is not at hand, and runs none of its code."""

    def __init__(self, *_: object) -> None:
        super().__init__()

    def __setstate__(self, state: object) -> None:
        """What is stored of the object is left in the file."""


def load(path: Path, *classes: type, strangers: bool = False) -> Any:
    """What the file holds. `classes`: plain classes of data that may be among it, beside torch's and Python's own.

    `strangers`: objects of all other classes, such as the settings that a trainer keeps beside its weights, become
    Strangers. Without it they are an error.
    Files of torch < 1.6 are no zip; their tensors come with their values.
    Raises FileNotFoundError, or ValueError in one line that names the file (truncated, foreign, holds code).
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such checkpoint")
    device = "meta" if zipfile.is_zipfile(path) else "cpu"
    known: list[Any] = [*classes]
    try:
        if strangers:
            known += [(Stranger, name) for name in torch.serialization.get_unsafe_globals_in_checkpoint(path)]
        with warnings.catch_warnings(action="ignore"), torch.serialization.safe_globals(known):
            return torch.load(path, map_location=device, weights_only=True)
    except OSError:
        raise
    except Exception as error:  # a damaged pickle fails in whatever it happens to call
        reason = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
        raise ValueError(f"{path}: not a whole torch checkpoint (truncated or foreign): {reason}") from None


def read(path: Path, shell: Tensor) -> Tensor:
    """The values of a tensor that `load(path)` gave. Raises ValueError when the file ends before them."""
    if shell.device.type != "meta":
        return shell.detach()
    # torch's reader notes where in the file a storage lies when it does not read it; torch's version is pinned.
    storage = shell.untyped_storage()._checkpoint_offset
    assert storage is not None
    start = storage + int(shell.storage_offset()) * shell.element_size()
    count = 1 + sum((size - 1) * step for size, step in zip(shell.shape, shell.stride(), strict=True))
    content = bytearray(count * shell.element_size() if math.prod(shell.shape) else 0)
    with path.open("rb") as file:
        file.seek(start)
        if file.readinto(content) != len(content):
            raise ValueError(f"{path}: ends in the middle of a tensor; is it a whole file?")
    if not content:
        return torch.empty(shell.shape, dtype=shell.dtype)
    return torch.frombuffer(content, dtype=shell.dtype).as_strided(shell.shape, shell.stride())
