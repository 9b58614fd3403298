"""Writes a bundle: trace every part, quantize by recipe, measure, save, hash, and record what happened."""

import importlib.metadata
import platform
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import onnx
from onnx import numpy_helper
from tqdm import tqdm

import voxport
from voxport.bundle import FORMAT, Bundle, Manifest, Source, StageRecord, record, writing
from voxport_exporters import quantize
from voxport_exporters.part import Part, check, export
from voxport_exporters.recipe import Recipe

# A quantized layer below these fails the gate (`--gate`), or is warned about.
LEAST_DB = 30.0
LEAST_SPEED_UP = 1.05
TOOLS = ("torch", "onnx", "onnxscript", "onnxruntime")
INLINE = 1024  # initializers of fewer bytes stay inside the graph file


@dataclass(frozen=True)
class Job:
    """What one system hands over to be packed."""

    system: str
    variant: str
    sample_rate: int
    parts: Iterable[Part]
    checkpoint: tuple[Path, ...]  # the files the parts were read from
    root: Path  # names in the manifest are relative to it
    schedule: dict[str, int] = field(default_factory=dict)
    golden: Callable[[Bundle, Path], None] | None = None  # writes golden/ by running the bundle


def pack(job: Job, out: Path, recipe: Recipe, target: str, gate: bool = False) -> list[str]:
    """Writes the bundle `out` atomically. Returns warnings. Raises FileExistsError when `out` is something else."""
    warnings: list[str] = []
    with writing(out) as (folder, write):
        stages = {}
        for part in tqdm(job.parts, desc="export", unit="graph", disable=not sys.stderr.isatty(), delay=1):
            stages[part.stage.name] = _stage(part, folder, recipe, target, gate, warnings)
        manifest = Manifest(
            format=FORMAT,
            system=job.system,
            variant=job.variant,
            sample_rate=job.sample_rate,
            target=target,
            recipe=recipe.name,
            source=Source(files={_relative(p, job.root): record(p) for p in job.checkpoint}),
            tools={"voxport": voxport.__version__, "python": platform.python_version()}
            | {name: importlib.metadata.version(name) for name in TOOLS},
            stages=stages,
            files={},
            schedule=job.schedule,
        )
        write(manifest)
        if job.golden is not None:
            (folder / "golden").mkdir()
            job.golden(Bundle(folder), folder / "golden")
        kept = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != "manifest.json")
        for file in kept:
            file.chmod(0o644)  # some writers make private files
        files = {p.relative_to(folder).as_posix(): record(p) for p in kept}
        write(msgspec.structs.replace(manifest, files=files))
    return warnings


def _relative(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.name


def _stage(part: Part, folder: Path, recipe: Recipe, target: str, gate: bool, warnings: list[str]) -> StageRecord:
    name = part.stage.name
    model = export(part, target)
    values = {i.name: i for i in model.graph.initializer}
    flops = part.flops()
    cost = {x: flops.get(x.weight.rpartition(".")[0], 0) for x in quantize.layers(model)}
    chosen = [x for x in cost if recipe.kind(name, x.weight) == "int8"]
    error = speed = None
    if chosen:
        error, worst = min((quantize.error_db(numpy_helper.to_array(values[x.weight])), x.weight) for x in chosen)
        largest = max(chosen, key=lambda x: cost[x])
        rows = max(1, cost[largest] // (2 * largest.shape[0] * largest.shape[1]))
        speed = quantize.speed_up(largest.shape, rows, target)
        failed = [f"{worst} keeps {error:.1f} dB of {LEAST_DB:.0f}"] if error < LEAST_DB else []
        failed += [f"{largest.weight} runs x{speed:.2f} of fp32"] if speed < LEAST_SPEED_UP else []
        warnings += [f"stage {name}, int8: {why}" + ("; kept fp32" if gate else "") for why in failed]
        if failed and gate:
            chosen = []
    if chosen:
        quantize.int8(model, {x.weight for x in chosen}, target)
        check(model, part.stage, target)
    eight = sum(cost[x] for x in chosen)
    stage = StageRecord(
        weight_bytes=sum(numpy_helper.to_array(i).nbytes for i in model.graph.initializer),
        flops=flops[""] - eight,
        int8_ops=eight,
        error_db=error if chosen else None,
        speed_up=speed if chosen else None,
    )
    _save(
        model, folder / f"{name}.onnx", {"voxport.stage": name, "voxport.recipe": recipe.name, "voxport.target": target}
    )
    return stage


def _save(model: onnx.ModelProto, path: Path, metadata: dict[str, str]) -> None:
    for key, value in metadata.items():
        model.metadata_props.add(key=key, value=value)
    large = any(len(i.raw_data) >= INLINE for i in model.graph.initializer)
    onnx.save_model(
        model,
        path,
        save_as_external_data=large,
        location=f"{path.name}.data",
        size_threshold=INLINE,
        all_tensors_to_one_file=True,
    )
