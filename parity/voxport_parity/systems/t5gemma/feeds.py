"""T5Gemma-TTS: how its goldens are fed (docs/systems/t5gemma.md; golden.json's notes).

One module for each part of the model; what a golden's tensor is called says which part it belongs to.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from voxport.bounds import Bound
from voxport.bundle import Bundle
from voxport.graphs.session import Array
from voxport_parity.systems.t5gemma import codec, codec_encoder, lm, sampler, text
from voxport_parity.trace import Golden, Trace


class Part(Protocol):
    """What each module has: as `Feeds`, for its own tensors."""

    def owns(self, name: str, /) -> bool: ...
    def bound(self, name: str, /) -> Bound: ...
    def rounded(self, name: str, /) -> Bound | None: ...
    def stage(self, name: str, /) -> str: ...
    def input_reason(self, name: str, /) -> str | None: ...


PARTS: tuple[Part, ...] = (codec, codec_encoder, text, sampler)


def _part(name: str) -> Part:
    return next((part for part in PARTS if part.owns(name)), lm)


def bound(name: str) -> Bound:
    """See `Feeds`."""
    return _part(name).bound(name)


def rounded(name: str) -> Bound | None:
    """See `Feeds`."""
    return _part(name).rounded(name)


def stage(name: str) -> str:
    """See `Feeds`."""
    return _part(name).stage(name)


def input_reason(name: str) -> str | None:
    """See `Feeds`."""
    return _part(name).input_reason(name)


def options(golden: Golden) -> Mapping[str, Any]:
    """See `Feeds`: nothing."""
    assert golden
    return {}


def without_golden(bundle: Bundle) -> Golden:
    """Ids, codes and a recording, for a checkpoint nobody has goldens for."""
    tensors = lm.inputs(bundle) | codec.inputs(bundle) | codec_encoder.inputs(bundle)
    return Golden(tensors, {"settings": {}}, None)


def live(_files: Sequence[Path], _golden: Golden, _trace: Trace) -> Iterator[tuple[str, Array, Array]]:
    """Nothing: upstream's class runs with an older transformers than the one that is here."""
    return iter(())


def trace(bundle: Bundle, golden: Golden) -> Trace:
    """See `Feeds`."""
    outputs = Trace()
    for part_of in (text.trace, lm.trace, sampler.trace, codec.trace, codec_encoder.trace):
        outputs |= part_of(bundle, golden)
    return outputs


def streamed(bundle: Bundle, golden: Golden) -> Trace:
    """See `Feeds`: codes in random pieces."""
    return codec.streamed(bundle, golden)
