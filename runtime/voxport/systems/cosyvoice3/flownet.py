"""The flow's graphs behind plain functions: tokens to mu, a time to modulations, velocities to the next x.

Arrays are float32 [frames, ...], frames of `ratio` to a token; see docs/systems/cosyvoice3.md 4.
"""

import threading
from dataclasses import dataclass

import numpy as np

from voxport.bundle import Bundle
from voxport.graphs.session import Array, Session, State
from voxport.systems.cosyvoice3.schedule import NEAR, schedule
from voxport.systems.cosyvoice3.section import FlowSection

NOTHING = -1  # in place of a token: there is none


@dataclass(frozen=True, eq=False)
class Step:
    """One Euler step: what its time does to the net, and how far it goes."""

    modulation: Array
    width: float


class FlowNet:
    """The flow's sessions, each opened when it is first used. Several threads may use one at once."""

    def __init__(self, bundle: Bundle, threads: int, section: FlowSection) -> None:
        self.section = section
        self._bundle, self._threads = bundle, threads
        self._sessions: dict[str, Session] = {}
        self._steps: dict[int, list[Step]] = {}
        self._lock = threading.Lock()

    def session(self, stage: str) -> Session:
        """The session of `stage`: flow, flow_stream, flow_encode, flow_speaker or flow_modulation."""
        with self._lock:
            if stage not in self._sessions:
                self._sessions[stage] = self._bundle.session(stage, self._threads)
            return self._sessions[stage]

    def speaker(self, embedding: Array, stage: str) -> dict[str, Array]:
        """embedding [spk_embed_dim] -> the input `spks` of `stage`, if that listens to it."""
        if all(tensor.name != "spks" for tensor in self.session(stage).stage.inputs):
            return {}
        project = self.session("flow_speaker")
        return project(project.start(), embedding=embedding.astype(np.float32, copy=False))[0]

    def tail(self) -> State:
        """What the encoder knows before the first token."""
        return self.session("flow_encode").start()

    def encode(self, tail: State, ids: Array, ahead: Array) -> tuple[Array, State]:
        """ids int64 [n], and the tokens after them int64 [up to lookahead] -> mu [n * ratio, width], next tail.

        Upstream reads ids below 0 as 0.
        """
        session, known = self.session("flow_encode"), np.full(self.section.lookahead, NOTHING)
        known[: len(ahead)] = np.maximum(ahead, 0)
        outputs, tail = session(tail, into=None, ids=np.maximum(ids, 0), ahead=known)
        return outputs["mu"].repeat(self.section.ratio, axis=0), tail

    def steps(self, count: int) -> list[Step]:
        """The Euler steps of a walk of `count`. ValueError when the bundle has no modulations for their times."""
        if count not in self._steps:
            grid, session, found = schedule(count, self.section.schedule), self.session("flow_modulation"), []
            for time, width in zip(grid.times, grid.widths, strict=True):
                outputs, _ = session(session.start(), into=None, time=time[None])
                if abs(float(outputs["nearest"][0]) - float(time)) > NEAR:
                    counts = ", ".join(map(str, self.section.steps))
                    raise ValueError(f"{count} flow steps: this bundle has tables for {counts}; export it with {count}")
                found.append(Step(outputs["modulation"], float(width)))
            self._steps[count] = found
        return self._steps[count]

    def walk(self, x: Array, step: Step, velocity: Array) -> Array:
        """x [frames, bands] after one step; velocity [2, frames, bands]: with the conditions and without."""
        guidance = self.section.guidance
        with_conditions, without = velocity
        after: Array = x + step.width * ((1 + guidance) * with_conditions - guidance * without)
        return after
