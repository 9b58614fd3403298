"""Fun-CosyVoice3's section of the manifest: what the runtime must know beside its graphs."""

from typing import Annotated

import msgspec

Positive = Annotated[int, msgspec.Meta(ge=1)]
Count = Annotated[int, msgspec.Meta(ge=0)]


class LlmSection(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The language model.

    `speech_tokens`: ids below it are speech, all from it on stop a generation; `context`: positions it was trained for;
    `mix`: text tokens and speech tokens in turn, when the text comes in pieces.
    """

    speech_tokens: Positive
    context: Positive
    mix: tuple[Positive, Positive]


class FlowSection(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Tokens to mel.

    `ratio`: mel frames per token; `lookahead`: tokens after a token that its frames need; `block`: frames that see each
    other when streamed; `guidance`: upstream's inference_cfg_rate; `schedule`: of the times, cosine or linear; `steps`:
    how many Euler steps there are tables for.
    """

    ratio: Positive
    lookahead: Positive
    block: Positive
    guidance: float
    schedule: str
    steps: tuple[Positive, ...]


class VocoderSection(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Mel to samples.

    `hop`: samples per frame; `skip`: numbers that upstream draws before the noise of the source (noise.py).
    """

    hop: Positive
    skip: Count


class MelSection(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The mel of a prompt, as matcha computes it: sizes in samples, frequencies in Hz (`high` None: half the rate)."""

    window: Positive
    fft: Positive
    hop: Positive
    bands: Positive
    low: float
    high: float | None


class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`token_rate`: speech tokens per second."""

    token_rate: Positive
    llm: LlmSection
    flow: FlowSection
    vocoder: VocoderSection
    mel: MelSection
