"""XCodec2's decoder (zhenye234/X-Codec-2.0; docs/systems/t5gemma.md 6.1 and 6.2), written for export.

It looks at all of an utterance at once: attention without a mask, and norms whose statistics run over all of the time.
A sequence is [steps, channels] throughout. Upstream's rotary embedding turns queries and keys of a head by the same
angle at every step, so it cancels and is left out.

Weights that a recipe may name, as the graph has them (kernels are MatMuls' only where int8):

    embed.weight  {prior,post}.<i>.{conv1,conv2}.weight    convolutions
    layers.<i>.{qkv,out,up,down}.weight                    the transformer
    upsampler.<i>.{up,block.conv1,block.conv2}.weight      of a variant that makes another rate
    widen.weight                                           behind them
    out.weight                                             to the spectrum
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from voxport_exporters.checkpoints.weights import Weights
from voxport_exporters.codecs.xcodec2.config import GROUPS, OVERLAP, CodecConfig
from voxport_exporters.nets import ops
from voxport_exporters.nets.conv import TransposedConv, windows
from voxport_exporters.nets.dense import LayerNorm, Linear, frozen
from voxport_exporters.nets.istft import Istft, hann
from voxport_exporters.nets.taps import listening, tap

EPS = 1e-6  # of every norm, hard-coded upstream
BLOCKS = 2  # residual blocks before the transformer, and after it, hard-coded upstream
LOUDEST = 1e2  # magnitude of a spectrum, hard-coded upstream


class Dequantizer(nn.Module):
    """codes int64 [frames] -> [frames, channels]. Digit i of a code, counted from the least, becomes (digit - half) /
    half with half = levels // 2; two projections follow, which are one matrix here."""

    def __init__(self, w: Weights, config: CodecConfig) -> None:
        super().__init__()
        levels, width = config.fsq_levels, config.codec_decoder_hidden_size
        first, second = w.at("generator.quantizer.project_out"), w.at("fc_post_a")
        inner = first.shape("bias")[0]
        weight, offset = first.take("weight", inner, len(levels)).T, first.take("bias", inner)
        narrow, bias = second.take("weight", width, inner).T.double(), second.take("bias", width)
        self.steps = [math.prod(levels[:i]) for i in range(len(levels))]
        self.levels = levels
        self.project = Linear((weight.double() @ narrow).float(), (offset.double() @ narrow + bias).float())
        self._inner = weight, offset  # tensors, not parameters: for a tap only

    def forward(self, codes: Tensor) -> Tensor:
        levels = torch.tensor(self.levels)
        half = levels // 2
        digits = codes[:, None] // torch.tensor(self.steps) % levels
        values = (digits - half) / half.to(torch.float32)
        if listening():
            weight, offset = self._inner
            tap("codec.dec.quantizer.project_out", (values @ weight + offset)[None])
        y: Tensor = self.project(values)
        tap("codec.dec.fc_post_a", y[None])
        return y


class Same(nn.Module):
    """Convolution over [steps, inputs] whose output is as long: zeros at both ends, an odd kernel."""

    def __init__(self, w: Weights, inputs: int, outputs: int, as_matmul: bool) -> None:
        super().__init__()
        self.kernel = w.shape("weight")[-1]
        if self.kernel % 2 == 0:
            raise ValueError(f"{w.source}: {w.key('weight')} has kernel {self.kernel}, only odd ones are supported")
        weight = w.take("weight", outputs, inputs, self.kernel)
        self.as_matmul = as_matmul
        self.weight = frozen(weight.permute(2, 1, 0).flatten(0, 1) if as_matmul else weight)
        self.bias = frozen(w.take("bias", outputs))

    def forward(self, x: Tensor) -> Tensor:
        side = self.kernel // 2
        if self.as_matmul:
            return windows(F.pad(x, (0, 0, side, side)), self.kernel) @ self.weight + self.bias
        return F.conv1d(x.T[None], self.weight, self.bias, padding=side).squeeze(0).T


