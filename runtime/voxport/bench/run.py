"""How fast a bundle runs, and how close that is to what this machine can do.

Three processes, so that nothing disturbs another's memory and timing: this one, the machine's probe (bandwidth and
matmul peaks), and the workload, which only loads the bundle and runs it.
"""

import json
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from voxport.bundle import Bundle
from voxport.graphs.ort import OrtSession
from voxport.graphs.session import Array, Session, State
from voxport.systems import open_model

WARM_SECONDS = 0.5


def bench(path: Path, seconds: float = 10.0, threads: int | None = None, chunk_factor: int = 1) -> dict[str, Any]:
    """Runs probe and workload; returns the figures by the names `--json` prints. Raises as opening the bundle does."""
    bundle = Bundle(path)  # hashes and errors first, outside of what is measured
    run = _child("workload", str(path), str(seconds), str(threads or 0), str(chunk_factor))
    machine = _child("probe", str(run["threads"]))
    stages = {}
    for name, seen in run.pop("stages").items():
        record = bundle.manifest.stages[name]
        if not seen["ms_p50"]:  # the workload never ran it
            stages[name] = seen | {"of_limit": None}
            continue
        moved = record.weight_bytes / (machine["bandwidth_gb_s"] * 1e9)
        computed = record.flops / (machine["fp32_gflop_s"] * 1e9) + record.int8_ops / (machine["int8_gop_s"] * 1e9)
        limit = max(moved, computed * chunk_factor)
        stages[name] = seen | {"of_limit": round(limit * 1e3 / seen["ms_p50"], 3)}
    threads_used = run.pop("threads")
    return run | {
        "bundle_mb": round(bundle.bytes / 1e6, 2),
        "recipe": bundle.manifest.recipe.name,
        "stages": stages,
        "machine": machine | {"threads": threads_used},
    }


def table(result: dict[str, Any]) -> str:
    """The figures for a person."""
    m = result["machine"]
    lines = [
        f"{m['cpu']}, {m['threads']} thread(s), {m['isa']}, onnxruntime {m['onnxruntime']}",
        f"machine limits: read {m['bandwidth_gb_s']:.1f} GB/s, fp32 {m['fp32_gflop_s']:.0f} GFLOP/s, "
        f"int8 {m['int8_gop_s']:.0f} GOP/s",
        "",
        f"rtf {result['rtf']:.4f} (recipe {result['recipe']})   first audio {result['first_audio_s'] * 1e3:.1f} ms   "
        f"step p50 {result['step_ms_p50']:.2f}, p95 {result['step_ms_p95']:.2f}, p99 {result['step_ms_p99']:.2f} ms",
        f"peak memory {result['peak_rss_mb']:.0f} MB   load {result['load_s']:.2f} s   bundle {result['bundle_mb']} MB",
        "",
        f"{'stage':16} {'rtf':>8} {'ms p50':>8} {'ms p99':>8} {'of limit':>9}",
    ]
    for name, s in result["stages"].items():
        ran = s["rtf"] is not None
        figures = f"{s['rtf']:8.4f} {s['ms_p50']:8.3f} {s['ms_p99']:8.3f} {s['of_limit']:8.0%}" if ran else "never ran"
        lines.append(f"{name:16} {figures}")
    if result["tokens_per_s"]:
        lines.insert(4, f"{result['tokens_per_s']:.1f} tokens/s")
    return "\n".join(lines)


def _child(*arguments: str) -> dict[str, Any]:
    """One part in a process of its own. Numpy's own threads are kept out: onnxruntime's are what is measured."""
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "voxport.bench.run", *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise ValueError(f"bench: the {arguments[0]} process failed: {said[-1]}")
    result: dict[str, Any] = json.loads(done.stdout)
    return result


# ------------------------------------------------------------------------------------------------------- workload


class Timed:
    """A Session that keeps the time of every call in seconds."""

    def __init__(self, session: Session) -> None:
        self._session, self.stage, self.threads = session, session.stage, session.threads
        self.seconds: list[float] = []

    def start(self, constants: Mapping[str, Array] | None = None, /, **axes: int) -> State:
        return self._session.start(constants, **axes)

    def __call__(
        self, state: State, *, into: Mapping[str, Array] | None = None, **inputs: Array
    ) -> tuple[dict[str, Array], State]:
        start = time.perf_counter()
        result = self._session(state, into=into, **inputs)
        self.seconds.append(time.perf_counter() - start)
        return result


