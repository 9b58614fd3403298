"""Several sessions in one process must not slow each other: two stages in turn, compared with each of them alone.

    python -m pytest benchmarks/test_sessions.py

After a run, onnxruntime's worker threads spin for a while on the cores that the next session needs. `penalty_percent`
is the extra time of both in turn over the sum of both alone, with the options of voxport's Session and with
onnxruntime's defaults (docs/performance.md 1.4). Two threads, because a single thread leaves no worker to spin.
"""

import time
from functools import partial
from statistics import median

import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.conftest import Fulls
from benchmarks.steps import Step
from voxport.bundle import Sessions
from voxport.graphs.ort import OrtSession
from voxport.graphs.session import Session

ROUNDS, THREADS = 20, 2
AXES = {"batch": 1, "time": 1, "capacity": 256, "frames": 4, "units": 4}


@pytest.mark.parametrize("sessions", [OrtSession, partial(OrtSession, options={})], ids=["voxport", "onnxruntime"])
@pytest.mark.parametrize(
    ("system", "variant", "stages"),
    [("vyvo", "lfm2-350m", ("lm", "codec_decode")), ("qwen3tts", "0.6b-customvoice", ("talker", "predictor"))],
)
def test_in_turn(
    system: str,
    variant: str,
    stages: tuple[str, str],
    sessions: Sessions,
    full: Fulls,
    benchmark: BenchmarkFixture,
) -> None:
    bundle = full(system, variant).bundle("int4")
    a, b = (_step(sessions(bundle / f"{stage}.onnx", THREADS)) for stage in stages)
    sums: list[float] = []

    def alone() -> None:
        """Runs before every round, so that a change of the machine's speed affects both measurements."""
        sums.append(_alone(a) + _alone(b))
        for _ in range(3):
            both()

    def both() -> None:
        a()
        b()

    benchmark.group = f"{system}: {' and '.join(stages)} in turn, {THREADS} threads"
    benchmark.name = "voxport" if sessions is OrtSession else "onnxruntime's"
    benchmark.pedantic(both, setup=alone, rounds=ROUNDS, warmup_rounds=1, iterations=1)
    assert benchmark.stats is not None  # pytest-benchmark is off
    alone_s, in_turn = median(sums[1:]), benchmark.stats.stats.median
    benchmark.extra_info["alone_ms"] = round(alone_s * 1e3, 2)
    benchmark.extra_info["penalty_percent"] = round(100 * (in_turn / alone_s - 1), 1)


def _step(session: Session) -> Step:
    """One call on inputs that every stage accepts: ids and settings are 1, draws and values are 0.5."""
    feed = {t.name: np.full(t.sized(AXES), 0.5 if t.dtype == "float32" else 1, t.dtype) for t in session.stage.inputs}
    free = {axis for t in session.stage.state for axis in t.shape if isinstance(axis, str)}
    state = session.start(**{axis: AXES[axis] for axis in free})

    def run() -> None:
        nonlocal state
        _, state = session(state, into=None, **feed)

    return run


def _alone(step: Step) -> float:
    """Seconds of one step of a warm session while the other sleeps."""
    time.sleep(0.5)
    step()
    step()
    start = time.perf_counter()
    step()
    return time.perf_counter() - start