class GroupNorm(nn.Module):
    """Every group of channels of [steps, channels] by its own mean and deviation over all steps."""

    def __init__(self, w: Weights, width: int) -> None:
        super().__init__()
        self.weight, self.bias = frozen(w.take("weight", width)), frozen(w.take("bias", width))

    def forward(self, x: Tensor) -> Tensor:
        groups = x.unflatten(1, (GROUPS, -1))
        centred = groups - groups.mean((0, 2), keepdim=True)
        scaled: Tensor = centred / torch.sqrt(centred.square().mean((0, 2), keepdim=True) + EPS)
        return scaled.flatten(1) * self.weight + self.bias


class ResnetBlock(nn.Module):
    """x + conv2(swish(norm2(conv1(swish(norm1(x)))))), [steps, width] -> same shape."""

    def __init__(self, w: Weights, width: int, int8: frozenset[str]) -> None:
        """`int8`: which of the two convolutions are MatMuls."""
        super().__init__()
        self.norm1, self.norm2 = (GroupNorm(w.at(name), width) for name in ("norm1", "norm2"))
        self.conv1, self.conv2 = (
            Same(w.at(name), width, width, f"{name}.weight" in int8) for name in ("conv1", "conv2")
        )

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(F.silu(self.norm1(x)))
        z: Tensor = self.conv2(F.silu(self.norm2(y)))
        return x + z