class _TimedBundle(Bundle):
    """Hands out Timed sessions and remembers them."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, check=False)
        self.timed: dict[str, Timed] = {}

    def session(self, stage: str, threads: int = 1) -> Session:
        session = Timed(super().session(stage, threads))
        if stage in self.timed:
            session.seconds = self.timed[stage].seconds  # one stage, one list, however many sessions run it
        self.timed[stage] = session
        return session


def _workload(path: str, seconds: str, threads: str, chunk_factor: str) -> dict[str, Any]:
    start = time.perf_counter()
    bundle = _TimedBundle(Path(path))
    model = open_model(bundle, int(threads) or None)
    load = time.perf_counter() - start
    for _ in model.workload(WARM_SECONDS, int(chunk_factor)):
        pass
    for session in bundle.timed.values():
        session.seconds.clear()
    clock = model.clock
    before = (clock.steps, clock.seconds) if clock else (0, 0.0)
    marks, samples = [time.perf_counter()], 0
    first = None
    for chunk in model.workload(float(seconds), int(chunk_factor)):
        marks.append(time.perf_counter())
        samples += len(chunk)
        if first is None and len(chunk):
            first = marks[-1] - marks[0]
    audio = samples / bundle.manifest.sample_rate
    steps = np.diff(marks) * 1e3
    return {
        "rtf": round((marks[-1] - marks[0]) / audio, 5),
        "tokens_per_s": round((clock.steps - before[0]) / (clock.seconds - before[1]), 2) if clock else None,
        "first_audio_s": round(first or 0.0, 5),
        "peak_rss_mb": round(_peak_rss() / 1e6, 1),
        "load_s": round(load, 3),
        "audio_s": round(audio, 2),
        **{f"step_ms_p{p}": round(float(np.percentile(steps, p)), 3) for p in (50, 95, 99)},
        "threads": int(threads) or max(session.threads for session in bundle.timed.values()),
        "stages": {name: _figures(session.seconds, audio) for name, session in bundle.timed.items()},
    }


def _figures(seconds: list[float], audio: float) -> dict[str, float | None]:
    """Of one stage's calls; null when there were none."""
    if not seconds:
        return {"rtf": None, "ms_p50": None, "ms_p99": None}
    return {
        "rtf": round(sum(seconds) / audio, 5),
        "ms_p50": round(float(np.median(seconds)) * 1e3, 4),
        "ms_p99": round(float(np.percentile(seconds, 99)) * 1e3, 4),
    }


def _peak_rss() -> int:
    """Bytes. Linux keeps the high-water mark of this very program in /proc; elsewhere getrusage has to do."""
    status = Path("/proc/self/status")
    if status.exists():
        found = re.search(r"VmHWM:\s+(\d+) kB", status.read_text())
        if found:
            return int(found[1]) * 1024
    import resource  # not on Windows

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


# ---------------------------------------------------------------------------------------------------------- probe


def _probe(threads: str) -> dict[str, Any]:
    """Best of several tries of each: what the machine can do when nobody disturbs it."""
    n = int(threads)
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((768, 1536), np.float32), rng.standard_normal((1536, 1536), np.float32)
    a8, b8 = rng.integers(0, 255, a.shape, np.uint8), rng.integers(-127, 127, b.shape, np.int8)
    work = 2 * a.shape[0] * a.shape[1] * b.shape[1] / 1e9
    return {
        "cpu": _cpu(),
        "isa": _isa(),
        "bandwidth_gb_s": round(_bandwidth(n), 2),
        "fp32_gflop_s": round(work / _fastest("matmul_fp32", n, a=a, b=b), 1),
        "int8_gop_s": round(work / _fastest("matmul_int8", n, a=a8, b=b8), 1),
        "onnxruntime": ort.__version__,
    }


def _fastest(graph: str, threads: int, **feed: Array) -> float:
    """Seconds of the fastest of 12 runs of a one-node graph shipped with voxport."""
    session = OrtSession(Path(__file__).parent / "probes" / f"{graph}.onnx", threads)
    best = float("inf")
    for _ in range(12):
        start = time.perf_counter()
        session(session.start(), into=None, **feed)
        best = min(best, time.perf_counter() - start)
    return best


def _bandwidth(threads: int) -> float:
    """GB/s of reading memory with `threads` threads: dot products over 96 MB each, larger than any cache here."""
    from concurrent.futures import ThreadPoolExecutor

    blocks = [np.ones(12_000_000, np.float32) for _ in range(2 * threads)]
    best = float("inf")
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(8):
            start = time.perf_counter()
            list(pool.map(lambda i: np.dot(blocks[2 * i], blocks[2 * i + 1]), range(threads)))
            best = min(best, time.perf_counter() - start)
    return sum(block.nbytes for block in blocks) / best / 1e9


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*:\s*(.+)", info.read_text()) if info.exists() else None
    return found[1].strip() if found else platform.processor() or platform.machine()


def _isa() -> str:
    info = Path("/proc/cpuinfo")
    flags = re.search(r"(?:flags|Features)\s*:\s*(.+)", info.read_text()) if info.exists() else None
    have = set(flags[1].split()) if flags else set()
    return " ".join(f for f in ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "asimddp", "i8mm") if f in have) or "?"


if __name__ == "__main__":
    print(json.dumps(_workload(*sys.argv[2:]) if sys.argv[1] == "workload" else _probe(*sys.argv[2:])))
