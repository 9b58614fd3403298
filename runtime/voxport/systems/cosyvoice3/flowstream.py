"""The flow while its tokens still come: mel in whole blocks, each of which sees those before it.

Equal to upstream's net with streaming=True on the whole sequence, however the tokens are split: keys and values of
every layer and Euler step are kept, and the last inputs of the convolutions (docs/systems/cosyvoice3.md 7). They cost
memory by the frame; `window` bounds it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from voxport.graphs.session import Array, State
from voxport.graphs.stage import CAPACITY
from voxport.systems.cosyvoice3.flownet import FlowNet, Step

Noise = Callable[[int, int], Array]  # frames from .. to, counted from the reference's first -> float32 [frames, bands]

GROWTH = 4  # blocks by which caches grow until they hold the window
PROMPT = "prompt."


@dataclass(frozen=True, eq=False)
class Reference:
    """What a voice gives to the flow.

    tokens int64 [P], mel float32 [T, bands] and embedding float32 [spk_embed_dim] of its recording. T is ratio * P
    where a front end aligned them; in voice conversion it need not be.
    """

    tokens: Array
    mel: Array
    embedding: Array

    def same(self, other: "Reference") -> bool:
        """Whether the other one holds the same numbers."""
        pairs = ((self.tokens, other.tokens), (self.mel, other.mel), (self.embedding, other.embedding))
        return all(a is b or np.array_equal(a, b) for a, b in pairs)


class Blocks:
    """The net on one block after the other; `steps` Euler steps each."""

    def __init__(
        self, net: FlowNet, steps: list[Step], speaker: dict[str, Array], window: int | None, room: int = 0
    ) -> None:
        """`window`: how many blocks before its own a block sees, beside those that were fixed; None: all. `room`: for
        how many blocks there are caches at first."""
        self._net, self._steps, self._speaker, self._window = net, steps, speaker, window
        self._session = net.session("flow_stream")
        self._caches = [t for t in self._session.stage.state if t.shared]
        self._tails = [t.name for t in self._session.stage.state if not t.shared]
        nothing = {PROMPT + t.name: np.zeros(t.sized({CAPACITY: 0}), t.dtype) for t in self._caches}
        self._fixed = [nothing] * len(steps)  # the caches of blocks that stay, by step
        self._capacity = room  # blocks
        self._states = self._start()
        self.done = 0  # blocks
        self.start = 0  # frames

    def advance(self, x: Array, mu: Array, cond: Array) -> Array:
        """One block: noise x [frames, bands], mu [frames, width], cond [frames, bands] -> its mel [frames, bands].

        After a block that is shorter than the others none may follow.
        """
        return self._run(x, mu, cond, self._room(len(x)))

    def look(self, x: Array, mu: Array, cond: Array) -> Array:
        """What `advance` would give, without the block: the next one may be this one, grown."""
        if self._window is not None:
            raise ValueError("a stream with a window cannot look ahead: it would forget the block that it writes over")
        room = self._room(len(x))
        tails = [{name: state[name].copy() for name in self._tails} for state in self._states]
        before = self.done, self.start
        mel = self._run(x, mu, cond, room)
        self.done, self.start = before
        for state, tail in zip(self._states, tails, strict=True):
            for name, array in tail.items():
                state[name][:] = array
        return mel

    def fix(self, window: int | None) -> "Blocks":
        """A stream that goes on from here. What was seen so far stays, is not copied, and serves many streams; `window`
        counts what comes. This stream must go no further then."""
        other = Blocks(self._net, self._steps, self._speaker, window)
        other._fixed, other.start = self._fixed, self.start
        if self.done:
            end = self.done * self._net.section.block
            other._fixed = [{PROMPT + t.name: _cut(state[t.name], end) for t in self._caches} for state in self._states]
        other._states = other._start()
        for state, own in zip(self._states, other._states, strict=True):
            for name in self._tails:
                own[name][:] = state[name]
        return other

    def fork(self) -> "Blocks":
        """A stream that goes on from here, as this one still can."""
        other = object.__new__(Blocks)
        other.__dict__.update(self.__dict__)
        other._states = [state.copy() for state in self._states]
        return other

    def _run(self, x: Array, mu: Array, cond: Array, slots: Array) -> Array:
        places = {"start": np.array([self.start]), "slots": slots}
        places["filled"] = np.array([max(int(slots[-1]) + 1, self._filled())])
        for i, step in enumerate(self._steps):
            inputs = {"x": x, "mu": mu, "cond": cond, "modulation": step.modulation, **places}
            outputs, self._states[i] = self._session(self._states[i], into=None, **inputs)
            x = self._net.walk(x, step, outputs["velocity"])
        self.done, self.start = self.done + 1, self.start + len(x)
        return x

    def _filled(self) -> int:
        return min(self.done, self._capacity) * self._net.section.block

    def _room(self, frames: int) -> Array:
        """Slots for the next block, which is the last one if it is short: int64 [frames]."""
        block = self._net.section.block
        most = self.done + GROWTH if self._window is None else self._window + 1
        if self.done == self._capacity < most:
            self._grow(min(most, self._capacity + GROWTH))
        slot = self.done % self._capacity
        if frames < block and self.done >= self._capacity:
            # A short block leaves slots of the oldest block as they are. As the last ones of all, nobody reads them.
            last = slice((self._capacity - 1) * block, self._capacity * block)
            for state in self._states:
                for tensor in self._caches:
                    state[tensor.name][:, :, slot * block : (slot + 1) * block] = state[tensor.name][:, :, last]
            self.done = self._capacity - 1
            slot = self._capacity - 1
        return np.arange(slot * block, slot * block + frames)

    def _grow(self, capacity: int) -> None:
        """Larger caches with what these hold, one step at a time."""
        filled, self._capacity = self._filled(), capacity
        for i, old in enumerate(self._states):
            self._states[i] = new = self._start_step(i)
            for tensor in self._session.stage.state:
                to = new[tensor.name][:, :, :filled] if tensor.shared else new[tensor.name]
                to[:] = old[tensor.name][:, :, :filled] if tensor.shared else old[tensor.name]

    def _start(self) -> list[State]:
        return [self._start_step(i) for i in range(len(self._steps))]

    def _start_step(self, step: int) -> State:
        capacity = self._capacity * self._net.section.block
        return self._session.start(self._fixed[step] | self._speaker, capacity=capacity)


def _cut(cache: Array, frames: int) -> Array:
    """cache [2, heads, capacity, size] up to `frames`, contiguous; the very memory if that is all of it."""
    return np.ascontiguousarray(cache[:, :, :frames])


@dataclass(frozen=True, eq=False)
class _Progress:
    """Tokens as they come, and what the encoder made of them so far."""

    ids: Array  # int64: all that are known
    encoded: int  # how many of them the encoder has read
    tail: State
    mu: Array  # of the frames that no block has taken yet


class FlowStream:
    """One utterance: tokens in, the mel of the speech after the reference out."""

    def __init__(self, net: FlowNet, reference: Reference, blocks: Blocks, noise: Noise) -> None:
        self._net, self._reference, self._blocks, self._noise = net, reference, blocks, noise
        mu = np.zeros(net.session("flow_encode").stage.outputs[0].sized({"tokens": 0}), np.float32)
        self._progress = _Progress(np.zeros(0, np.int64), 0, net.tail(), mu)
        self._owed = reference.mel[:0]  # mel that is ready

    @classmethod
    def primed(cls, net: FlowNet, reference: Reference, steps: list[Step], noise: Noise) -> "FlowStream":
        """A stream that has done all blocks of the reference that no new token can change. They are fixed."""
        section = net.section
        room = max(0, len(reference.tokens) - section.lookahead) * section.ratio // section.block
        blocks = Blocks(net, steps, net.speaker(reference.embedding, "flow_stream"), None, room)
        stream = cls(net, reference, blocks, noise)
        mel = stream.feed(reference.tokens)
        stream = stream.fork(fix=True)
        stream._owed = mel
        return stream

    def feed(self, tokens: Sequence[int] | Array) -> Array:
        """The next tokens, any number -> mel float32 [n, bands] of the blocks that they complete, maybe none."""
        ids = np.concatenate((self._progress.ids, np.asarray(tokens, np.int64)))
        self._encode(ids, max(self._progress.encoded, len(ids) - self._net.section.lookahead))
        return self._taken(self._net.section.block)

    def flush(self) -> Array:
        """The mel of what is left, with nothing ahead. Nothing may be fed after it."""
        self._encode(self._progress.ids, len(self._progress.ids))
        return self._taken(1)

    def peek(self) -> Array:
        """The mel of what is left of the known tokens, as upstream computes it before more are there: their last frames
        do not see the rest of their block. The stream stays as it is."""
        if not len(self._progress.mu):
            return self._reference.mel[:0]
        start = self._blocks.start
        return self._new(start, self._blocks.look(*self._block(start, len(self._progress.mu))))

    def fork(self, window: int | None = None, *, fix: bool = False) -> "FlowStream":
        """A stream that goes on from here, as this one still can.

        `fix`: what was seen so far stays for good, at no cost of memory, and `window` counts blocks from here on.
        """
        other = object.__new__(FlowStream)
        other.__dict__.update(self.__dict__)
        other._progress = replace(self._progress, tail=self._progress.tail.copy())
        other._blocks = self._blocks.fix(window) if fix else self._blocks.fork()
        return other

    def _encode(self, ids: Array, until: int) -> None:
        """Makes mu of the tokens up to `until`."""
        progress, new = self._progress, ids[self._progress.encoded : until]
        mu, tail = self._net.encode(progress.tail, new, ids[until:]) if len(new) else (progress.mu[:0], progress.tail)
        self._progress = _Progress(ids, until, tail, np.concatenate((progress.mu, mu)))

    def _taken(self, least: int) -> Array:
        """Runs blocks as long as there are `least` frames for one; what they owe with what was owed before."""
        block, mels = self._net.section.block, [self._owed]
        while len(self._progress.mu) >= least:
            start, frames = self._blocks.start, min(block, len(self._progress.mu))
            mels.append(self._new(start, self._blocks.advance(*self._block(start, frames))))
            self._progress = replace(self._progress, mu=self._progress.mu[frames:])
        self._owed = self._reference.mel[:0]
        return np.concatenate(mels)

    def _block(self, start: int, frames: int) -> tuple[Array, Array, Array]:
        """Noise, mu and cond of the next `frames`."""
        noise, known = self._noise(start, start + frames), self._reference.mel[start : start + frames]
        cond = np.zeros_like(noise)
        cond[: len(known)] = known
        return noise, self._progress.mu[:frames], cond

    def _new(self, start: int, mel: Array) -> Array:
        """Of the mel from frame `start` on, what comes after the reference's."""
        return mel[max(0, len(self._reference.mel) - start) :]
