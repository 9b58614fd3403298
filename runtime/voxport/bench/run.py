"""How fast a bundle runs, and how close that is to what this machine can do.

Three processes, so that nothing disturbs another's memory and timing: this one, the machine's probe (bandwidth and
matmul peaks), and the workload, which only loads the bundle and runs it.
"""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from voxport.bundle import Bundle
from voxport.manifest import StageRecord
from voxport.speech.settings import Value


def bench(
    path: Path,
    seconds: float = 10.0,
    threads: int | None = None,
    chunk_factor: int = 1,
    settings: Mapping[str, Value] | None = None,
) -> dict[str, Any]:
    """Runs workload and probe; returns the figures by the names `--json` prints. Raises as opening the bundle does.

    `settings`: as the model's `say` takes them.
    """
    bundle = Bundle(path)  # hashes and errors first, outside of what is measured
    run = _child("workload", str(path), str(seconds), str(threads or 0), str(chunk_factor), json.dumps(settings or {}))
    machine = _child("probe", str(run["threads"]))
    stages = run.pop("stages")
    for name, figures in stages.items():
        record = bundle.manifest.stages[name]
        figures["of_limit"] = of_limit(record, figures.pop("calls"), machine)
        if record.streamed_db is not None:
            figures["streamed_db"] = round(record.streamed_db, 2)
    threads_used = run.pop("threads")
    return run | {
        "bundle_mb": round(bundle.bytes / 1e6, 2),
        "recipe": bundle.manifest.recipe.name,
        "stages": stages,
        "machine": machine | {"threads": threads_used},
    }


def of_limit(record: StageRecord, calls: Sequence[Sequence[float]], machine: Mapping[str, Any]) -> float | None:
    """The time this machine needs at the least over the time a call took, the median over `calls`, each
    [seconds, scale of the floating-point operations, scale of the 8-bit operations].

    A call reads the weights once, whatever its size; its operations are those of the record times their scale. None
    when there were no calls.
    """
    if not calls:
        return None
    read = record.weight_bytes / (machine["bandwidth_gb_s"] * 1e9)
    fp32, int8 = record.flops / (machine["fp32_gflop_s"] * 1e9), record.int8_ops / (machine["int8_gop_s"] * 1e9)
    shares = [max(read, fp32 * flops + int8 * int8_ops) / seconds for seconds, flops, int8_ops in calls]
    return round(float(np.median(shares)), 3)


def table(result: dict[str, Any]) -> str:
    """The figures for a person."""
    machine = result["machine"]
    lines = [
        f"{machine['cpu']}, {machine['threads']} thread(s), {machine['isa']}, onnxruntime {machine['onnxruntime']}",
        f"machine limits: read {machine['bandwidth_gb_s']:.1f} GB/s, fp32 {machine['fp32_gflop_s']:.0f} GFLOP/s, "
        f"int8 {machine['int8_gop_s']:.0f} GOP/s",
        "",
        f"rtf {result['rtf']:.4f} (recipe {result['recipe']})   first audio {result['first_audio_s'] * 1e3:.1f} ms   "
        f"step p50 {result['step_ms_p50']:.2f}, p95 {result['step_ms_p95']:.2f}, p99 {result['step_ms_p99']:.2f} ms",
        f"peak memory {result['peak_rss_mb']:.0f} MB   load {result['load_s']:.2f} s   bundle {result['bundle_mb']} MB",
        "",
        f"{'stage':16} {'rtf':>8} {'ms p50':>8} {'ms p99':>8} {'of limit':>9}",
    ]
    for name, stage in result["stages"].items():
        near = f"   streamed: {stage['streamed_db']:.1f} dB, as export measured" if "streamed_db" in stage else ""
        lines.append(f"{name:16} {_row(stage)}{near}")
    if result["tokens_per_s"]:
        lines.insert(4, f"{result['tokens_per_s']:.1f} tokens/s")
    return "\n".join(lines)


def _row(stage: Mapping[str, Any]) -> str:
    if stage["rtf"] is None:
        return "never ran"
    return f"{stage['rtf']:8.4f} {stage['ms_p50']:8.3f} {stage['ms_p99']:8.3f} {stage['of_limit']:8.0%}"


def _child(name: str, *arguments: str) -> dict[str, Any]:
    """One part in a process of its own. Numpy gets one thread: onnxruntime's are what is measured."""
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    command = [sys.executable, "-m", f"voxport.bench.{name}", *arguments]
    process = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if process.returncode:
        errors = process.stderr.strip().splitlines() or [f"exit code {process.returncode}"]
        raise ValueError(f"bench: the {name} process failed: {errors[-1]}")
    result: dict[str, Any] = json.loads(process.stdout)
    return result
