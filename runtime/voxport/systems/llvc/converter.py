"""LLVC voice conversion: any voice in, the checkpoint's one voice out (docs/systems/llvc.md 4).

voice = voxport.load(bundle)
stream = voice.stream()
out = stream.feed(samples)          # float32 in [-1, 1], any number
out = stream.flush()
"""

from collections.abc import Iterator
from typing import get_args

import numpy as np

from voxport import draws
from voxport.bundle import Bundle
from voxport.graphs.session import Array
from voxport.rehearsal import Output, Rehearsal
from voxport.speech.settings import Value
from voxport.systems.llvc.section import Section
from voxport.systems.llvc.stream import Graphs, Mode, Stream


class Converter:
    """The opened model. Any number of threads may open streams, each for one thread at a time."""

    def __init__(self, bundle: Bundle, *, threads: int | None = None) -> None:
        """`threads`: 1 is right for chunks of 13 ms, whose matrices are too small to share."""
        stages, threads = bundle.manifest.stages, threads or 1
        self.bundle = bundle
        self._graphs = Graphs(
            str(bundle.path),
            bundle.session("prenet", threads) if "prenet" in stages else None,
            bundle.session("convert", threads),
            bundle.manifest.sample_rate,
            bundle.section(Section).hop,
        )

    @property
    def sample_rate(self) -> int:
        """Of the output, in Hz."""
        return self.bundle.manifest.sample_rate

    @property
    def clock(self) -> None:
        """There is no language model whose steps could be timed."""
        return None

    def stream(self, mode: Mode = "exact", chunk_factor: int = 1, rate: int | None = None) -> Stream:
        """An independent stream.

        `chunk_factor`: chunks per step (offline ignores it); `rate`: of the samples to be fed, in Hz (default: the
        bundle's). Raises ValueError for an unknown mode, and for streaming a model without look-ahead.
        """
        return Stream(self._graphs, mode, chunk_factor, rate or self.sample_rate)

    def convert(self, samples: Array) -> Array:
        """A whole signal at once, in exact mode: float32 [n] -> float32 [n]."""
        return self.stream().convert(samples)

    def workload(self, seconds: float, chunk_factor: int = 1, /, **settings: Value) -> Iterator[Array]:
        """A live stream for benchmarks: noise in exact mode, one chunk in, one chunk out."""
        if settings:
            raise ValueError(f"llvc has no settings; got {', '.join(settings)}")
        mode: Mode = "exact" if self._graphs.context else "offline"
        stream = self.stream(mode, chunk_factor)
        size = stream.block
        for step in range(max(1, round(seconds * self.sample_rate / size))):
            yield stream.feed(0.1 * draws.normals(0, "workload", step, (size,)))
        yield stream.flush()

    def rehearse(self) -> Rehearsal:
        """A fixed noisy signal of 5.5 chunks through every mode the model offers: what `golden/` holds, by mode."""
        chunk, context = self._graphs.chunk, self._graphs.context
        length = 11 * chunk // 2
        t = np.arange(length) / self.sample_rate
        signal = 0.3 * np.sin(2 * np.pi * 150 * t * (1 + t)) + 0.1 * draws.normals(0, "rehearsal", 0, (length,))
        modes: tuple[Mode, ...] = get_args(Mode) if context else ("offline",)
        factor = -(-context // chunk) or 1  # the smallest step that upstream's streaming can take
        stages = tuple(self.bundle.manifest.stages)
        audio = {mode: self.stream(mode, factor).convert(signal.astype(np.float32)) for mode in modes}
        return {mode: Output(samples, stages) for mode, samples in audio.items()}
