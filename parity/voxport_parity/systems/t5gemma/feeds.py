"""T5Gemma-TTS: how its goldens are fed (docs/systems/t5gemma.md; golden.json's notes).

One module for each part of the model; what a golden's tensor is called says which part it belongs to.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from voxport.bundle import Bundle
from voxport.graphs.session import Array
from voxport_parity.parts import Part, Parts
from voxport_parity.systems.t5gemma import codec, codec_encoder, lm, sampler, text
from voxport_parity.trace import Golden, Trace


class Owner(Part, Protocol):
    """A part that knows its own tensors."""

    def owns(self, name: str, /) -> bool: ...


OWNERS: tuple[Owner, ...] = (codec, codec_encoder, text, sampler)


def _part(name: str) -> Part:
    return next((part for part in OWNERS if part.owns(name)), lm)


PARTS = Parts(_part)
bound, rounded, stage, input_reason = PARTS.bound, PARTS.rounded, PARTS.stage, PARTS.input_reason


def options(golden: Golden) -> Mapping[str, Any]:
    """See `Feeds`: nothing."""
    assert golden
    return {}


def without_golden(bundle: Bundle) -> Golden:
    """Ids, codes and a recording, for a checkpoint nobody has goldens for."""
    tensors = lm.inputs(bundle) | codec.inputs(bundle) | codec_encoder.inputs(bundle)
    return Golden(tensors, {"settings": {}}, None)


def live(_files: Sequence[Path], golden: Golden, _trace: Trace) -> Iterator[tuple[str, Array, Array]]:
    """See `Feeds`: what upstream's code made of the texts in the golden's notes. Its class runs with an older
    transformers than the one that is here."""
    return text.pairs(golden)


def trace(bundle: Bundle, golden: Golden) -> Trace:
    """See `Feeds`."""
    outputs = Trace()
    for part_of in (text.trace, lm.trace, sampler.trace, codec.trace, codec_encoder.trace):
        outputs |= part_of(bundle, golden)
    return outputs


def streamed(bundle: Bundle, golden: Golden) -> Trace:
    """See `Feeds`: codes in random pieces."""
    return codec.streamed(bundle, golden)
