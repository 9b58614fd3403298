"""LLVC's config.json: every key upstream's class takes, its defaults, and what must hold (docs/systems/llvc.md 1)."""

from pathlib import Path
from typing import Annotated, Any, Self

import msgspec
from msgspec import Meta

from voxport.audio.files import MAX_RATE
from voxport_exporters.checkpoints import jsonfile
from voxport_exporters.checkpoints.jsonfile import LARGEST, Rates, Size, parse
from voxport_exporters.nets.checks import require

HEADS = 8  # hard-coded upstream, like the three below
LABEL_HIDDEN = 512
ENCODER_KERNEL = 3
POSITIONS = 200

Kernels = Annotated[tuple[Annotated[int, Meta(ge=2, le=LARGEST)], ...], Meta(max_length=4096)]
Depth = Annotated[int, Meta(ge=0, le=64)]  # layer i of the encoder remembers 2^(i + 1) frames
Share = Annotated[float, Meta(ge=0, le=1)]


class PreNetConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`convnet_config`: gated causal convolutions on the waveform."""

    convnet_prenet: bool = False
    out_channels: Rates = ()
    kernel_sizes: Kernels = ()
    dilations: Rates = ()
    dropout: Share = 0.0  # never acts: the nets run in eval mode
    combine_residuals: str | None = None
    skip_connection: str | None = None
    use_residual_blocks: bool = True

    def __post_init__(self) -> None:
        if not self.convnet_prenet:
            return
        counts = {len(self.out_channels), len(self.kernel_sizes), len(self.dilations)}
        require(len(counts) == 1, "out_channels, kernel_sizes and dilations must have one entry per layer")
        require(self.out_channels[-1:] == (1,), "out_channels must end in 1: the pre-net makes a waveform")

    @property
    def in_channels(self) -> list[int]:
        return [1, *self.out_channels[:-1]]

    @property
    def contexts(self) -> list[int]:
        """Samples of history each layer keeps."""
        return [(k - 1) * d for k, d in zip(self.kernel_sizes, self.dilations, strict=True)]


class LlvcConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`model_params` of config.json, defaults as upstream's code has them."""

    convnet_config: PreNetConfig | None = None
    label_len: int = 1  # ignored upstream as well
    L: Size = 8  # hop: samples per frame
    enc_dim: Size = 512
    num_enc_layers: Depth = 10
    dec_dim: Size = 256
    num_dec_layers: Depth = 2
    dec_buf_len: Size = 100  # frames of context before each chunk
    dec_chunk_size: Size = 72  # frames per chunk
    out_buf_len: Size = 2
    use_pos_enc: bool = True
    skip_connection: bool = True
    proj: bool = True
    lookahead: bool = True
    decoder_dropout: Share = 0.0  # never acts

    @classmethod
    def of(cls, params: object, where: str = "model_params") -> Self:
        """From the dict of a config.json. Raises ValueError that names an unknown key, a wrong value, or what does not
        hold between several."""
        return parse(params, cls, where)

    def __post_init__(self) -> None:
        require(self.dec_dim % HEADS == 0, f"dec_dim is {self.dec_dim}, wanted a multiple of {HEADS} heads")
        require(
            self.enc_dim % self.dec_dim == 0,
            f"enc_dim is {self.enc_dim}, wanted a multiple of dec_dim {self.dec_dim}",
        )
        require(
            self.proj or self.enc_dim == self.dec_dim,
            f"proj is false, which needs enc_dim {self.enc_dim} = dec_dim {self.dec_dim}",
        )
        window = self.dec_buf_len + self.dec_chunk_size
        require(window <= POSITIONS, f"dec_buf_len + dec_chunk_size is {window}, wanted {POSITIONS} or less")

    @property
    def prenet(self) -> PreNetConfig | None:
        """The pre-net's config, where there is a pre-net."""
        return self.convnet_config if self.convnet_config is not None and self.convnet_config.convnet_prenet else None

    @property
    def chunk(self) -> int:
        """Samples per chunk."""
        return self.dec_chunk_size * self.L

    @property
    def context(self) -> int:
        """Samples of history the input convolution needs: 2 hops with look-ahead, none without."""
        return 2 * self.L if self.lookahead else 0


class _Data(msgspec.Struct, frozen=True):
    """`data` of config.json; its other keys are of the training set."""

    sr: Annotated[int, Meta(ge=1, le=MAX_RATE)]


def read_config(path: Path) -> tuple[LlvcConfig, int]:
    """(net config, sample rate in Hz) of a config.json. Raises FileNotFoundError or ValueError that name the file."""
    content: dict[str, Any] = jsonfile.read(path)
    for name in ("model_params", "data"):
        require(name in content, f"{path}: not an LLVC config.json (wanted model_params and data.sr): no {name}")
    return (
        LlvcConfig.of(content["model_params"], f"{path}: model_params"),
        parse(content["data"], _Data, f"{path}: data").sr,
    )
