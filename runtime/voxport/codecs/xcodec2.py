"""XCodec2: codes to samples, samples to codes (docs/systems/t5gemma.md 6)."""

from typing import Annotated

import msgspec

Positive = Annotated[int, msgspec.Meta(ge=1)]


class CodecSection(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The codec's part of its system's section of the manifest.

    `codes`: how many there are; `rate`: of the samples it reads, in Hz; `hop`: of these per code.
    """

    codes: Positive
    rate: Positive
    hop: Positive
