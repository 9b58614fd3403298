"""A live stream through LLVC (docs/systems/llvc.md 4).

Three modes, one path. The stream is cut into chunks of `chunk` samples (13 ms in the releases) and every chunk goes
through `prenet` (when the bundle has one) and `convert`:

    exact     sample-aligned streaming: equal to `offline` on every full chunk, whatever the chunk factor
    upstream  upstream's streaming, quirks included: the first hop is lost and the pre-net sees the overlap twice
    offline   upstream's whole-file result: as exact, but past the end of the file the decoder sees zero frames

Output sample i belongs to input sample i. Latency is `chunk_factor` chunks and one hop of look-ahead.
"""

from typing import Literal, get_args

import numpy as np

from voxport.audio.resample import Resampler
from voxport.graphs.session import Array, Session, State

Mode = Literal["exact", "upstream", "offline"]

OFFLINE_CHUNKS = 32  # chunks per step without a listener: bounds memory for files of any length


class Graphs:
    """The opened graphs, and the sizes that they declare. Any number of streams may run over them at once."""

    def __init__(self, name: str, prenet: Session | None, convert: Session, sample_rate: int, hop: int) -> None:
        """`name`: for messages; `hop`: samples per frame of the encoder."""
        self.name, self.prenet, self.convert, self.sample_rate, self.hop = name, prenet, convert, sample_rate, hop
        shapes = {t.name: t.shape for t in (*convert.stage.inputs, *convert.stage.state)}
        self.chunk = int(shapes["audio"][1])  # samples
        self.context = int(shapes["context"][0]) if "context" in shapes else 0  # samples before a chunk; 0: none


