"""Raw audio on stdin and stdout: 16-bit little-endian mono, in the order it comes, without a header."""

from collections.abc import Iterator
from typing import BinaryIO

import numpy as np

from voxport.audio import files
from voxport.graphs.ort import Array

PIPE = "-"  # stands for stdin or stdout where a file is named
PIPE_BYTES = 1 << 16


class Pipe:
    """Raw s16le, delivered at once: somebody is listening."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream

    def write(self, samples: Array) -> None:
        self._stream.write(files.pcm16(samples).astype("<i2").tobytes())
        self._stream.flush()


def read_raw(stream: BinaryIO) -> Iterator[Array]:
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
