"""The verbs about a bundle itself: info, verify, bench."""

import json
from pathlib import Path
from typing import Any

import click
import msgspec

from voxport.bench import run
from voxport.bundle import Bundle, Check, read_manifest
from voxport.cli.errors import one_line
from voxport.cli.options import BUNDLE, CHECK, FACTOR, SET, THREADS, settings_of
from voxport.graphs.stage import Stage
from voxport.manifest import StageRecord
from voxport.recipe import BLOCKWISE
from voxport.verify import BrokenError
from voxport.verify import verify as rehearse


@click.command(short_help="Say what a bundle is.")
@BUNDLE
@click.option("--tensors", is_flag=True, help="Load every graph and list its inputs, outputs and state too.")
@click.option("--json", "as_json", is_flag=True, help="Print the manifest as JSON, and with --tensors the graphs.")
@CHECK
def info(bundle: Path, tensors: bool, as_json: bool, check: Check) -> None:
    """Say what a bundle is: system, source, the recipe as applied, every stage as export measured it, and every file.

    \b
    Examples:
      voxport info BUNDLE
      voxport info BUNDLE --tensors
      voxport info BUNDLE --json --no-check | jq .manifest.stages
    """
    opened = Bundle(bundle, check=check)
    manifest = opened.manifest
    graphs = {name: _tensors(opened.session(name).stage) for name in manifest.stages} if tensors else {}
    if as_json:
        result: dict[str, Any] = {"manifest": msgspec.to_builtins(manifest)}
        click.echo(json.dumps(result | {"graphs": graphs} if tensors else result, indent=2))
        return
    click.echo(f"{manifest.system} ({manifest.variant}), {manifest.sample_rate} Hz, {_size(opened.bytes)}")
    click.echo(f"recipe {manifest.recipe.name}, target {manifest.target}, made with {_listed(manifest.tools)}")
    source = manifest.source
    where = _listed(source.repos, " at ") if source.repos else "a local checkpoint"
    click.echo(f"from {where}: {', '.join(source.files)}")
    if manifest.recipe.rule:
        click.echo("\nrules, of which the last that matches a weight counts:")
    for rule in manifest.recipe.rule:
        block = f" in blocks of {rule.block}" if rule.kind in BLOCKWISE else ""
        click.echo(f"  {rule.kind}{block}: weights {rule.weights} of stage {rule.stage}")
    click.echo("\nstages:")
    for name, record in manifest.stages.items():
        click.echo(f"  {name}: {_size(record.weight_bytes)} of weights{_quantization(record)}{_stream(record)}")
        for kind, specs in graphs.get(name, {}).items():
            for spec in specs:
                click.echo(f"    {kind.rstrip('s'):7} {spec}")
    click.echo("\nfiles:")
    for name, file in manifest.files.items():
        click.echo(f"  {name}: {_size(file.bytes)}")


def _tensors(stage: Stage) -> dict[str, list[str]]:
    kinds = {"inputs": stage.inputs, "outputs": stage.outputs, "state": stage.state}
    return {kind: [str(spec) for spec in specs] for kind, specs in kinds.items()}


def _quantization(record: StageRecord) -> str:
    figures = []
    if record.error_db is not None:
        figures += [f"{record.error_db:.1f} dB", f"x{record.speed_up:.2f}"]
    if record.output_db is not None:
        figures.append(f"{record.output_db:.1f} dB of its outputs")
    if record.equal_ids is not None:
        figures.append(f"{record.equal_ids:.1%} of its ids stay")
    return f", quantized: {', '.join(figures)}" if figures else ""


def _stream(record: StageRecord) -> str:
    return "" if record.streamed_db is None else f", streamed: {record.streamed_db:.1f} dB of what it gives at once"


def _size(count: int) -> str:
    return f"{count / 1e6:.2f} MB" if count >= 1e5 else f"{count / 1e3:.1f} kB"


def _listed(pairs: dict[str, str], between: str = " ") -> str:
    return ", ".join(f"{name}{between}{value}" for name, value in pairs.items())


@click.command(short_help="Prove a bundle on this machine. Exit 1 on drift.")
@BUNDLE
@THREADS
@click.option("--json", "as_json", is_flag=True, help="Print the compared outputs as JSON.")
def verify(bundle: Path, threads: int | None, as_json: bool) -> None:
    """Prove a bundle on this machine, without torch: hashes, then the outputs recorded at export. Exit 1 on drift.

    \b
    Example:
      voxport verify BUNDLE --threads 2
    """
    read_manifest(bundle)  # no bundle at all is bad input; anything wrong with one is a check that failed
    try:
        rows = rehearse(bundle, threads)
    except BrokenError as error:
        raise click.ClickException(one_line(error)) from error
    if as_json:
        click.echo(json.dumps([row.as_dict() for row in rows], indent=2))
    else:
        for row in rows:
            click.echo(f"{row.name:16} max {row.max_abs:.1e}  bound {row.bound:.0e}  {'ok' if row.ok else 'DRIFTED'}")
    if not all(row.ok for row in rows):
        raise click.ClickException(f"{bundle}: this machine computes something else than the one that exported it")


@click.command(short_help="Measure a bundle against this machine's limits.")
@BUNDLE
@click.option("--seconds", type=click.FloatRange(0.1, 86_400), default=10.0, show_default=True, help="Audio to make.")
@click.option("--chunk-factor", type=FACTOR, default=1, show_default=True, help="Chunks per step of a voice converter.")
@SET
@THREADS
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def bench(
    bundle: Path, seconds: float, chunk_factor: int, pairs: tuple[str, ...], threads: int | None, as_json: bool
) -> None:
    """Measure a bundle against this machine's own limits, in the same run.

    rtf is compute seconds per second of audio; "of limit" is the time the weights and operations would take at the
    memory bandwidth and matmul rate just measured, over the time they took.

    \b
    Examples:
      voxport bench BUNDLE
      voxport bench BUNDLE --seconds 30 --threads 2 --json
      voxport bench BUNDLE --set chunk_frames=1
    """
    result = run.bench(bundle, seconds, threads, chunk_factor, settings_of(pairs))
    click.echo(json.dumps(result, indent=2) if as_json else run.table(result))
