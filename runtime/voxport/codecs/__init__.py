"""Codecs: samples to codes and back. They know no system; each decodes a stream of codes as a `CodecStream`."""

from typing import Protocol, Self

from voxport.graphs.session import Array


class CodecStream(Protocol):
    """One utterance, decoded as its codes come: `codec.stream(...)` opens it."""

    def feed(self, codes: Array, /) -> Array:
        """The next codes, any number -> the samples float32 [n] that they settle, maybe none."""
        ...

    def flush(self) -> Array:
        """Ends the stream: the samples that are still owed. Then the stream starts anew."""
        ...

    def fork(self) -> Self:
        """A stream that goes on from here, as this one still can."""
        ...
