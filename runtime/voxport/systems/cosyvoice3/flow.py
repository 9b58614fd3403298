"""Fun-CosyVoice3's flow: speech tokens and a reference to mel (docs/systems/cosyvoice3.md 4 and 7).

flow = Flow(bundle, threads, section)
flow.mel(reference, tokens)                        # all at once, as upstream speaks when nobody waits
stream = flow.stream(reference)                    # or while the tokens come: stream.feed(tokens), stream.flush()

Both begin with upstream's noise, so the same tokens give the same mel.
"""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from voxport.bundle import Bundle
from voxport.graphs.session import Array
from voxport.systems.cosyvoice3.flownet import FlowNet
from voxport.systems.cosyvoice3.flowstream import FlowStream, Noise, Reference
from voxport.systems.cosyvoice3.noise import flow_noise
from voxport.systems.cosyvoice3.section import FlowSection

STEPS = 10  # upstream's n_timesteps, hard-coded there
# Seconds of speech that a streamed block may see where memory counts: with 10 steps a second takes 90 MB in fp16 and
# twice that in float32, and so does every second of the reference.
WINDOW = 4.0

Watch = Callable[[Array, Array], None]  # x [frames, bands] before a step, velocity [2, frames, bands] there


@dataclass(frozen=True, eq=False)
class _Primed:
    """The blocks of a reference that no generated token can reach."""

    reference: Reference
    steps: int
    noise: Noise | None  # None: upstream's
    stream: FlowStream


class Flow:
    """Tokens to mel. Several threads may use one at once."""

    def __init__(self, bundle: Bundle, threads: int, section: FlowSection, token_rate: int) -> None:
        """`threads`: cores that one call may use; `token_rate`: tokens per second."""
        self.net = FlowNet(bundle, threads, section)
        self.section, self.frame_rate = section, token_rate * section.ratio
        self._lock = threading.Lock()  # of the stream below
        self._primed: _Primed | None = None

    def mel(
        self,
        reference: Reference,
        tokens: Sequence[int] | Array,
        steps: int = STEPS,
        noise: Noise | None = None,
        watch: Watch | None = None,
    ) -> Array:
        """tokens int64 [n] -> the mel float32 [frames, bands] after the reference's; every frame sees all others.

        `steps`: Euler steps; `noise`: where they begin, default upstream's; `watch` gets every step.
        Raises ValueError for steps that the bundle has no table for, for more frames than upstream has noise for, and
        for a reference whose mel is longer than all tokens.
        """
        net, ids = self.net, np.concatenate((reference.tokens, tokens)).astype(np.int64)
        mu, _ = net.encode(net.tail(), ids, ids[:0])
        known, frames = len(reference.mel), len(mu)
        if known > frames:
            raise ValueError(
                f"the reference has {known} mel frames, more than the {frames} of all tokens; trim its mel"
            )
        x = (noise or upstream_noise(reference))(0, frames)
        cond = np.zeros_like(x)
        cond[:known] = reference.mel
        constants = {"mu": mu, "cond": cond, **net.speaker(reference.embedding, "flow")}
        session = net.session("flow")
        state = session.start(constants)
        for step in net.steps(steps):
            outputs, state = session(state, into=None, x=x, modulation=step.modulation)
            if watch is not None:
                watch(x, outputs["velocity"])
            x = net.walk(x, step, outputs["velocity"])
        return x[known:]

    def stream(
        self, reference: Reference, steps: int = STEPS, window: float | None = None, noise: Noise | None = None
    ) -> FlowStream:
        """A stream of one utterance, the reference behind it.

        `window`: seconds of speech that a block sees beside the reference and itself, rounded up to blocks; None: all
        of it. The reference's part is computed once for the last reference used.
        """
        blocks = None if window is None else max(0, int(np.ceil(window * self.frame_rate / self.section.block - 1e-9)))
        with self._lock:
            primed = self._primed
            kind = (steps, noise)
            if primed is None or (primed.steps, primed.noise) != kind or not primed.reference.same(reference):
                self._primed = primed = _Primed(reference, steps, noise, self._prime(reference, steps, noise))
            return primed.stream.fork(blocks, fix=True)

    def upstream_chunk(self, reference: Reference, tokens: Sequence[int] | Array, steps: int = STEPS) -> Array:
        """What upstream's streaming call gives before the tokens end: the mel after the reference's of all of `tokens`
        but the last ones, which are only looked at. Its last call is `mel`."""
        stream = self.stream(reference, steps)
        return np.concatenate((stream.feed(tokens), stream.peek()))

    def _prime(self, reference: Reference, steps: int, noise: Noise | None) -> FlowStream:
        return FlowStream.primed(self.net, reference, self.net.steps(steps), noise or upstream_noise(reference))


def upstream_noise(reference: Reference) -> Noise:
    """The noise that every utterance of upstream's begins with."""
    bands = reference.mel.shape[1]
    return lambda start, stop: np.ascontiguousarray(flow_noise(bands, stop)[:, start:].T)