class Stream:
    """A live stream: samples in at `rate` Hz, samples out at the model's rate."""

    def __init__(self, graphs: Graphs, mode: Mode, chunk_factor: int, rate: int) -> None:
        if mode not in get_args(Mode):
            raise ValueError(f"mode {mode!r} is not one of {', '.join(get_args(Mode))}")
        if chunk_factor < 1:
            raise ValueError(f"chunk factor {chunk_factor}: wanted 1 or more chunks per step")
        self._graphs, self.mode, self.rate = graphs, mode, rate
        self.chunk_factor = OFFLINE_CHUNKS if mode == "offline" else chunk_factor
        self._hop, self._chunk, self._context = graphs.hop, graphs.chunk, graphs.context
        # Where a step's context comes from: the graph's state, or (upstream) the raw samples before the chunk.
        self._overlap = self._context if mode == "upstream" else 0
        self.block = self.chunk_factor * self._chunk  # samples per step
        self._raw = np.zeros(self._context + self.block, np.float32)
        self._filtered = np.zeros_like(self._raw)
        if mode == "upstream" and self.block < self._context:
            raise ValueError(
                f"upstream mode needs steps of {self._context} samples or more; "
                f"raise the chunk factor above {chunk_factor}"
            )
        self._frames = np.zeros(1, np.int64)
        self.reset()

    @property
    def sample_rate(self) -> int:
        """Of the output, in Hz."""
        return self._graphs.sample_rate

    @property
    def latency(self) -> int:
        """Samples at `sample_rate` that must follow a sample before its step can run."""
        return self.block + self._context // 2

    def reset(self) -> None:
        """Forgets everything fed so far."""
        self._resampler = Resampler(self.rate, self.sample_rate)
        self._states = {s.stage.name: s.start() for s in (self._graphs.prenet, self._graphs.convert) if s is not None}
        self._received = self._emitted = 0
        # exact and offline: one hop of zeros leads, and the first two hops only fill the context.
        # upstream: the context starts as zeros, and the first hop of the audio is dropped.
        self._primed = self.mode == "upstream" or not self._context
        self._skip = self._hop if self.mode == "upstream" else 0
        self._fill = self._overlap if self._primed else self._hop
        self._raw[: self._context] = 0

    def feed(self, samples: Array) -> Array:
        """samples float32 [n] at `rate` -> converted float32 [m] at `sample_rate`: all that is ready, maybe none."""
        self._refuse_unstreamable()
        return self._push(self._resampler.feed(_checked(samples)))

    def flush(self) -> Array:
        """Ends the stream: the rest of the output, so that it is as long as the input. Then the stream starts anew."""
        self._refuse_unstreamable()
        ready = self._push(self._resampler.flush())
        rest = self._drain()
        self.reset()
        return np.concatenate((ready, rest))

    def convert(self, samples: Array) -> Array:
        """A whole signal at once: float32 [n] -> float32 [n] (at equal rates)."""
        return np.concatenate((self.feed(samples), self.flush()))

    def _refuse_unstreamable(self) -> None:
        if not self._context and self.mode != "offline":
            raise ValueError(
                f"{self._graphs.name}: a model without look-ahead cannot be streamed "
                "(upstream's own result is garbage); use mode 'offline'"
            )

    def _push(self, samples: Array) -> Array:
        """Fills the block; runs a step whenever it is full."""
        self._received += len(samples)
        samples = self._skipped(samples)
        out = np.empty((self._fill - self._overlap + len(samples)) // self.block * self.block + self.block, np.float32)
        done = at = 0
        while at < len(samples):
            full = self._overlap + self.block if self._primed else self._context
            take = min(full - self._fill, len(samples) - at)
            self._raw[self._fill : self._fill + take] = samples[at : at + take]
            self._fill += take
            at += take
            if self._fill < full:
                break
            if self._primed:
                done += self._step(self.chunk_factor, out[done:])
            else:
                self._prime()
        self._emitted += done
        return out[:done]

    def _skipped(self, samples: Array) -> Array:
        drop = min(self._skip, len(samples))
        self._skip -= drop
        return samples[drop:]

    def _prime(self) -> None:
        self._states["convert"]["context"][:] = self._filter(self._raw[: self._context])
        self._fill, self._primed = 0, True

    def _drain(self) -> Array:
        """The output still owed (it trails the input by the look-ahead), from a block padded with zeros."""
        left = self._received - self._emitted
        out = np.empty(-(-left // self._chunk) * self._chunk, np.float32)
        if len(out) and not self._primed:
            self._raw[self._fill : self._context] = 0
            self._prime()
        for done in range(0, len(out), self.block):
            self._raw[self._fill :] = 0
            chunks = min(self.block, len(out) - done) // self._chunk
            real = -(-(left - done) // self._hop) if self.mode == "offline" else None
            self._step(chunks, out[done:], real)
        return out[:left]

    def _step(self, chunks: int, out: Array, frames: int | None = None) -> int:
        """Runs `chunks` chunks of the block into the front of `out`; returns the number of samples written.

        `frames`: how many frames are real (default: all).
        """
        size = chunks * self._chunk
        end = self._overlap + size
        audio = self._filter(self._raw[:end])
        if self._overlap:
            self._states["convert"]["context"][:] = audio[: self._overlap]
            audio = audio[self._overlap :]
            self._raw[: self._overlap] = self._raw[end - self._overlap : end]
        self._frames[0] = size // self._hop if frames is None else frames  # more than there are means all
        self._states["convert"] = self._run(
            self._graphs.convert,
            into={"converted": out[:size].reshape(chunks, -1)},
            audio=audio.reshape(chunks, -1),
            frames=self._frames,
        )
        self._fill = self._overlap
        return size

    def _filter(self, raw: Array) -> Array:
        """Raw samples through the pre-net, if there is one."""
        if self._graphs.prenet is None:
            return raw
        filtered = self._filtered[: len(raw)]
        self._states["prenet"] = self._run(self._graphs.prenet, into={"filtered": filtered}, audio=raw)
        return filtered

    def _run(self, session: Session, into: dict[str, Array], **inputs: Array) -> State:
        return session(self._states[session.stage.name], into=into, **inputs)[1]


def _checked(samples: Array) -> Array:
    samples = np.asarray(samples)
    if samples.ndim != 1 or samples.dtype.kind != "f":
        raise ValueError(f"wanted float samples [n] in [-1, 1], got {samples.dtype}{list(samples.shape)}")
    if not np.isfinite(samples).all():
        raise ValueError(f"sample {int(np.argmin(np.isfinite(samples)))} is not a number (NaN or infinite)")
    return samples.astype(np.float32, copy=False)
