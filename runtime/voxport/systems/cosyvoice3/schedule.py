"""The times of the Euler steps from noise to mel, as upstream walks them (docs/systems/cosyvoice3.md 4).

Exporter and runtime ask here, so that a table holds the very times that are asked for.
"""

from dataclasses import dataclass

import numpy as np

from voxport.graphs.session import Array

SCHEDULES = ("cosine", "linear")
STEPS = (4, 5, 6, 8, 10)  # counts of steps that a bundle has tables for, if its export asks for no others
NEAR = 1e-5  # two times nearer than this are one; float32 kernels differ by 1e-7 and no two steps are nearer than 1e-3


@dataclass(frozen=True)
class Schedule:
    """`span` float32 [steps + 1]: the grid; `times` float32 [steps]: what the net is told; `widths`: of each step."""

    span: Array
    times: Array
    widths: Array

    @property
    def steps(self) -> int:
        return len(self.times)


def schedule(steps: int, kind: str) -> Schedule:
    """The grid of `steps` steps; `kind` is one of SCHEDULES.

    Upstream adds up the widths and takes the next width from where that led, all in float32: so does this.
    """
    if steps < 1:
        raise ValueError(f"wanted 1 Euler step or more, got {steps}")
    if kind not in SCHEDULES:
        raise ValueError(f"schedule {kind!r}: wanted {' or '.join(SCHEDULES)}")
    span = np.linspace(0, 1, steps + 1, dtype=np.float32)
    if kind == "cosine":
        span = np.float32(1) - np.cos(span * np.float32(0.5) * np.float32(np.pi))
    times, widths = np.empty(steps, np.float32), np.empty(steps, np.float32)
    time = span[0]
    for i in range(steps):
        times[i], widths[i] = time, span[i + 1] - time
        time = time + widths[i]
    return Schedule(span, times, widths)


def every_time(counts: tuple[int, ...], kind: str, times: tuple[float, ...] = ()) -> Array:
    """All times that `counts` of steps ask for, and `times`: float32, ascending, each once."""
    found = np.sort(np.concatenate([*(schedule(steps, kind).times for steps in counts), np.array(times, np.float32)]))
    return found[np.diff(found, prepend=-1) > NEAR].astype(np.float32)
