"""VyvoTTS's section of the manifest."""

from typing import Annotated

import msgspec

from voxport.codecs.snac import SnacSection

Positive = Annotated[int, msgspec.Meta(ge=1)]


class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the speaker must know beside its graphs.

    `context`: positions the language model was trained for; `reference_seconds`: the longest recording to clone.
    """

    context: Positive
    reference_seconds: Positive
    codec: SnacSection