class Layer(nn.Module):
    """A transformer layer, [steps, width] -> same shape: every step attends to all."""

    def __init__(self, w: Weights, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = (frozen(w.take(f"{name}_norm.weight", width)) for name in ("att", "ffn"))
        self.qkv = Linear.of(w.at("att.c_attn"), width, 3 * width, bias=False)
        self.out = Linear.of(w.at("att.c_proj"), width, width, bias=False)
        inner = w.shape("mlp.fc1.weight")[0]
        self.up = Linear.of(w.at("mlp.fc1"), width, inner, bias=False)
        self.down = Linear.of(w.at("mlp.fc2"), inner, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(ops.rms_norm(x, self.norm1, EPS))[None].chunk(3, dim=-1)
        x = x + self.out(ops.attention(q, k, v, self.heads, "codec.dec.attention").squeeze(0))
        y: Tensor = x + self.down(F.silu(self.up(ops.rms_norm(x, self.norm2, EPS))))
        return y


class Upsample(nn.Module):
    """A transposed convolution with stride `factor` and a residual block: [steps, width] -> [factor * steps + more,
    width / 2].

    `more` is 1 where kernel and stride differ by an odd number, and 0 elsewhere: upstream pads by half of the
    difference, rounded down.
    """

    def __init__(self, w: Weights, number: int, width: int, factor: int, int8: frozenset[str]) -> None:
        super().__init__()
        up = w.at(f"upsample_layers.{number}")
        name = "weight_v" if up.has("weight_v") else "parametrizations.weight.original1"
        self.number, self.factor, self.kernel = number, factor, up.shape(name)[-1]
        if self.kernel < factor:
            raise ValueError(f"{w.source}: {up.key(name)} has kernel {self.kernel}, wanted its stride {factor} or more")
        weight = F.pad(up.folded(width, width // 2, self.kernel), (0, -self.kernel % factor))
        self.up = TransposedConv(weight, up.take("bias", width // 2), factor)
        self.block = ResnetBlock(w.at(f"resnet_blocks.{number}"), width // 2, _below(int8, "block."))

    def forward(self, x: Tensor) -> Tensor:
        side, padding = self.up.reach - 1, (self.kernel - self.factor) // 2
        length = self.factor * x.shape[0] + self.more
        x = self.up(F.pad(x, (0, 0, side, side)))[padding : padding + length]
        tap(f"codec.dec.upsampler.upsample_layers.{self.number}", x.T[None])
        y: Tensor = self.block(x)
        tap(f"codec.dec.upsampler.resnet_blocks.{self.number}", y.T[None])
        return y

    @property
    def more(self) -> int:
        """Steps beyond `factor` for each that goes in."""
        return (self.kernel - self.factor) % 2


class Decoder(nn.Module):
    """codes int64 [frames] -> wave [frames, samples per code], and what upstream makes beyond, [extra], if anything."""

    def __init__(self, w: Weights, config: CodecConfig, int8: frozenset[str] = frozenset()) -> None:
        """`int8`: names of int8 weights; convolutions that hold one are MatMuls."""
        super().__init__()
        self.config = c = config
        width, widths = c.codec_decoder_hidden_size, c.widths
        backbone, head = w.at("generator.backbone"), w.at("generator.head")
        self.dequantizer = Dequantizer(w, c)
        self.embed = Same(backbone.at("embed"), width, width, "embed.weight" in int8)
        self.prior, self.post = (
            nn.ModuleList(
                ResnetBlock(backbone.at(f"{name}_net.{i}"), width, _below(int8, f"{name}.{i}.")) for i in range(BLOCKS)
            )
            for name in ("prior", "post")
        )
        self.layers = nn.ModuleList(Layer(backbone.at(f"transformers.{i}"), width, c.heads) for i in range(c.depth))
        self.norm = LayerNorm(backbone.at("final_layer_norm"), width, EPS)
        u = w.at("generator.upsampler")
        self.upsampler = nn.ModuleList(
            Upsample(u, i, widths[i], factor, _below(int8, f"upsampler.{i}.")) for i, factor in enumerate(c.factors)
        )
        self.widen = Linear.of(u.at("out_proj"), widths[-1], width) if c.factors else None
        n_fft = OVERLAP * c.hop_length
        self.out = Linear.of(head.at("out"), width, n_fft + 2)
        window = head.take("istft.window", n_fft).double() if head.has("istft.window") else hann(n_fft)
        self.istft = Istft(window, c.hop_length)

    @property
    def extra(self) -> int:
        """Samples that upstream's transposed convolutions make beyond those of the codes."""
        steps = 0
        for stage in self.upsampler:
            assert isinstance(stage, Upsample)
            steps = stage.factor * steps + stage.more
        return steps * self.config.hop_length

    def forward(self, codes: Tensor) -> tuple[Tensor, ...]:
        c, frames = self.config, codes.shape[0]
        x = self._spread(self._backbone(self.dequantizer(codes)))
        x = self.out(x).T  # [2 * bins, steps]
        tap("codec.dec.head.out", x.T[None])
        magnitude, phase = x.chunk(2)
        magnitude = magnitude.exp().clamp(max=LOUDEST)
        real, imaginary = magnitude * phase.cos(), magnitude * phase.sin()
        tap("codec.dec.spec_real", real[None])
        tap("codec.dec.spec_imag", imaginary[None])
        samples = self.istft.whole(torch.cat((real, imaginary))[None])
        # Upstream cuts off what comes before the middle of the first hop, and as much at the end.
        samples = samples[(OVERLAP - 1) * c.hop_length // 2 :]
        wave = samples[: frames * c.frame].view(frames, c.frame)
        return (wave, samples[frames * c.frame :][: self.extra]) if self.extra else (wave,)

    def _backbone(self, x: Tensor) -> Tensor:
        """x [frames, width] -> same shape."""
        x = self.embed(x)
        tap("codec.dec.backbone.embed", x.T[None])
        for i, block in enumerate(self.prior):
            x = block(x)
            tap(f"codec.dec.backbone.prior_net.{i}", x.T[None])
        tap("codec.dec.backbone.prior_net", x.T[None])
        for i, layer in enumerate(self.layers):
            x = layer(x)
            tap(f"codec.dec.backbone.transformers.{i}", x[None])
        tap("codec.dec.backbone.transformers", x[None])
        for i, block in enumerate(self.post):
            x = block(x)
            tap(f"codec.dec.backbone.post_net.{i}", x.T[None])
        tap("codec.dec.backbone.post_net", x.T[None])
        y: Tensor = self.norm(x)
        tap("codec.dec.backbone.final_layer_norm", y[None])
        tap("codec.dec.backbone.out", y[None])
        return y

    def _spread(self, x: Tensor) -> Tensor:
        """x [frames, width] -> [steps of the spectrum, width]."""
        if self.widen is None:
            return x
        for stage in self.upsampler:
            x = stage(x)
        x = self.widen(x)
        tap("codec.dec.upsampler.out_proj", x[None])
        y = F.silu(x)
        tap("codec.dec.upsampler", y[None])
        return y


def _below(names: frozenset[str], prefix: str) -> frozenset[str]:
    return frozenset(name.removeprefix(prefix) for name in names if name.startswith(prefix))
