"""SNAC's config.json and the sizes that follow from it (docs/systems/vyvo.md 7)."""

import math
from itertools import pairwise
from typing import Annotated, Self

import msgspec
from msgspec import Meta

from voxport_exporters.checkpoints.jsonfile import LARGEST, Rates, Size, parse
from voxport_exporters.nets.checks import require

KERNEL = 7  # hard-coded upstream, like the two below
DILATIONS = (1, 3, 9)
HEAD = 64  # channels per attention head


Strides = Annotated[  # upstream's convolutions of stride 1 do not fit together
    tuple[Annotated[int, Meta(ge=2, le=LARGEST)], ...], Meta(min_length=1, max_length=30)
]


class SnacConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """config.json of a release, defaults as upstream's code has them."""

    sampling_rate: Size = 44100
    encoder_dim: Size = 64
    encoder_rates: Strides = (3, 3, 7, 7)
    latent_dim: Size | None = None  # encoder_dim * 2 ** len(encoder_rates) unless given
    decoder_dim: Size = 1536
    decoder_rates: Strides = (7, 7, 3, 3)
    attn_window_size: Size | None = 32  # latent columns
    codebook_size: Size = 4096
    codebook_dim: Size = 8
    vq_strides: Rates = (8, 4, 2, 1)  # latent columns per code, coarsest level first
    noise: bool = True
    depthwise: bool = True

    @classmethod
    def of(cls, params: object, where: str = "config.json") -> Self:
        """From the dict of a config.json. Raises ValueError that names an unknown key, a wrong value, or what does not
        hold between several."""
        return parse(params, cls, where)

    def __post_init__(self) -> None:
        encoded = self.encoder_dim * 2 ** len(self.encoder_rates)
        require(
            self.latent == encoded,
            f"latent_dim is {self.latent}, wanted encoder_dim * 2^{len(self.encoder_rates)} = {encoded}",
        )
        require(
            self.widths[-1] > 0,
            f"decoder_dim {self.decoder_dim} leaves no channel after {len(self.decoder_rates)} halvings, one per entry "
            "of decoder_rates",
        )
        require(bool(self.vq_strides), "vq_strides is empty, wanted one or more")
        require(all(self.frame % s == 0 for s in self.vq_strides), "each of vq_strides must divide the first")
        require(all(a >= b for a, b in pairwise(self.vq_strides)), "vq_strides must not rise")
        if self.attn_window_size is not None:
            for name, width in (("the latent dim", self.latent), ("decoder_dim", self.decoder_dim)):
                require(width % HEAD == 0, f"{name} is {width}, wanted a multiple of {HEAD}: there is attention")

    @property
    def latent(self) -> int:
        """Channels between encoder and decoder."""
        return self.latent_dim or self.encoder_dim * 2 ** len(self.encoder_rates)

    @property
    def frame(self) -> int:
        """Latent columns per frame: one code of the coarsest level."""
        return self.vq_strides[0]

    @property
    def places(self) -> int:
        """Codes per frame, of all levels."""
        return sum(self.frame // stride for stride in self.vq_strides)

    @property
    def unit(self) -> int:
        """Latent columns that must come together: the attention's window, or 1."""
        return self.attn_window_size or 1

    @property
    def hop(self) -> int:
        """Samples made per latent column."""
        return math.prod(self.decoder_rates)

    @property
    def widths(self) -> list[int]:
        """Channels before the first decoder block and after each."""
        return [self.decoder_dim // 2**i for i in range(len(self.decoder_rates) + 1)]

    @property
    def upsampled(self) -> list[int]:
        """Columns after each decoder block per latent column."""
        return [math.prod(self.decoder_rates[: i + 1]) for i in range(len(self.decoder_rates))]
