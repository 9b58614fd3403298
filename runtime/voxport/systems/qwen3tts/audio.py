"""Qwen3-TTS: frames of codes as audio, while they still come."""

from collections.abc import Iterable, Iterator

import numpy as np

from voxport.codecs import codec12hz
from voxport.codecs.codec12hz import after_reference
from voxport.graphs.session import Array
from voxport.speech.chunks import Grouping
from voxport.speech.settings import Settings


class Player:
    """Frames of codes in, samples out, in groups that grow from `first_chunk_frames` to `chunk_frames`."""

    def __init__(self, stream: codec12hz.Stream, settings: Settings) -> None:
        """`stream` may have decoded a reference before."""
        self._stream = stream
        first = int(settings["first_chunk_frames"])
        self._groups = Grouping[Array](first, int(settings["chunk_frames"]), first)

    def feed(self, frame: Array) -> Array:
        """The next frame int64 [books] -> the samples of the group that it completes, maybe none."""
        return self._decode(self._groups.add(frame))

    def flush(self) -> Array:
        """The samples of the frames that are left."""
        return self._decode(self._groups.rest())

    def _decode(self, group: list[Array]) -> Array:
        return self._stream.feed(np.stack(group)) if group else np.empty(0, np.float32)


class UpstreamPlayer:
    """Frames of codes in, all samples out at the end, decoded in upstream's chunks."""

    def __init__(self, codec: codec12hz.Codec, reference: Array | None) -> None:
        """`reference`: the codes int64 [frames, books] that the speech goes on from."""
        self._codec = codec
        self._reference = 0 if reference is None else len(reference)
        self._frames = [] if reference is None else list(reference)

    def feed(self, frame: Array) -> Array:
        """The next frame int64 [books] -> no samples yet."""
        self._frames.append(frame)
        return np.empty(0, np.float32)

    def flush(self) -> Array:
        """The samples of the new speech alone."""
        codes = np.array(self._frames, np.int64).reshape(-1, self._codec.books)
        wave = self._codec.chunked(codes)
        start = after_reference(self._reference, len(codes), len(wave)) if self._reference else 0
        return wave[start:]


def decode(frames: Iterable[Array], player: Player | UpstreamPlayer) -> Iterator[Array]:
    """Frames of codes [books] as they come -> float32 [n], piece by piece."""
    for frame in frames:
        yield player.feed(frame)
    yield player.flush()
