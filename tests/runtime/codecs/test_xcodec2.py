"""XCodec2's decoder at once and in windows, over a session that only looks like one."""

from collections.abc import Mapping

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from voxport.codecs.xcodec2 import Codec, CodecSection, streamed_db
from voxport.graphs.session import Array, State
from voxport.graphs.stage import Stage, TensorSpec

FRAME, CODES = 4, 64
CHUNK, CONTEXT, AHEAD = 5, 7, 2
SECTION = CodecSection(CODES, 16000, 320, CHUNK, CONTEXT, AHEAD)


class AllAtOnce:
    """A Session whose samples are the codes they belong to, moved by `lean` times the mean of the whole call."""

    threads = 1

    def __init__(self, lean: float = 0.5, extra: int = 0) -> None:
        wave = TensorSpec("wave", "float32", ("frames", FRAME))
        rest = (TensorSpec("rest", "float32", (extra,)),) if extra else ()
        self.stage = Stage("codec_decode", (TensorSpec("codes", "int64", ("frames",)),), (wave, *rest))
        self._lean, self._extra, self.sizes = lean, extra, list[int]()

    def start(self, constants: Mapping[str, Array] | None = None, /, **axes: int) -> State:
        assert not constants
        assert not axes
        return {}  # type: ignore[return-value]

    def __call__(
        self, state: State, *, into: Mapping[str, Array] | None = None, **inputs: Array
    ) -> tuple[dict[str, Array], State]:
        assert into is None
        codes = inputs["codes"]
        self.sizes.append(len(codes))
        steps = (codes + self._lean * codes.mean()).astype(np.float32)
        outputs = {"wave": np.repeat(steps[:, None], FRAME, axis=1)}
        return outputs | ({"rest": np.full(self._extra, -1, np.float32)} if self._extra else {}), state


def codes(count: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).integers(0, CODES, count)


def streamed(codec: Codec, ids: Array, *, chunk: int | None = None, context: int | None = None) -> Array:
    stream = codec.stream(chunk, context)
    return np.concatenate((stream.feed(ids), stream.flush()))


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 60),
    st.lists(st.integers(0, 60), max_size=6),
    st.integers(1, 9),
    st.integers(0, 12),
    st.integers(0, 3),
)
def test_a_stream_gives_the_same_however_its_codes_are_split(
    count: int, cuts: list[int], chunk: int, context: int, extra: int
) -> None:
    codec, ids = Codec(AllAtOnce(extra=extra), SECTION), codes(count)
    stream = codec.stream(chunk, context)
    pieces = [stream.feed(piece) for piece in np.split(ids, np.minimum(sorted(cuts), count))]
    got = np.concatenate([*pieces, stream.flush()])
    np.testing.assert_array_equal(got, streamed(codec, ids, chunk=chunk, context=context))
    assert len(got) == (count * FRAME + extra if count else 0)


def test_what_is_no_longer_than_the_first_window_is_exact() -> None:
    codec = Codec(AllAtOnce(extra=3), SECTION)
    ids = codes(CHUNK + AHEAD - 1)
    np.testing.assert_array_equal(streamed(codec, ids), codec.decode(ids))
    longer = codes(CHUNK + AHEAD + 1)
    assert not np.array_equal(streamed(codec, longer), codec.decode(longer))


def test_a_window_is_a_chunk_with_its_context_and_what_is_ahead() -> None:
    session = AllAtOnce()
    streamed(Codec(session, SECTION), codes(4 * CHUNK))
    assert session.sizes == [CHUNK + AHEAD, 2 * CHUNK + AHEAD, CONTEXT + CHUNK + AHEAD, CONTEXT + CHUNK]


def test_samples_come_as_soon_as_their_window_is_complete() -> None:
    stream = Codec(AllAtOnce(), SECTION).stream()
    counts = [len(stream.feed([code])) for code in codes(2 * CHUNK + AHEAD)]
    whole = CHUNK * FRAME
    assert counts == [whole if n in (CHUNK + AHEAD, 2 * CHUNK + AHEAD) else 0 for n in range(1, len(counts) + 1)]


def test_windows_go_over_into_each_other() -> None:
    """Where windows agree nothing is heard of a seam; where they differ, the first samples lie between both."""
    ids = codes(40)
    exact = Codec(AllAtOnce(lean=0), SECTION)
    np.testing.assert_allclose(streamed(exact, ids), exact.decode(ids), atol=1e-5)
    codec, seam = Codec(AllAtOnce(), SECTION), CHUNK * FRAME
    first, second = codec.decode(ids[: CHUNK + AHEAD]), codec.decode(ids[: 2 * CHUNK + AHEAD])
    got = streamed(codec, ids)[: 2 * seam]
    np.testing.assert_array_equal(got[:seam], first[:seam])
    np.testing.assert_array_equal(got[seam + FRAME :], second[seam + FRAME : 2 * seam])
    shares = (got[seam : seam + FRAME] - first[seam]) / (second[seam] - first[seam])
    np.testing.assert_allclose(shares, (np.arange(FRAME) + 0.5) / FRAME, atol=1e-4)


def test_more_context_is_nearer() -> None:
    codec, ids = Codec(AllAtOnce(), SECTION), codes(200)
    exact = codec.decode(ids)
    errors = [float(np.mean((streamed(codec, ids, context=context) - exact) ** 2)) for context in (0, 10, 80)]
    assert errors == sorted(errors, reverse=True)
    assert streamed_db(codec, ids) == pytest.approx(
        10 * np.log10(exact.var() / np.mean((streamed(codec, ids) - exact) ** 2))
    )


def test_a_fork_goes_on_by_itself() -> None:
    codec, ids = Codec(AllAtOnce(), SECTION), codes(50)
    stream = codec.stream()
    start = stream.feed(ids[:23])
    other = stream.fork()
    ends = [np.concatenate((start, s.feed(rest), s.flush())) for s, rest in ((stream, ids[23:]), (other, ids[23:30]))]
    np.testing.assert_array_equal(ends[0], streamed(codec, ids))
    np.testing.assert_array_equal(ends[1], streamed(codec, ids[:30]))


def test_a_flushed_stream_starts_anew() -> None:
    codec = Codec(AllAtOnce(), SECTION)
    stream = codec.stream()
    for seed in (1, 2):
        ids = codes(31, seed)
        np.testing.assert_array_equal(np.concatenate((stream.feed(ids), stream.flush())), streamed(codec, ids))


@pytest.mark.parametrize(
    ("ids", "problem"),
    [
        ([[1, 2]], r"wanted codes int \[frames\], got int64\[1, 2\]"),
        ([0.5], r"wanted codes int \[frames\], got float64\[1\]"),
        ([3, CODES], f"code {CODES} is not one of 0 .. {CODES - 1}"),
        ([3, -1], f"code -1 is not one of 0 .. {CODES - 1}"),
    ],
)
def test_codes_of_another_kind_are_refused(ids: object, problem: str) -> None:
    codec = Codec(AllAtOnce(), SECTION)
    for decode in (codec.decode, codec.stream().feed):
        with pytest.raises(ValueError, match=problem):
            decode(np.array(ids))


@pytest.mark.parametrize(("chunk", "context"), [(0, 3), (3, -1)])
def test_schedules_that_are_none_are_refused(chunk: int, context: int) -> None:
    with pytest.raises(ValueError, match="wanted a chunk of at least 1 code"):
        Codec(AllAtOnce(), SECTION).stream(chunk, context)
