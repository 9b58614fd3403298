"""T5Gemma-TTS: codes as audio, while they come or when all are there."""

import numpy as np

from voxport.codecs import CodecStream
from voxport.codecs.xcodec2 import Codec
from voxport.graphs.session import Array
from voxport.systems.t5gemma.request import WHOLE, Request


class Whole:
    """Decodes all codes of a generation at its end, as upstream does: the codec looks at all of them at once."""

    def __init__(self, codec: Codec) -> None:
        self._codec, self._codes = codec, np.empty(0, np.int64)

    def feed(self, codes: Array) -> Array:
        """Keeps codes int64 [frames]; no samples are settled before the end."""
        self._codes = np.concatenate((self._codes, codes))
        return np.empty(0, np.float32)

    def flush(self) -> Array:
        """All samples float32 [n]. Then the stream starts anew."""
        codes, self._codes = self._codes, np.empty(0, np.int64)
        return self._codec.decode(codes)

    def fork(self) -> "Whole":
        """A stream that goes on from here, as this one still can."""
        other = Whole(self._codec)
        other._codes = self._codes.copy()
        return other


class Player:
    """The tokens of one generation in, samples float32 [n] in [-1, 1] out."""

    def __init__(self, codec: Codec, request: Request) -> None:
        whole = request.settings["schedule"] == WHOLE
        self._stream: CodecStream = Whole(codec) if whole else codec.stream()

    def feed(self, token: Array) -> Array:
        """The next code -> the samples that it settles, maybe none."""
        return _in_range(self._stream.feed(np.atleast_1d(token)))

    def flush(self) -> Array:
        """The samples still owed."""
        return _in_range(self._stream.flush())


def _in_range(samples: Array) -> Array:
    """The codec's samples are not held within any range."""
    clipped: Array = np.clip(samples, -1, 1)
    return clipped
