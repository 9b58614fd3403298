"""T5Gemma-TTS's section of the manifest: what the runtime must know beside its graphs."""

from typing import Annotated

import msgspec

from voxport.codecs.xcodec2 import CodecSection

Positive = Annotated[int, msgspec.Meta(ge=1)]
Count = Annotated[int, msgspec.Meta(ge=0)]
Above0 = Annotated[float, msgspec.Meta(gt=0)]


class RopeSection(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Rotary positions of one stack: the base, and the channels of a head."""

    theta: Above0
    size: Positive


class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The model, by upstream's names where it has them.

    `codes`: audio ids below it are codes; `context`: text ids the encoder was trained for; `frame_rate`: frames per
    second; `progress_scale`: the position at which an utterance ends; `most_seconds`: of a prompt and speech together;
    `guard`: frames per text id after which a generation ends, 0: never; `bos`, `eos`: text ids put around a text, 0:
    none; `parallel`: upstream's parallel_pattern.
    """

    codes: Positive
    context: Positive
    frame_rate: Above0
    progress: bool  # positions say how far through the utterance a token is; otherwise they count tokens
    progress_scale: Above0
    most_seconds: Above0
    guard: Count
    bos: Count
    eos: Count
    parallel: bool
    encoder: RopeSection
    decoder: RopeSection
    codec: CodecSection
