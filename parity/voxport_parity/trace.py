"""Trace: the named arrays of one run, in the layout of upstream's goldens."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

Trace = dict[str, np.ndarray]


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
            return cls(load_file(file), notes, folder)
        except (SafetensorError, ValueError) as error:
            raise ValueError(f"{file}: not a golden of this project: {error}") from None

    def meaning(self, name: str) -> str:
        """What the notes say a tensor is; empty when they say nothing."""
        return str(self.notes.get("tensors", {}).get(name, {}).get("meaning", ""))
