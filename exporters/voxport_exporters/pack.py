"""Writes a bundle: traces every part, plans, measures, gates, rewrites and writes it, and records what happened."""

import importlib.metadata
import platform
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import msgspec
import onnx_ir as ir
from tqdm import tqdm

import voxport
from voxport import verify
from voxport.bundle import Bundle, writing
from voxport.checksums import record
from voxport.graphs.ort import OrtSession
from voxport.graphs.stage import CAPACITY, ROWS
from voxport.manifest import FORMAT, MANIFEST, Cost, Fidelity, FileRecord, Manifest, Setting, Source, StageRecord
from voxport.recipe import Recipe, Rule
from voxport.systems import open_model
from voxport_exporters.checkpoints import diskspace, lockfile
from voxport_exporters.checkpoints.later import deferring
from voxport_exporters.graphs import laws
from voxport_exporters.graphs.agreement import agreement, trial
from voxport_exporters.graphs.footprint import footprint
from voxport_exporters.graphs.graphfile import GraphFile
from voxport_exporters.graphs.halves import halves
from voxport_exporters.graphs.measure import measure
from voxport_exporters.graphs.part import Part, Parts
from voxport_exporters.graphs.plan import Plan, plan, plan_file
from voxport_exporters.graphs.rewrite import rewrite, rewrite_products
from voxport_exporters.graphs.store import DataFiles, Store
from voxport_exporters.graphs.tables import tables
from voxport_exporters.graphs.trace import trace
from voxport_exporters.targets import TARGETS

TOOLS = ("torch", "onnx", "onnxscript", "onnxruntime")


@dataclass(frozen=True)
class Job:
    """What one system hands over to be packed."""

    system: str
    variant: str
    sample_rate: int
    parts: Iterable[Part]  # Parts where they are large
    checkpoint: tuple[Path, ...]  # the files the parts were read from
    root: Path  # names in the manifest are relative to it
    section: msgspec.Struct  # of the manifest, as the system's runtime declares it
    tokens: dict[str, int] = field(default_factory=dict)
    sampling: dict[str, Setting] = field(default_factory=dict)
    voices: list[str] = field(default_factory=list)
    files: dict[str, Path | bytes] = field(
        default_factory=dict
    )  # name in the bundle -> what to copy there, or contents
    graphs: tuple[GraphFile, ...] = ()  # stages that the release holds as graphs
    rehearse: bool = True  # golden/ records what the bundle computes from fixed inputs, for `voxport verify`
    fidelity: Callable[[Mapping[str, Part], Path], Fidelity] | None = None  # of the written graphs; language models


@dataclass(frozen=True)
class StageResult:
    """What became of one stage."""

    record: StageRecord
    plan: Plan
    exceptions: tuple[Rule, ...]  # by which `--gate` leaves its weights in fp32
    warnings: tuple[str, ...]


