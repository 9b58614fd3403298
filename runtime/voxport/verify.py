"""Proves a bundle on the machine it runs on: the same inputs must give what they gave at export."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from voxport import bounds
from voxport.bundle import Bundle
from voxport.systems import open_model


class BrokenError(ValueError):
    """The bundle cannot even be run."""


@dataclass(frozen=True)
class Row:
    """One output against its record."""

    name: str
    max_abs: float
    bound: float
    ok: bool

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def verify(path: Path, threads: int | None = None) -> list[Row]:
    """Rehearses every mode of the model. BrokenError: a file is corrupted or missing, or a graph does not run."""
    file = path / "golden" / "rehearsal.safetensors"
    try:
        model = open_model(Bundle(path, check="always"), threads)
        manifest = model.bundle.manifest
        wanted = load_file(file)
        made = model.rehearse()
    except Exception as error:  # onnxruntime's and safetensors' own exception types are not all public
        raise BrokenError(str(error)) from error
    if made.keys() != wanted.keys():
        held, now = (", ".join(sorted(names)) for names in (wanted, made))
        raise BrokenError(f"{file}: records {held}; this voxport rehearses {now}; export the bundle again")
    quantized = any(stage.int8_ops for stage in manifest.stages.values())
    bound = (bounds.VERIFY_INT8 if quantized else bounds.VERIFY_FP32).absolute
    rows = []
    for name, got in made.items():
        same = got.shape == wanted[name].shape
        worst = float(np.abs(got - wanted[name]).max(initial=0)) if same else float("inf")
        rows.append(Row(name, worst, bound, worst <= bound))  # a NaN fails
    return rows
