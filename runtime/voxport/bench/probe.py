"""`python -m voxport.bench.probe THREADS`: what this machine can do, as JSON: read bandwidth and matmul peaks."""

import json
import platform
import re
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from voxport.graphs.ort import OrtSession
from voxport.graphs.session import Array

MATRIX = (768, 1536, 1536)  # rows, inputs, outputs of the products
BLOCK = 12_000_000  # float32 values, 48 MB: two of them are larger than any cache here
ISA = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "asimddp", "i8mm")


def probe(threads: int) -> dict[str, Any]:
    """Best of several tries of each: what the machine can do when nobody disturbs it.

    Bandwidth in GB/s, float32 products in GFLOP/s, 8-bit products in GOP/s, all with `threads` threads.
    """
    rows, inputs, outputs = MATRIX
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((rows, inputs), np.float32), rng.standard_normal((inputs, outputs), np.float32)
    a8, b8 = rng.integers(0, 255, a.shape, np.uint8), rng.integers(-127, 127, b.shape, np.int8)
    work = 2 * rows * inputs * outputs / 1e9
    return {
        "cpu": _cpu(),
        "isa": _isa(),
        "bandwidth_gb_s": round(_bandwidth(threads), 2),
        "fp32_gflop_s": round(work / _fastest("matmul_fp32", threads, a=a, b=b), 1),
        "int8_gop_s": round(work / _fastest("matmul_int8", threads, a=a8, b=b8), 1),
        "onnxruntime": ort.__version__,
    }


def _fastest(graph: str, threads: int, **inputs: Array) -> float:
    """Seconds of the fastest of 12 runs of a one-node graph shipped with voxport."""
    session = OrtSession(Path(__file__).parent / "probes" / f"{graph}.onnx", threads)
    best = float("inf")
    for _ in range(12):
        start = time.perf_counter()
        session(session.start(), into=None, **inputs)
        best = min(best, time.perf_counter() - start)
    return best


def _bandwidth(threads: int) -> float:
    """GB/s of reading memory with `threads` threads: dot products of two blocks each."""
    blocks = [np.ones(BLOCK, np.float32) for _ in range(2 * threads)]
    best = float("inf")
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(8):
            start = time.perf_counter()
            list(pool.map(lambda i: np.dot(blocks[2 * i], blocks[2 * i + 1]), range(threads)))
            best = min(best, time.perf_counter() - start)
    return sum(block.nbytes for block in blocks) / best / 1e9


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    name = re.search(r"model name\s*:\s*(.+)", info.read_text()) if info.exists() else None
    return name[1].strip() if name else platform.processor() or platform.machine()


def _isa() -> str:
    info = Path("/proc/cpuinfo")
    flags = re.search(r"(?:flags|Features)\s*:\s*(.+)", info.read_text()) if info.exists() else None
    names = set(flags[1].split()) if flags else set()
    return " ".join(name for name in ISA if name in names) or "?"


if __name__ == "__main__":
    print(json.dumps(probe(int(sys.argv[1]))))
