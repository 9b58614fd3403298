"""Proves a bundle on the machine it runs on: the same inputs must give what they gave at export."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from voxport import bounds
from voxport.bounds import Bound
from voxport.bundle import Bundle
from voxport.manifest import Manifest
from voxport.rehearsal import Output, Rehearsal
from voxport.systems import open_model

GOLDEN = "golden/rehearsal.safetensors"

# What a damaged bundle can raise. Anything else is an error of ours, and none of these is shown as one.
DAMAGE = (ValueError, OSError, LookupError, SafetensorError)


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


def record(rehearsal: Rehearsal, bundle: Path) -> None:
    """Writes the outputs, which `verify` expects on other machines, into the folder of a bundle."""
    file = bundle / GOLDEN
    file.parent.mkdir(exist_ok=True)
    save_file({name: output.array for name, output in rehearsal.items()}, file)


def verify(path: Path, threads: int | None = None) -> list[Row]:
    """Rehearses every mode of the model. BrokenError: a file is corrupted or missing, or a graph does not run."""
    try:
        bundle = Bundle(path, check="always")
        expected = load_file(path / GOLDEN)
        outputs = open_model(bundle, threads).rehearse()
    except DAMAGE as error:
        raise BrokenError(str(error)) from error
    if outputs.keys() != expected.keys():
        recorded, now = (", ".join(sorted(names)) for names in (expected, outputs))
        raise BrokenError(f"{path / GOLDEN}: records {recorded}; this voxport rehearses {now}; export the bundle again")
    rows = []
    for name, output in outputs.items():
        bound = bound_of(output, bundle.manifest).absolute
        same = output.array.shape == expected[name].shape
        worst = float(np.abs(output.array - expected[name]).max(initial=0)) if same else float("inf")
        rows.append(Row(name, worst, bound, worst <= bound))  # a NaN fails
    return rows


def bound_of(output: Output, manifest: Manifest) -> Bound:
    """That of rounding activations if any stage on the way of the output rounds some, else that of float32."""
    return bounds.VERIFY_INT8 if any(_rounds(stage, manifest) for stage in output.stages) else bounds.VERIFY_FP32


def _rounds(stage: str, manifest: Manifest) -> bool:
    """Whether a stage has quantized products or caches."""
    caches = (manifest.recipe.kind(stage, name) for name in ("keys.0", "values.0"))
    return manifest.stages[stage].int8_ops > 0 or "int8cache" in caches
