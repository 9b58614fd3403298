"""Trace: the named arrays of one run, in the layout of upstream's goldens."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

Trace = dict[str, np.ndarray]


class _Held(dict[str, Any]):
    """What a file holds; asked for anything else, it names the file."""

    def __init__(self, held: dict[str, Any], file: Path) -> None:
        super().__init__(held)
        self._file = file

    def __missing__(self, name: str) -> Any:
        raise KeyError(f"{self._file}: lacks {name}; is it the golden of this checkpoint?")


class Golden:
    """What upstream's own code computed for a checkpoint: tensors by name, and notes on how they were made."""

    def __init__(self, tensors: Trace, notes: dict[str, Any], folder: Path) -> None:
        self.tensors, self.notes, self.folder = tensors, notes, folder

    @classmethod
    def of(cls, folder: Path) -> "Golden | None":
        """golden.safetensors and golden.json of a checkpoint folder; None when it has none."""
        file = folder / "golden.safetensors"
        if not file.is_file():
            return None
        try:
            notes = json.loads((folder / "golden.json").read_text())
            return cls(_Held(load_file(file), file), _Held(notes, folder / "golden.json"), folder)
        except (SafetensorError, ValueError, TypeError) as error:
            raise ValueError(f"{file}: not a golden of this project: {error}") from None

    def meaning(self, name: str) -> str:
        """What the notes say a tensor is; empty when they say nothing."""
        return str(self.notes.get("tensors", {}).get(name, {}).get("meaning", ""))
