"""`python -m voxport.bench.workload BUNDLE SECONDS THREADS CHUNK_FACTOR SETTINGS`: runs a bundle, prints times as JSON.

THREADS 0: what the system runs best with; SETTINGS: those of `say`, as JSON. Nothing else runs in this process, so its
peak memory is the bundle's.
"""

import json
import re
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from voxport.bench.cost import Scale, scale_of, sizes_of
from voxport.bundle import Bundle
from voxport.graphs.session import Array, Session, State
from voxport.manifest import StageRecord
from voxport.speech.settings import Value
from voxport.systems import open_model

WARM_SECONDS = 0.5


class Call(NamedTuple):
    """One call of a stage. `flops`, `int8_ops`: how many times the operations that export counted for it."""

    seconds: float
    flops: float
    int8_ops: float


class Timed:
    """A Session that adds a Call to `calls` each time it runs another one."""

    def __init__(self, session: Session, record: StageRecord, calls: list[Call]) -> None:
        """`record`: what export counted for the stage."""
        self._session, self.stage, self.threads = session, session.stage, session.threads
        self._record, self._calls = record, calls
        self._scales: dict[tuple[tuple[str, tuple[int, ...]], ...], Scale] = {}  # by the shapes of a call's inputs

    def start(self, constants: Mapping[str, Array] | None = None, /, **axes: int) -> State:
        """See `Session.start`."""
        return self._session.start(constants, **axes)

    def __call__(
        self, state: State, *, into: Mapping[str, Array] | None = None, **inputs: Array
    ) -> tuple[dict[str, Array], State]:
        """See `Session.__call__`."""
        start = time.perf_counter()
        result = self._session(state, into=into, **inputs)
        seconds = time.perf_counter() - start
        shapes = tuple((name, array.shape) for name, array in inputs.items())
        if shapes not in self._scales:  # worked out once: it would be a hundredth of LLVC's step
            self._scales[shapes] = scale_of(self._record, sizes_of(self.stage.inputs, inputs))
        self._calls.append(Call(seconds, *self._scales[shapes]))
        return result


class TimedBundle(Bundle):
    """Hands out Timed sessions. `calls`: of each stage, by all its sessions."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, check=False)
        self.calls: dict[str, list[Call]] = {}
        self.threads = 1

    def session(self, stage: str, threads: int = 1) -> Session:
        """See `Bundle.session`."""
        session = super().session(stage, threads)
        self.threads = max(self.threads, session.threads)
        return Timed(session, self.manifest.stages[stage], self.calls.setdefault(stage, []))


def workload(
    path: Path, seconds: float, threads: int | None, chunk_factor: int, settings: Mapping[str, Value]
) -> dict[str, Any]:
    """Makes about `seconds` of audio once the bundle is warm.

    `stages` holds for each stage its figures and, for the limit, its calls, each as in Call.
    """
    start = time.perf_counter()
    bundle = TimedBundle(path)
    model = open_model(bundle, threads)
    load = time.perf_counter() - start
    for _ in model.workload(WARM_SECONDS, chunk_factor, **settings):
        pass
    for calls in bundle.calls.values():
        calls.clear()
    clock = model.clock
    before = (clock.steps, clock.seconds) if clock else (0, 0.0)
    marks, samples = [time.perf_counter()], 0
    first = None
    for chunk in model.workload(seconds, chunk_factor, **settings):
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
        "threads": threads or bundle.threads,
        "stages": {name: _figures(calls, audio) | {"calls": calls} for name, calls in bundle.calls.items()},
    }


def _figures(calls: list[Call], audio: float) -> dict[str, float | None]:
    """Of one stage's calls, for `audio` seconds of audio; null when there were none."""
    if not calls:
        return {"rtf": None, "ms_p50": None, "ms_p99": None}
    seconds = [call.seconds for call in calls]
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


if __name__ == "__main__":
    bundle, audio_seconds, thread_count, factor, options = sys.argv[1:]
    threads = int(thread_count) or None
    print(json.dumps(workload(Path(bundle), float(audio_seconds), threads, int(factor), json.loads(options))))
