"""SNAC's config.json and the sizes that follow from it (docs/systems/vyvo.md 7)."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import Any

KERNEL = 7  # hard-coded upstream, like the two below
DILATIONS = (1, 3, 9)
HEAD = 64  # channels per attention head


@dataclass(frozen=True)
class SnacConfig:
    """config.json of a release, defaults as upstream's code has them."""

    sampling_rate: int = 44100
    encoder_dim: int = 64
    encoder_rates: tuple[int, ...] = (3, 3, 7, 7)
    latent_dim: int | None = None  # encoder_dim * 2 ** len(encoder_rates) unless given
    decoder_dim: int = 1536
    decoder_rates: tuple[int, ...] = (7, 7, 3, 3)
    attn_window_size: int | None = 32  # latent columns
    codebook_size: int = 4096
    codebook_dim: int = 8
    vq_strides: tuple[int, ...] = (8, 4, 2, 1)  # latent columns per code, coarsest level first
    noise: bool = True
    depthwise: bool = True

    @classmethod
    def of(cls, held: Mapping[str, Any]) -> "SnacConfig":
        """Checks keys and constraints; ValueError in one line names the first that fails."""
        unknown = sorted(held.keys() - {f.name for f in fields(cls)})
        if unknown:
            raise ValueError(f"unknown key {', '.join(unknown)}")
        known: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in held.items()}
        config = cls(**known)
        encoded = config.encoder_dim * 2 ** len(config.encoder_rates)
        attended = (config.latent, config.decoder_dim) if config.attn_window_size else ()
        rates = (*config.encoder_rates, *config.decoder_rates)
        sizes = (*config.vq_strides, config.codebook_size, config.codebook_dim, config.encoder_dim)
        laws = {
            "encoder_rates, decoder_rates and vq_strides are not empty": bool(
                config.encoder_rates and config.decoder_rates and config.vq_strides
            ),
            "rates are >= 2": all(rate >= 2 for rate in rates),  # upstream's convolutions of stride 1 do not fit
            "strides, sizes and dims are >= 1": all(size >= 1 for size in sizes),
            f"latent_dim is encoder_dim * 2^{len(config.encoder_rates)} = {encoded}": config.latent == encoded,
            f"decoder_dim is at least 2^{len(config.decoder_rates)}": config.decoder_dim >> len(config.decoder_rates)
            > 0,
            "each of vq_strides divides the first": all(config.frame % s == 0 for s in config.vq_strides),
            "vq_strides fall": all(a >= b for a, b in pairwise(config.vq_strides)),
            f"with attention the latent and decoder dims are multiples of {HEAD}": all(w % HEAD == 0 for w in attended),
            "attn_window_size is >= 1 or null": config.attn_window_size is None or config.attn_window_size >= 1,
        }
        for law, holds in laws.items():
            if not holds:
                raise ValueError(f"{law} does not hold")
        return config

    @property
    def latent(self) -> int:
        """Channels between encoder and decoder."""
        return self.latent_dim or self.encoder_dim * 2 ** len(self.encoder_rates)

    @property
    def frame(self) -> int:
        """Latent columns per frame: one code of the coarsest level."""
        return self.vq_strides[0]

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
