"""The Qwen3-TTS speaker encoder, an ECAPA-TDNN (arXiv 2005.07143; docs/systems/qwen3tts.md 7), written for export.

A reference's log-mel spectrogram in, the x-vector out. Every convolution reflects its input at the edges, so the whole
reference is one call.
"""

from typing import Annotated, Self

import msgspec
import torch
import torch.nn.functional as F
from msgspec import Meta
from torch import Tensor, nn

from voxport.audio.files import MAX_RATE
from voxport_exporters.checkpoints.jsonfile import Rates, Size, parse
from voxport_exporters.checkpoints.weights import Weights
from voxport_exporters.nets.checks import require
from voxport_exporters.nets.conv import Conv
from voxport_exporters.nets.dense import Linear
from voxport_exporters.nets.taps import tap

LEAST_VARIANCE = 1e-12


class SpeakerConfig(msgspec.Struct, frozen=True):
    """`speaker_encoder_config` of config.json, defaults as upstream's code has them."""

    mel_dim: Size = 128
    enc_dim: Size = 1024
    enc_channels: Rates = (512, 512, 512, 512, 1536)
    enc_kernel_sizes: Rates = (5, 3, 3, 3, 1)
    enc_dilations: Rates = (1, 2, 3, 4, 1)
    enc_attention_channels: Size = 128
    enc_res2net_scale: Size = 8
    enc_se_channels: Size = 128
    sample_rate: Annotated[int, Meta(ge=1, le=MAX_RATE)] = 24000  # of the reference, in Hz

    @classmethod
    def of(cls, params: object, where: str = "speaker_encoder_config") -> Self:
        """From the dict of config.json, whose further keys do not concern this net.

        Raises ValueError that names the field, or what does not hold between several.
        """
        return parse(params, cls, where)

    def __post_init__(self) -> None:
        channels, scale = self.enc_channels, self.enc_res2net_scale
        require(
            len({len(channels), len(self.enc_kernel_sizes), len(self.enc_dilations)}) == 1,
            "enc_channels, enc_kernel_sizes and enc_dilations must be equally long",
        )
        require(len(channels) >= 3, f"enc_channels has {len(channels)} entries, wanted 3 or more")
        require(len({*channels[:-1]}) == 1, "all enc_channels but the last must be equal")
        require(channels[-1] == sum(channels[1:-1]), "the last of enc_channels must be the sum of those between")
        require(channels[0] % scale == 0, f"enc_channels are no multiples of enc_res2net_scale {scale}")

    @property
    def least(self) -> int:
        """Frames of mel a reference must have: a reflection needs one more than it adds."""
        pads = ((k - 1) * d for k, d in zip(self.enc_kernel_sizes, self.enc_dilations, strict=True))
        return max(-(-pad // 2) for pad in pads) + 1


class Tdnn(nn.Module):
    """ReLU(conv(x)), as many frames out as in."""

    def __init__(self, w: Weights, inputs: int, outputs: int, kernel: int = 1, dilation: int = 1) -> None:
        super().__init__()
        self.conv = Conv.of(w.at("conv"), inputs, outputs, kernel, dilation=dilation)
        self.pad = self.conv.context

    def forward(self, x: Tensor) -> Tensor:
        """x [1, channels, frames]."""
        if self.pad:
            x = F.pad(x, (self.pad // 2, self.pad - self.pad // 2), mode="reflect")
        return torch.relu(self.conv(x))


class Block(nn.Module):
    """x + squeeze-and-excite(tdnn(Res2Net(tdnn(x))))."""

    def __init__(self, w: Weights, config: SpeakerConfig, i: int) -> None:
        super().__init__()
        width, scale, squeezed = config.enc_channels[i], config.enc_res2net_scale, config.enc_se_channels
        kernel, dilation = config.enc_kernel_sizes[i], config.enc_dilations[i]
        self.enter, self.leave = Tdnn(w.at("tdnn1"), width, width), Tdnn(w.at("tdnn2"), width, width)
        part = width // scale
        inner = w.at("res2net_block")
        self.parts = nn.ModuleList(
            Tdnn(inner.at(f"blocks.{j}"), part, part, kernel, dilation) for j in range(scale - 1)
        )
        self.squeeze = Linear.of(w.at("se_block.conv1"), width, squeezed, 1)
        self.excite = Linear.of(w.at("se_block.conv2"), squeezed, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """x [1, channels, frames]: each part but the first adds its predecessor's output before its convolution."""
        first, *chunks = self.enter(x).chunk(len(self.parts) + 1, dim=1)
        outputs: list[Tensor] = []
        for chunk, conv in zip(chunks, self.parts, strict=True):
            outputs.append(conv(chunk + outputs[-1] if outputs else chunk))
        y = self.leave(torch.cat((first, *outputs), dim=1))
        gate = torch.sigmoid(self.excite(torch.relu(self.squeeze(y.mean(-1)))))
        out: Tensor = x + y * gate[..., None]
        return out


class Pool(nn.Module):
    """Attentive statistics: x [1, channels, frames] -> mean and deviation [1, 2 * channels], weighted over frames."""

    def __init__(self, w: Weights, channels: int, attention: int) -> None:
        super().__init__()
        # The attention reads (x, mean, deviation); the last two are one vector for all frames.
        weight = w.take("tdnn.conv.weight", attention, 3 * channels, 1)
        self.own = Conv(weight[:, :channels], w.take("tdnn.conv.bias", attention))
        self.overall = Linear(weight[:, channels:, 0].T)
        self.out = Conv.of(w.at("conv"), attention, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        mean, deviation = _statistics(x, torch.full_like(x[:, :1], 1.0) / x.shape[-1])
        hidden = self.own(x) + self.overall(torch.cat((mean, deviation), dim=1))[..., None]
        scores = self.out(torch.tanh(torch.relu(hidden)))
        return torch.cat(_statistics(x, torch.softmax(scores, dim=-1)), dim=1)


def _statistics(x: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    mean = (x * weights).sum(-1)
    variance = (weights * (x - mean[..., None]).square()).sum(-1)
    return mean, torch.sqrt(variance.clamp(min=LEAST_VARIANCE))


class SpeakerEncoder(nn.Module):
    """mel [frames, mel_dim] -> embedding [enc_dim]."""

    def __init__(self, w: Weights, config: SpeakerConfig) -> None:
        super().__init__()
        c, last = config.enc_channels, len(config.enc_channels) - 1
        kernels, dilations = config.enc_kernel_sizes, config.enc_dilations
        self.enter = Tdnn(w.at("blocks.0"), config.mel_dim, c[0], kernels[0], dilations[0])
        self.blocks = nn.ModuleList(Block(w.at(f"blocks.{i}"), config, i) for i in range(1, last))
        self.gather = Tdnn(w.at("mfa"), c[-1], c[-1], kernels[-1], dilations[-1])
        self.pool = Pool(w.at("asp"), c[-1], config.enc_attention_channels)
        self.out = Linear.of(w.at("fc"), 2 * c[-1], config.enc_dim, 1)

    def forward(self, mel: Tensor) -> Tensor:
        x = self.enter(mel.T[None])
        tap("spk.block.0", x)
        outputs = []
        for i, block in enumerate(self.blocks):
            x = block(x)
            tap(f"spk.block.{i + 1}", x)
            outputs.append(x)
        x = self.gather(torch.cat(outputs, dim=1))
        tap("spk.mfa", x)
        pooled = self.pool(x)
        tap("spk.asp", pooled[..., None])
        embedding: Tensor = self.out(pooled)[0]
        return embedding