def pack(job: Job, out: Path, recipe: Recipe, target: str, gate: bool = False) -> list[str]:
    """Writes the bundle `out` atomically. Returns warnings.

    Raises FileExistsError when `out` is something else, OSError when its disk is too small, before anything is traced.
    """
    with writing(out) as (folder, write), deferring():
        graphs = job.parts if isinstance(job.parts, Parts) else list(job.parts)
        diskspace.require(out, footprint(graphs, recipe) + _copied(job, recipe))
        results, parts, data = {}, {}, DataFiles()
        for part in tqdm(graphs, desc="export", unit="graph", disable=not sys.stderr.isatty(), delay=1):
            parts[part.stage.name] = part
            results[part.stage.name] = save(part, folder, recipe, target, gate, data)
        results |= {file.stage.name: save_file(file, folder, recipe, target, gate) for file in job.graphs}
        for name, source in job.files.items():
            (folder / name).parent.mkdir(exist_ok=True)
            if isinstance(source, bytes):
                (folder / name).write_bytes(source)
            else:
                shutil.copyfile(source, folder / name)
        exceptions = [rule for result in results.values() for rule in result.exceptions]
        stages = {name: result.record for name, result in results.items()}
        quantized = any(stage.int8_ops for stage in stages.values())
        manifest = Manifest(
            format=FORMAT,
            system=job.system,
            variant=job.variant,
            sample_rate=job.sample_rate,
            target=target,
            recipe=Recipe(recipe.name, [*recipe.rule, *exceptions]),
            source=_source(job),
            tools={"voxport": voxport.__version__, "python": platform.python_version()}
            | {name: importlib.metadata.version(name) for name in TOOLS},
            stages=stages,
            files=_records(folder),
            section=msgspec.to_builtins(job.section),
            tokens=job.tokens,
            sampling=job.sampling,
            voices=job.voices,
            fidelity=job.fidelity(parts, folder) if job.fidelity and quantized else None,
        )
        parts.clear()  # the bundle is about to be loaded
        write(manifest)
        bundle = Bundle(folder, check=False)
        bundle.section(type(job.section))  # as strict as the runtime will be
        if job.rehearse:
            verify.record(open_model(bundle).rehearse(), folder)
            write(msgspec.structs.replace(manifest, files=_records(folder)))
    return [*_unmatched(recipe, results), *(text for result in results.values() for text in result.warnings)]


def save(
    part: Part, folder: Path, recipe: Recipe, target: str, gate: bool = False, data: DataFiles | None = None
) -> StageResult:
    """Writes `<stage>.onnx` (and its `.onnx.data`) into `folder`.

    `gate`: a stage whose error, speed or outputs fail stays fp32 as a whole. `data`: what earlier stages wrote there;
    their weights are shared, not repeated.
    """
    name, goal = part.stage.name, TARGETS[target]
    net = part.for_recipe(recipe)
    model = trace(net, target)
    stage_plan = plan(model, net, recipe)
    measurement = measure(stage_plan, goal, Store(model.graph))
    outputs = trial(net, model, stage_plan, goal, folder)
    failures = (*measurement.failures, *outputs.failures)
    warnings = _warnings(stage_plan, failures, gate)
    if gate and failures:
        exceptions = tuple(Rule("fp32", stage=name, weights=weight) for weight in stage_plan.rules)
        result = save(part, folder, Recipe(recipe.name, [*recipe.rule, *exceptions]), target, gate, data)
        return StageResult(result.record, stage_plan, exceptions, warnings)
    store = Store(model.graph, folder / f"{name}.onnx.data", data)
    stage = rewrite(model, net, stage_plan, goal, store)
    store.finish()
    laws.check(model, stage, goal)
    model.metadata_props.update({"voxport.stage": name, "voxport.recipe": recipe.name, "voxport.target": target})
    (folder / f"{name}.onnx").write_bytes(ir.to_proto(model).SerializeToString())
    record = StageRecord(
        weight_bytes=_weight_bytes(model.graph),
        flops=stage_plan.flops - stage_plan.int8_ops,
        int8_ops=stage_plan.int8_ops,
        axes=dict(part.axes),
        growth=_growth(net, stage_plan),
        error_db=measurement.error_db,
        speed_up=measurement.speed_up,
        streamed_db=part.streamed(OrtSession(folder / f"{name}.onnx")) if part.streamed else None,
        **asdict(outputs),
    )
    return StageResult(record, stage_plan, (), warnings)


