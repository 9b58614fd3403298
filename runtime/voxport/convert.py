"""Files and pipes through a Converter, in bounded memory."""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

import numpy as np
from tqdm import tqdm

from voxport import audio
from voxport.llvc import Converter, Mode
from voxport.session import Array

PIPE = "-"
PIPE_BYTES = 1 << 16
AUDIO = {".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".au", ".caf", ".w64", ".rf64", ".snd"}


@dataclass(frozen=True)
class Options:
    """How to convert; see `voxport convert --help`."""

    mode: Mode = "exact"
    chunk_factor: int = 1
    rate: int | None = None  # of raw stdin, in Hz
    float32: bool = False


class _Sink(Protocol):
    def write(self, samples: Array, /) -> object: ...


class Pipe:
    """Raw s16le, delivered at once: somebody is listening."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream

    def write(self, samples: Array) -> None:
        self._stream.write(audio.pcm16(samples).astype("<i2").tobytes())
        self._stream.flush()


def one(converter: Converter, source: str, target: str, options: Options) -> None:
    """One file or pipe. Raises ValueError in one line for audio that cannot be read, or an output over the input."""
    if source == PIPE:
        rate, blocks = options.rate or converter.sample_rate, _raw(sys.stdin.buffer)
    else:
        _refuse_overwriting(Path(source), target)
        rate, blocks = audio.sample_rate(source), audio.blocks(source)
    stream = converter.stream(options.mode, options.chunk_factor, rate)
    if target == PIPE:
        _pump(stream, blocks, Pipe(sys.stdout.buffer), source)
    else:
        with audio.Writer(target, converter.sample_rate, options.float32) as writer:
            _pump(stream, blocks, writer, source)


def _pump(stream: Converter, blocks: Iterator[Array], sink: _Sink, name: str) -> None:
    received = 0
    with tqdm(desc=name, unit="s", unit_scale=True, delay=1, leave=False, disable=not sys.stderr.isatty()) as bar:
        for block in blocks:
            sink.write(stream.feed(block))
            received += len(block)
            bar.update(len(block) / stream.rate)
        if not received:
            raise ValueError(f"{name}: holds no samples; nothing to convert")
        sink.write(stream.flush())


def _raw(stream: BinaryIO) -> Iterator[Array]:
    """s16le as it arrives, in blocks of what is there."""
    rest = b""
    read = getattr(stream, "read1", stream.read)
    while data := read(PIPE_BYTES):
        data = rest + data
        whole = len(data) // 2 * 2
        rest = data[whole:]
        yield np.frombuffer(data[:whole], "<i2").astype(np.float32) / 32768
    if rest:
        raise ValueError("stdin: ends within a sample; wanted raw 16-bit little-endian mono")


def _refuse_overwriting(source: Path, target: str) -> None:
    if target != PIPE and Path(target).exists() and source.exists() and Path(target).samefile(source):
        raise ValueError(f"{target}: is the input; name another output")
