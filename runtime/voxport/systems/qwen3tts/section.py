"""Qwen3-TTS's section of the manifest."""

from typing import Annotated

import msgspec

from voxport.audio.files import MAX_RATE

Positive = Annotated[int, msgspec.Meta(ge=1)]


class SpeakerEncoderSection(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`rate`: of the recording that the speaker encoder takes, in Hz; `mel_frames`: the fewest it takes."""

    rate: Annotated[int, msgspec.Meta(ge=1, le=MAX_RATE)]
    mel_frames: Positive


class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the speaker must know beside its graphs.

    `books`: codes per frame; `codes`: codes per book (0 .. codes - 1); `frame`: samples per frame; `least_tokens`:
    tokens of the talker before the end may come; `context`: positions the talker was trained for; `instruct`: whether
    the model follows an instruction (neither 0.6B CustomVoice nor Base does); `speaker_encoder`: Base only.
    """

    books: Positive
    codes: Positive
    frame: Positive
    least_tokens: Annotated[int, msgspec.Meta(ge=0)]
    context: Positive
    instruct: bool
    speaker_encoder: SpeakerEncoderSection | None = None
