"""Trace: the named arrays of one run, in the layout of upstream's goldens."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

Trace = dict[str, np.ndarray]


class _Contents(dict[str, Any]):
    """The contents of a file. Asked for anything else, it raises KeyError naming the file."""

    def __init__(self, contents: dict[str, Any], file: Path) -> None:
        super().__init__(contents)
        self._file = file

    def __missing__(self, name: str) -> Any:
        raise KeyError(f"{self._file}: lacks {name}; is it the golden of this checkpoint?")


class Golden:
    """What upstream's own code computed for a checkpoint: tensors by name, and notes on how they were made.

    `folder` is that of the checkpoint, with the recordings the notes name; None for inputs made up here.
    """

    def __init__(self, tensors: Trace, notes: dict[str, Any], folder: Path | None) -> None:
        self.tensors, self.notes, self.folder = tensors, notes, folder

    @classmethod
    def of(cls, folder: Path) -> "Golden | None":
        """golden.safetensors and golden.json of a checkpoint folder; None when it has none."""
        file = folder / "golden.safetensors"
        if not file.is_file():
            return None
        try:
            notes = json.loads((folder / "golden.json").read_text())
            return cls(_Contents(load_file(file), file), _Contents(notes, folder / "golden.json"), folder)
        except (SafetensorError, ValueError, TypeError) as error:
            raise ValueError(f"{file}: not a golden of this project: {error}") from None

    def meaning(self, name: str) -> str:
        """What the notes say a tensor is; empty when they say nothing."""
        return str(self._about().get(name, {}).get("meaning", ""))

    def meanings(self) -> Iterator[tuple[str, str]]:
        """(name, meaning) of every tensor in the notes, also of those that are not in the file."""
        return ((name, self.meaning(name)) for name in self._about())

    def _about(self) -> dict[str, Any]:
        about: dict[str, Any] = self.notes.get("tensors", {})
        return about