def save_file(file: GraphFile, folder: Path, recipe: Recipe, target: str, gate: bool = False) -> StageResult:
    """Copies a released graph to `<stage>.onnx` in `folder`; writes a quantized one where the recipe says so.

    `gate`: a quantized one whose error, speed or outputs fail gives way to the copy. ValueError when the file is not
    the stage's graph.
    """
    name, goal = file.stage.name, TARGETS[target]
    exact, path = file.session(), folder / f"{name}.onnx"
    record = StageRecord(file.path.stat().st_size, flops=0, int8_ops=0, axes=file.axes(exact.stage))
    as_it_is = StageResult(record, Plan(name, (), {}, (), 0, {}), (), ())
    shutil.copyfile(file.path, path)
    if goal.contrib and not any(rule.names(name) for rule in recipe.rule):
        return as_it_is  # nobody need look into it
    model = file.model(goal)
    file_plan = plan_file(model, file, recipe)
    if not file_plan.kinds:
        return replace(as_it_is, plan=file_plan)
    measurement = measure(file_plan, goal, Store(model.graph))
    store = Store(model.graph, folder / f"{name}.onnx.data")
    rewrite_products(model, file_plan.rules, goal, store)
    halves(model, file_plan.halves, store)
    store.finish()
    path.write_bytes(ir.to_proto(model).SerializeToString())
    outputs = agreement(exact, OrtSession(path), file.sample())
    failures = (*measurement.failures, *outputs.failures)
    warnings = _warnings(file_plan, failures, gate)
    if gate and failures:
        store.discard()
        shutil.copyfile(file.path, path)
        return StageResult(record, file_plan, (Rule("fp32", stage=name),), warnings)
    figures = {"error_db": measurement.error_db, "speed_up": measurement.speed_up, **asdict(outputs)}
    costs = {"weight_bytes": _weight_bytes(model.graph), "int8_ops": file_plan.int8_ops}
    return StageResult(msgspec.structs.replace(record, **costs, **figures), file_plan, (), warnings)


def _warnings(stage_plan: Plan, failures: Iterable[str], gate: bool) -> tuple[str, ...]:
    kinds = "+".join(stage_plan.kinds)
    return tuple(f"stage {stage_plan.stage}, {kinds}: {why}" + "; kept fp32" * gate for why in failures)


def _growth(part: Part, stage_plan: Plan) -> dict[str, tuple[Cost, Cost]]:
    """StageRecord.growth. Rows of a batch cost one like the other, and a cache is read to where it is filled."""

    def cost(axis: str, times: int) -> Cost:
        flops = replace(part, axes={**part.axes, axis: times * part.axes[axis]}).flops()
        int8_ops = stage_plan.int8_ops_of(flops)
        return Cost(flops[""] - int8_ops, int8_ops)

    return {axis: (cost(axis, 2), cost(axis, 3)) for axis in part.axes if axis not in (ROWS, CAPACITY)}


def _weight_bytes(graph: ir.Graph) -> int:
    """What one call reads: a weight counts as often as nodes read it, a table not at all."""
    looked_up = set(tables(graph))
    weights = (value for name, value in graph.initializers.items() if name not in looked_up)
    return sum(len(value.uses()) * value.const_value.nbytes for value in weights if value.const_value is not None)


def _unmatched(recipe: Recipe, results: Mapping[str, StageResult]) -> list[str]:
    """One warning for each rule that names no weight of any stage that it could apply to."""
    unused = [rule for rule in recipe.rule if not any(result.plan.matches(rule) for result in results.values())]
    return [
        f"recipe {recipe.name}: rule {rule.kind}, stage {rule.stage!r}, weights {rule.weights!r} matches no weight"
        for rule in unused
    ]


def _copied(job: Job, recipe: Recipe) -> int:
    """Bytes of the files that are copied; of a released graph that is quantized no more than what can be left."""
    contents = job.files.values()
    files = sum(len(item) if isinstance(item, bytes) else item.stat().st_size for item in contents)
    quantized = {file for file in job.graphs if any(rule.names(file.stage.name) for rule in recipe.rule)}
    return files + sum(file.path.stat().st_size // (4 if file in quantized else 1) for file in job.graphs)


def _records(folder: Path) -> dict[str, FileRecord]:
    """Every file below `folder` but the manifest, by its name there."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != MANIFEST)
    for file in files:
        file.chmod(0o644)  # some writers make private files
    return {p.relative_to(folder).as_posix(): record(p) for p in files}


def _source(job: Job) -> Source:
    names = source_names((*job.checkpoint, *(file.path for file in job.graphs)), job.root)
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
