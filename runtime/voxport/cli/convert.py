"""Files and pipes through a Converter, in bounded memory."""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from tqdm import tqdm

from voxport.audio import files as audio
from voxport.audio.pipe import PIPE, Pipe, read_raw
from voxport.graphs.ort import Array
from voxport.systems import Converter, Stream


@dataclass(frozen=True)
class Options:
    """How to convert; see `voxport convert --help`."""

    mode: str = "exact"
    chunk_factor: int = 1
    rate: int | None = None  # of raw stdin, in Hz
    float32: bool = False


class _Sink(Protocol):
    def write(self, samples: Array, /) -> object: ...


def one(converter: Converter, source: str, target: str, options: Options) -> None:
    """One file or pipe. Raises ValueError in one line for audio that cannot be read, or an output over the input."""
    if source == PIPE:
        rate, blocks = options.rate or converter.sample_rate, read_raw(sys.stdin.buffer)
    else:
        _refuse_overwriting(Path(source), target)
        rate, blocks = audio.sample_rate(source), audio.blocks(source)
    stream = converter.stream(options.mode, options.chunk_factor, rate)
    if target == PIPE:
        _pump(stream, blocks, Pipe(sys.stdout.buffer), source)
    else:
        with audio.Writer(target, converter.sample_rate, options.float32) as writer:
            _pump(stream, blocks, writer, source)


def _pump(stream: Stream, blocks: Iterator[Array], sink: _Sink, name: str) -> None:
    received = 0
    with tqdm(desc=name, unit="s", unit_scale=True, delay=1, leave=False, disable=not sys.stderr.isatty()) as bar:
        for block in blocks:
            sink.write(stream.feed(block))
            received += len(block)
            bar.update(len(block) / stream.rate)
        if not received:
            raise ValueError(f"{name}: holds no samples; nothing to convert")
        sink.write(stream.flush())


def _refuse_overwriting(source: Path, target: str) -> None:
    if target != PIPE and Path(target).exists() and source.exists() and Path(target).samefile(source):
        raise ValueError(f"{target}: is the input; name another output")
