"""Writes a bundle: trace every part, quantize by recipe, measure, save, hash, and record what happened."""

import importlib.metadata
import platform
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import onnx
from onnx import numpy_helper
from tqdm import tqdm

import voxport
from voxport.bundle import Bundle, writing
from voxport.checksums import record
from voxport.manifest import FORMAT, MANIFEST, Fidelity, FileRecord, Manifest, Setting, Source, StageRecord
from voxport.recipe import Recipe, Rule
from voxport_exporters.checkpoints import lockfile
from voxport_exporters.checkpoints.later import deferring
from voxport_exporters.graphs import caches, nbits
from voxport_exporters.graphs import int8 as quantize
from voxport_exporters.graphs import tables as lookup
from voxport_exporters.graphs.part import Part, check, export
from voxport_exporters.graphs.store import Array, Store, Written

# A quantized layer below these fails the gate (`--gate`), or is warned about.
LEAST_DB = {"int8": 30.0, "int8b": 30.0, "int4": 15.0, "hqq4": 15.0}
LEAST_SPEED_UP = 1.05
TOOLS = ("torch", "onnx", "onnxscript", "onnxruntime")


@dataclass(frozen=True)
class Job:
    """What one system hands over to be packed."""

    system: str
    variant: str
    sample_rate: int
    parts: Iterable[Part]
    checkpoint: tuple[Path, ...]  # the files the parts were read from
    root: Path  # names in the manifest are relative to it
    section: msgspec.Struct  # of the manifest, as the system's runtime declares it
    tokens: dict[str, int] = field(default_factory=dict)
    sampling: dict[str, Setting] = field(default_factory=dict)
    voices: list[str] = field(default_factory=list)
    files: dict[str, Path | bytes] = field(
        default_factory=dict
    )  # name in the bundle -> what to copy there, or contents
    golden: Callable[[Bundle, Path], None] | None = None  # records what the bundle computes, in its folder
    fidelity: Callable[[Mapping[str, Part], Path], Fidelity] | None = None  # of the written graphs; language models


def pack(job: Job, out: Path, recipe: Recipe, target: str, gate: bool = False) -> list[str]:
    """Writes the bundle `out` atomically. Returns warnings. Raises FileExistsError when `out` is something else."""
    warnings: list[str] = []
    with writing(out) as (folder, write), deferring():
        stages, parts, written = {}, {}, Written()
        kept: list[Rule] = []
        for part in tqdm(job.parts, desc="export", unit="graph", disable=not sys.stderr.isatty(), delay=1):
            parts[part.stage.name] = part
            stages[part.stage.name] = save(part, folder, recipe, target, warnings, gate, written, kept)
        for name, source in job.files.items():
            if isinstance(source, bytes):
                (folder / name).write_bytes(source)
            else:
                shutil.copyfile(source, folder / name)
        manifest = Manifest(
            format=FORMAT,
            system=job.system,
            variant=job.variant,
            sample_rate=job.sample_rate,
            target=target,
            recipe=Recipe(recipe.name, [*recipe.rule, *kept]),
            source=_source(job),
            tools={"voxport": voxport.__version__, "python": platform.python_version()}
            | {name: importlib.metadata.version(name) for name in TOOLS},
            stages=stages,
            files=_records(folder),
            section=msgspec.to_builtins(job.section),
            tokens=job.tokens,
            sampling=job.sampling,
            voices=job.voices,
            fidelity=job.fidelity(parts, folder) if job.fidelity and any(s.int8_ops for s in stages.values()) else None,
        )
        write(manifest)
        bundle = Bundle(folder, check=False)
        bundle.section(type(job.section))  # as strict as the runtime will be
        if job.golden is not None:
            job.golden(bundle, folder)
            write(msgspec.structs.replace(manifest, files=manifest.files | _records(folder / "golden", folder)))
    return warnings


