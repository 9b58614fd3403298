"""XCodec2's config.json and the sizes that follow from it (docs/systems/t5gemma.md 6).

The release writes few of its dimensions: an absent key has the default of upstream's class (docs/systems/t5gemma.md
6.4). Kernel sizes, and whatever else a tensor's shape says, are read there.
"""

import math
from pathlib import Path
from typing import Annotated, Self

import msgspec
from msgspec import Meta

from voxport.audio.files import MAX_RATE
from voxport_exporters.checkpoints.jsonfile import Layers, Rates, Size, parse, read
from voxport_exporters.nets.checks import require

READ_RATE = 16000  # Hz of the samples that become codes, hard-coded upstream
CODE_RATE = 50  # codes per second, hard-coded upstream
GROUPS = 32  # of every GroupNorm, hard-coded upstream
OVERLAP = 4  # samples of the spectrum's window per hop, hard-coded upstream


class CodecConfig(msgspec.Struct, frozen=True):
    """config.json of a release, of the 16 kHz codec or of a variant whose decoder makes another rate."""

    semantic_hidden_size: Size = 1024
    codec_encoder_hidden_size: Size = 1024
    codec_decoder_hidden_size: Size = 1024
    use_vocos: bool = True
    sample_rate: Annotated[int, Meta(ge=1, le=MAX_RATE)] | None = None  # of what codes become; absent: as `frame` says
    hop_length: Size = 320
    upsample_factors: Rates | None = None  # steps of the spectrum per code, stage by stage
    depth: Layers = 12
    heads: Size = 16
    fsq_levels: Annotated[tuple[Annotated[int, Meta(ge=2, le=1024)], ...], Meta(min_length=1, max_length=64)] = (4,) * 8
    ngf: Size = 48
    up_ratios: Rates = (2, 2, 4, 4, 5)

    @classmethod
    def of(cls, params: object, where: str = "config.json") -> Self:
        """From the dict of a config.json. Raises ValueError that begins with `where` and names the field, or what does
        not hold between several."""
        return parse(params, cls, where)

    def __post_init__(self) -> None:
        require(self.use_vocos, "use_vocos is false, only true is supported")
        require(
            self.sample_rate in (None, self.rate),
            f"sample_rate is {self.sample_rate}, hop_length and upsample_factors make {CODE_RATE} * {self.frame}",
        )
        require(self.rate <= MAX_RATE, f"hop_length and upsample_factors make {self.rate} Hz, wanted up to {MAX_RATE}")
        require(
            math.prod(self.up_ratios) == READ_RATE // CODE_RATE,
            f"up_ratios make {math.prod(self.up_ratios)} samples per code, wanted {READ_RATE // CODE_RATE}",
        )
        require(
            self.codec_decoder_hidden_size % self.heads == 0,
            f"codec_decoder_hidden_size {self.codec_decoder_hidden_size} is no multiple of heads {self.heads}",
        )
        for i, width in enumerate(self.widths):
            require(
                width % GROUPS == 0 < width,
                f"codec_decoder_hidden_size {self.codec_decoder_hidden_size} leaves {width} channels after {i} "
                f"halvings, wanted a multiple of {GROUPS}",
            )
        require(self.codes <= 2**31, f"fsq_levels make {self.codes} codes, wanted {2**31} or fewer")

    @property
    def factors(self) -> tuple[int, ...]:
        """Steps of the spectrum per code, stage by stage; none of the 16 kHz codec."""
        return self.upsample_factors or ()

    @property
    def widths(self) -> list[int]:
        """Channels of the decoder, and after each stage of its upsampler."""
        return [self.codec_decoder_hidden_size // 2**i for i in range(len(self.factors) + 1)]

    @property
    def frame(self) -> int:
        """Samples that a code becomes."""
        return self.hop_length * math.prod(self.factors)

    @property
    def rate(self) -> int:
        """Of the samples that codes become, in Hz."""
        return CODE_RATE * self.frame

    @property
    def codes(self) -> int:
        """How many different codes there are."""
        return math.prod(self.fsq_levels)


def read_config(path: Path) -> CodecConfig:
    """The config.json of a release. Raises FileNotFoundError or ValueError in one line that names the file."""
    return CodecConfig.of(read(path), f"{path}: not an XCodec2 config.json")
