"""T5Gemma-TTS: upstream's codes through XCodec2's decoder, layer by layer and whole (docs/systems/t5gemma.md 6)."""

import re

import numpy as np

from voxport import bounds, draws
from voxport.bounds import Bound
from voxport.bundle import Bundle
from voxport.codecs.xcodec2 import Codec
from voxport.graphs.session import Array
from voxport.systems.t5gemma.section import Section
from voxport_parity.reference import taps_of
from voxport_parity.trace import Golden, Trace

PREFIX, WAVE, CODES = "codec.dec.", "codec.dec.wav", "codec.dec.codes"
CODED, ROUNDTRIP = "codec.enc.codes", "codec.roundtrip.wav"
FIRST = re.compile(r"(.*)\.first(\d+)")  # of a tensor only so many are in the golden
FRAMES = 40  # of codes that are made up


def owns(name: str) -> bool:
    """Whether a golden tensor is of the codec's decoder."""
    return name.startswith((PREFIX, ROUNDTRIP))


def bound(name: str) -> Bound:
    """See `Feeds`."""
    return bounds.XCODEC2_AUDIO if ".wav" in name else bounds.XCODEC2_LAYER


def rounded(name: str) -> Bound | None:
    """See `Feeds`. Rounding moves the phases of the spectrum, and samples with them: the products are held instead."""
    assert owns(name)
    return None


def stage(name: str) -> str:
    """See `Feeds`."""
    assert owns(name)
    return "codec_decode"


def input_reason(name: str) -> str | None:
    """See `Feeds`."""
    return "the codes that upstream decodes" if name == CODES else None


def inputs(bundle: Bundle) -> Trace:
    """Codes to decode, for a checkpoint nobody has goldens for."""
    codes = draws.uniforms(0, "parity.codes", 0, FRAMES) * bundle.section(Section).codec.codes
    return {CODES: codes.astype(np.int64)[None, None]}


def trace(bundle: Bundle, golden: Golden) -> Trace:
    """See `Feeds`."""
    codec = _codec(bundle)
    outputs = Trace()
    if CODED in golden.tensors and any(name.startswith(ROUNDTRIP) for name in golden.tensors):
        outputs[ROUNDTRIP] = codec.decode(golden.tensors[CODED].reshape(-1))[None, None]
    codes = _codes(codec, golden)
    if codes is not None:
        outputs[WAVE] = codec.decode(codes)[None, None]
        outputs |= taps_of(codec.session)
    return outputs | _first(outputs, golden)


def streamed(bundle: Bundle, golden: Golden) -> Trace:
    """See `Feeds`. In windows the decoder computes something else, so they all come in one."""
    codec = _codec(bundle)
    codes = _codes(codec, golden)
    if codes is None:
        return Trace()
    stream = codec.stream(chunk=max(1, len(codes)))
    cuts = np.cumsum(np.random.default_rng(0).integers(0, 12, len(codes)))
    waves = [stream.feed(piece) for piece in np.split(codes, np.minimum(cuts, len(codes)))]
    return {WAVE: np.concatenate([*waves, stream.flush()])[None, None]}


def _codec(bundle: Bundle) -> Codec:
    return Codec(bundle.session("codec_decode"), bundle.section(Section).codec)


def _codes(codec: Codec, golden: Golden) -> Array | None:
    """The codes that were decoded, int64 [frames]; where the golden lacks them, those of a run as long as the wave."""
    tensors = golden.tensors
    if CODES in tensors:
        return tensors[CODES].reshape(-1)
    runs = [a.reshape(-1) for n, a in tensors.items() if n.endswith(".codes") and n != CODED and WAVE in tensors]
    return next((codes for codes in runs if len(codes) == tensors[WAVE].size // codec.frame), None)


def _first(outputs: Trace, golden: Golden) -> Trace:
    """The beginnings of tensors that the golden holds no more of."""
    found = {name: match for name in golden.tensors if (match := FIRST.fullmatch(name)) and match[1] in outputs}
    return {name: outputs[match[1]][..., : int(match[2])] for name, match in found.items()}
