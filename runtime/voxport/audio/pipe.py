"""Raw audio on stdin and stdout: 16-bit little-endian mono, in the order it comes, without a header."""

import io
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np

from voxport.audio.files import Samples, pcm16

PIPE = "-"  # stands for stdin or stdout where a file is named
PIPE_BYTES = 1 << 16


class Pipe:
    """Writes samples as raw s16le and flushes each piece at once, because somebody is listening."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream

    def write(self, samples: Samples) -> None:
        """Writes samples ``[n]``; values beyond -1..1 saturate."""
        self._stream.write(pcm16(samples).astype("<i2").tobytes())
        self._stream.flush()


def read_raw(stream: BinaryIO) -> Iterator[Samples]:
    """Yields samples ``[n]`` of s16le as they arrive, without waiting for a full block.

    Raises ValueError when the stream ends within a sample.
    """
    rest = b""
    read = stream.read1 if isinstance(stream, io.BufferedIOBase) else stream.read
    while data := read(PIPE_BYTES):
        data = rest + data
        whole = len(data) // 2 * 2
        rest = data[whole:]
        if whole:
            yield np.frombuffer(data[:whole], "<i2").astype(np.float32) / np.float32(32768)
    if rest:
        raise ValueError("stdin: ends within a sample; wanted raw 16-bit little-endian mono")
