"""LLVC's section of the manifest."""

from typing import Annotated

import msgspec


class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the converter must know beside its graphs. `hop`: samples per frame of the encoder."""

    hop: Annotated[int, msgspec.Meta(ge=1)]
