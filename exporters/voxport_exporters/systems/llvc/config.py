"""LLVC's config.json: every key upstream's class takes, its defaults, and what must hold (docs/systems/llvc.md 1)."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

HEADS = 8  # hard-coded upstream, like the three below
LABEL_HIDDEN = 512
ENCODER_KERNEL = 3
POSITIONS = 200


@dataclass(frozen=True)
class PreNetConfig:
    """`convnet_config`: gated causal convolutions on the waveform."""

    out_channels: list[int]
    kernel_sizes: list[int]
    dilations: list[int]
    convnet_prenet: bool = True
    dropout: float = 0.0  # never acts: the nets run in eval mode
    combine_residuals: str | None = None
    skip_connection: str | None = None
    use_residual_blocks: bool = True

    @property
    def in_channels(self) -> list[int]:
        return [1, *self.out_channels[:-1]]

    @property
    def contexts(self) -> list[int]:
        """Samples of history each layer keeps."""
        return [(k - 1) * d for k, d in zip(self.kernel_sizes, self.dilations, strict=True)]


@dataclass(frozen=True)
class LlvcConfig:
    """`model_params` of config.json, defaults as upstream's code has them."""

    convnet_config: PreNetConfig
    label_len: int = 1  # ignored upstream as well
    L: int = 8  # hop: samples per frame
    enc_dim: int = 512
    num_enc_layers: int = 10
    dec_dim: int = 256
    num_dec_layers: int = 2
    dec_buf_len: int = 100  # frames of context before each chunk
    dec_chunk_size: int = 72  # frames per chunk
    out_buf_len: int = 2
    use_pos_enc: bool = True
    skip_connection: bool = True
    proj: bool = True
    lookahead: bool = True
    decoder_dropout: float = 0.0  # never acts

    @classmethod
    def of(cls, params: Mapping[str, Any]) -> "LlvcConfig":
        """Checks keys and constraints; ValueError in one line names the first that fails."""
        params = dict(params)
        prenet = dict(params.pop("convnet_config", None) or {"convnet_prenet": False})
        for keys, known, where in (
            (params, cls, "model_params"),
            (prenet, PreNetConfig, "model_params.convnet_config"),
        ):
            unknown = sorted(keys.keys() - {f.name for f in fields(known)})
            if unknown:
                raise ValueError(f"{where}: unknown key {', '.join(unknown)}")
        if not prenet.get("convnet_prenet", False):
            prenet = {"convnet_prenet": False, "out_channels": [], "kernel_sizes": [], "dilations": []}
        try:
            config = cls(convnet_config=PreNetConfig(**prenet), **params)
        except TypeError as error:
            raise ValueError(f"model_params.convnet_config: {str(error).split(') ')[-1]}") from None
        config._check()
        return config

    def _check(self) -> None:
        pre = self.convnet_config
        laws = {
            "dec_dim is a multiple of 8 heads": self.dec_dim % HEADS == 0,
            "enc_dim is a multiple of dec_dim": self.enc_dim % self.dec_dim == 0,
            "proj=false needs enc_dim = dec_dim": self.proj or self.enc_dim == self.dec_dim,
            f"dec_buf_len + dec_chunk_size <= {POSITIONS}": self.dec_buf_len + self.dec_chunk_size <= POSITIONS,
            "L, dec_buf_len, dec_chunk_size, out_buf_len >= 1": min(
                self.L, self.dec_buf_len, self.dec_chunk_size, self.out_buf_len
            )
            >= 1,
            "out_channels, kernel_sizes and dilations have one entry per layer": len(pre.out_channels)
            == len(pre.kernel_sizes)
            == len(pre.dilations),
            "the pre-net ends in 1 channel": not pre.convnet_prenet or pre.out_channels[-1:] == [1],
            "pre-net kernels are >= 2 samples": all(k >= 2 for k in pre.kernel_sizes),
        }
        for law, holds in laws.items():
            if not holds:
                raise ValueError(f"model_params: {law} does not hold")

    @property
    def chunk(self) -> int:
        """Samples per chunk."""
        return self.dec_chunk_size * self.L

    @property
    def context(self) -> int:
        """Samples of history the input convolution needs: 2 hops with look-ahead, none without."""
        return 2 * self.L if self.lookahead else 0