def _records(folder: Path, root: Path | None = None) -> dict[str, FileRecord]:
    """Every file below `folder`, by its name relative to `root` (default: `folder`)."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != MANIFEST)
    for file in files:
        file.chmod(0o644)  # some writers make private files
    return {p.relative_to(root or folder).as_posix(): record(p) for p in files}


def _source(job: Job) -> Source:
    names = source_names(job.checkpoint, job.root)
    files = {name: record(path) for name, path in names.items()}
    return Source(files=files, repos=lockfile.holding({f.sha256 for f in files.values()}))


def source_names(paths: Iterable[Path], root: Path) -> dict[str, Path]:
    """A name of its own for every file of a checkpoint: relative to `root`, elsewhere with as much of its folder as
    tells it apart from the others."""
    names: dict[str, Path] = {}
    for path in dict.fromkeys(paths):
        inside = path.is_relative_to(root)
        parts = path.relative_to(root).parts if inside else path.absolute().parts[1:]
        shortest = len(parts) if inside else min(2, len(parts))
        choices = ["/".join(parts[-n:]) for n in range(shortest, len(parts) + 1)]
        names[next(name for name in choices if name not in names)] = path
    return names


def save(
    part: Part,
    folder: Path,
    recipe: Recipe,
    target: str,
    warnings: list[str],
    gate: bool = False,
    written: Written | None = None,
    kept: list[Rule] | None = None,
) -> StageRecord:
    """Writes `<stage>.onnx` (and its `.onnx.data`) into `folder`; adds to `warnings`.

    `written`: what earlier stages wrote there; their weights are shared, not repeated. `kept`: gets the rules by which
    `gate` kept weights in fp32.
    """
    name = part.stage.name
    plain, part = part, part.for_recipe(recipe)
    model = export(part, target)
    store = Store(model, part.net, folder / f"{name}.onnx.data", written)
    flops = part.flops()
    reads = Counter(weight for node in model.graph.node for weight in node.input)  # a loop that is unrolled: many
    cost = {x: flops.get(x.weight.rpartition(".")[0], 0) // reads[x.weight] for x in quantize.layers(model)}
    tables = {t: recipe.kind(name, t) for t in lookup.tables(model) if recipe.kind(name, t) in lookup.ROWS}
    chosen = {x: recipe.of(name, x.weight) for x in cost if recipe.kind(name, x.weight) in LEAST_DB}
    error = speed = None
    if chosen:
        rules = {x.weight: rule for x, rule in chosen.items()}
        errors = ((_error(store.read(w), rule), w, LEAST_DB[rule.kind]) for w, rule in rules.items())
        error, worst, least = min(errors, key=lambda e: e[0] - e[2])
        largest = max(chosen, key=lambda x: cost[x])
        count = max(1, cost[largest] // (2 * largest.shape[0] * largest.shape[1]))
        rule = chosen[largest]
        speed = quantize.speed_up(largest.shape, count, lambda m: _rewrite(m, {"w": rule}, target, Store(m)))
        failed = [f"{worst} keeps {error:.1f} dB of {least:.0f}"] if error < least else []
        failed += [f"{largest.weight} runs x{speed:.2f} of fp32"] if speed < LEAST_SPEED_UP else []
        kinds = "+".join(sorted({r.kind for r in chosen.values()}))
        warnings += [f"stage {name}, {kinds}: {why}" + ("; kept fp32" if gate else "") for why in failed]
        if failed and gate:
            fp32 = [Rule("fp32", stage=name, weights=weight) for weight in rules]
            if kept is not None:
                kept += fp32
            return save(plain, folder, Recipe(recipe.name, [*recipe.rule, *fp32]), target, warnings, gate, written)
    _rewrite(model, {x.weight: rule for x, rule in chosen.items()}, target, store)
    lookup.rows(model, tables, store)
    states = [s for s in caches.of(model, part.stage) if recipe.kind(name, s) == caches.KIND]
    stage = caches.int8(model, part.stage, caches.scales(part, states), store) if states else part.stage
    store.finish()
    check(model, stage, target)
    eight = sum(cost[x] for x in chosen)
    looked_up = set(lookup.tables(model))
    reads = Counter(weight for node in model.graph.node for weight in node.input)
    made = StageRecord(
        weight_bytes=sum(reads[i.name] * _bytes(i) for i in model.graph.initializer if i.name not in looked_up),
        flops=flops[""] - eight,
        int8_ops=eight,
        axes=dict(part.axes),
        error_db=error if chosen else None,
        speed_up=speed if chosen else None,
    )
    for key, value in (("stage", name), ("recipe", recipe.name), ("target", target)):
        model.metadata_props.add(key=f"voxport.{key}", value=value)
    (folder / f"{name}.onnx").write_bytes(model.SerializeToString())
    return made


def _error(weight: Array, rule: Rule) -> float:
    return quantize.error_db(weight) if rule.kind == "int8" else nbits.error_db(weight, rule.kind, rule.block)


def _rewrite(model: onnx.ModelProto, rules: dict[str, Rule], target: str, store: Store) -> None:
    """Quantizes, in place, the MatMuls that read the weights `rules` names."""
    eight = {w for w, rule in rules.items() if rule.kind == "int8"}
    if eight:
        quantize.int8(model, eight, target, store)
    blocks = {w: (rule.kind, rule.block) for w, rule in rules.items() if w not in eight}
    if blocks:
        nbits.blocks(model, blocks, target, store)


def _bytes(initializer: onnx.TensorProto) -> int:
    outside = {e.key: e.value for e in initializer.external_data}
    return int(outside["length"]) if outside else numpy_helper.to_array(initializer).nbytes
