"""SNAC encoder and residual vector quantizer (docs/systems/vyvo.md 7.2): audio -> codes of every level. No state."""

import math

import torch.nn.functional as F
from torch import Tensor, nn

from voxport_exporters.checkpoints.weights import Weights
from voxport_exporters.codecs.snac.config import DILATIONS, KERNEL, SnacConfig
from voxport_exporters.codecs.snac.decoder import LocalAttention, ResidualUnit, Snake
from voxport_exporters.nets.conv import Conv
from voxport_exporters.nets.dense import Linear, frozen
from voxport_exporters.nets.taps import tap


class Downsampler(nn.Module):
    """Three residual units, snake, convolution of kernel 2 `rate` and stride `rate`."""

    def __init__(self, w: Weights, inputs: int, rate: int, depthwise: bool) -> None:
        super().__init__()
        self.units = nn.ModuleList(
            ResidualUnit(w.at(f"block.{i}"), inputs, dilation, depthwise) for i, dilation in enumerate(DILATIONS)
        )
        self.snake = Snake(w, "block.3", inputs)
        self.down = Conv.weight_normed(
            w.at("block.4"), inputs, 2 * inputs, 2 * rate, stride=rate, padding=math.ceil(rate / 2)
        )

    def forward(self, x: Tensor) -> Tensor:
        """x [1, inputs, time] -> [1, 2 inputs, time / rate]."""
        for unit, dilation in zip(self.units, DILATIONS, strict=True):
            reach = KERNEL // 2 * dilation
            x = unit(F.pad(x, (reach, reach)))
        y: Tensor = self.down(self.snake(x))
        return y


class Quantizer(nn.Module):
    """One level: mean over `stride` columns, projection to the code space, the code of the nearest direction."""

    def __init__(self, w: Weights, config: SnacConfig, stride: int) -> None:
        super().__init__()
        self.stride = stride
        width, dim = config.latent, config.codebook_dim
        into, out = w.at("in_proj"), w.at("out_proj")
        self.into = Linear(into.folded(dim, width, 1)[..., 0].T, into.take("bias", dim))
        self.out = Linear(out.folded(width, dim, 1)[..., 0].T, out.take("bias", width))
        self.codebook = frozen(w.take("codebook.weight", config.codebook_size, dim))
        # The largest cosine wins; the length of the query does not change which one it is.
        self.directions = frozen(F.normalize(self.codebook).T)

    def forward(self, rest: Tensor) -> tuple[Tensor, Tensor]:
        """rest [columns, width] -> codes [columns / stride], what they leave of `rest`."""
        steps = rest.unflatten(0, (-1, self.stride))
        codes = (self.into(steps.mean(1)) @ self.directions).argmax(-1)
        quantized = self.out(F.embedding(codes, self.codebook))
        return codes, (steps - quantized[:, None]).flatten(0, 1)


class Encoder(nn.Module):
    """Audio in whole units -> codes of every level, coarsest first."""

    def __init__(self, w: Weights, config: SnacConfig) -> None:
        super().__init__()
        self.config = config
        model, width = w.at("encoder.block"), config.encoder_dim
        self.first = Conv.weight_normed(model.at("0"), 1, width, KERNEL, padding=KERNEL // 2)
        self.blocks = nn.ModuleList()
        for i, rate in enumerate(config.encoder_rates):
            self.blocks.append(Downsampler(model.at(str(i + 1)), width, rate, config.depthwise))
            width *= 2
        at = len(self.blocks) + 1
        self.attention: LocalAttention | None = None
        if config.attn_window_size:
            self.attention = LocalAttention(model.at(str(at)), width, config.attn_window_size, "encode.attention")
            at += 1
        groups = width if config.depthwise else 1
        self.last = Conv.weight_normed(model.at(str(at)), width, width, KERNEL, padding=KERNEL // 2, groups=groups)
        levels = enumerate(config.vq_strides)
        self.levels = nn.ModuleList(Quantizer(w.at(f"quantizer.quantizers.{i}"), config, s) for i, s in levels)

    def forward(self, audio: Tensor) -> tuple[Tensor, ...]:
        """audio [units, samples a unit] -> codes int64 [units, codes a unit] of every level."""
        units = audio.shape[0]
        x = self.first(audio.reshape(1, 1, -1))
        for i, block in enumerate(self.blocks):
            x = block(x)
            tap(f"encode.block{i + 1}", x)
        if self.attention is not None:
            x = self.attention(x)
        x = self.last(x)
        tap("encode.z", x)
        rest, codes = x[0].T, []
        for level in self.levels:
            level_codes, rest = level(rest)
            codes.append(level_codes.view(units, -1))
        return tuple(codes)


def reach(config: SnacConfig) -> tuple[int, int]:
    """(before, after): units of audio around a unit that its codes depend on (a unit: `encode_unit` columns).

    Walks the layers backwards with the range of columns that the unit needs; upstream's zero padding lies outside.
    """
    unit = encode_unit(config)
    half = KERNEL // 2
    first, end = -half, unit + half  # needed before the last convolution
    if config.attn_window_size:
        window = config.attn_window_size
        first, end = first // window * window, -(-end // window) * window
    for rate in reversed(config.encoder_rates):
        first = first * rate - math.ceil(rate / 2)
        end = (end - 1) * rate - math.ceil(rate / 2) + 2 * rate
        wide = half * sum(DILATIONS)
        first, end = first - wide, end + wide
    first, end = first - half, end + half
    samples = unit * math.prod(config.encoder_rates)
    return -(first // samples), -(-(end - samples) // samples)


def encode_unit(config: SnacConfig) -> int:
    """Latent columns that upstream pads audio to a multiple of: whole frames and whole attention windows."""
    return math.lcm(config.frame, config.unit)
