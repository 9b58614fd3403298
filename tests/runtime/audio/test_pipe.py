"""Raw audio on pipes."""

import ast
import io
from pathlib import Path

import numpy as np
import pytest

from voxport.audio import files
from voxport.audio.pipe import PIPE_BYTES, Pipe, read_raw


class Trickle(io.BytesIO):
    """A stream that hands out one piece per call, as a pipe does."""

    def __init__(self, pieces: list[bytes]) -> None:
        super().__init__()
        self.pieces = pieces

    def read1(self, _: int | None = -1, /) -> bytes:
        return self.pieces.pop(0) if self.pieces else b""


@pytest.mark.parametrize("cuts", [[], [1], [2, 3], [1, 2, 3, 5, 8]])
def test_samples_come_as_they_arrive_however_the_bytes_are_cut(cuts: list[int]) -> None:
    samples = np.array([0, 1, -1, 32767, -32768], "<i2")
    raw = samples.tobytes()
    blocks = list(read_raw(Trickle([raw[a:b] for a, b in zip([0, *cuts], [*cuts, len(raw)], strict=True)])))
    assert len(blocks) == len({cut // 2 for cut in cuts} - {0}) + 1
    output = np.concatenate(blocks)
    assert output.dtype == np.float32
    assert np.array_equal(output, samples.astype(np.float32) / 32768)


def test_a_block_is_bounded() -> None:
    blocks = list(read_raw(io.BytesIO(bytes(3 * PIPE_BYTES))))
    assert [len(block) for block in blocks] == [PIPE_BYTES // 2] * 3


def test_half_a_sample_at_the_end_is_refused() -> None:
    with pytest.raises(ValueError, match="stdin: ends within a sample; wanted raw 16-bit little-endian mono"):
        list(read_raw(io.BytesIO(b"123")))


def test_what_is_written_is_what_is_read() -> None:
    file = io.BytesIO()
    Pipe(file).write(np.array([0, 0.5, -1, 1.5], np.float32))
    assert file.getvalue() == np.array([0, 16384, -32768, 32767], "<i2").tobytes()


def test_audio_knows_nothing_of_graphs_and_systems() -> None:
    for path in Path(files.__file__).parent.glob("*.py"):
        nodes = ast.walk(ast.parse(path.read_text()))
        modules = {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module}
        assert {name for name in modules if name.startswith("voxport")} <= {"voxport.audio", "voxport.audio.files"}
