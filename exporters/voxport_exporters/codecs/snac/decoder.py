"""SNAC decoder (arXiv 2410.14411; hubertsiuzdak/snac layers.py, vq.py, attention.py; docs/systems/vyvo.md 7).

Upstream's convolutions look both ways. Here each runs in delayed form: it keeps the last columns it has seen and gives
its output as many columns late as it looks ahead, so every column is computed once however the stream is cut, and the
audio trails the codes by the receptive field, `delay` samples. Zero padding becomes a mask: a column before the start
or after the end (`real` = 0) is zero wherever upstream pads, which is at the input of every convolution.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from voxport_exporters.checkpoints.weights import Weights
from voxport_exporters.codecs.snac.config import DILATIONS, HEAD, KERNEL, SnacConfig
from voxport_exporters.nets import ops
from voxport_exporters.nets.taps import tap


def fixed(tensor: Tensor) -> nn.Parameter:
    return nn.Parameter(tensor.contiguous(), requires_grad=False)


class Conv(nn.Module):
    """Weight-normed convolution without padding. x [1, inputs, time] -> [1, outputs, time - (kernel - 1) dilation]."""

    def __init__(
        self, w: Weights, name: str, inputs: int, outputs: int, kernel: int, *, dilation: int = 1, groups: int = 1
    ) -> None:
        super().__init__()
        self.weight = fixed(w.folded(name, outputs, inputs // groups, kernel))
        self.bias = fixed(w.take(f"{name}.bias", outputs))
        self.dilation, self.groups = dilation, groups

    def forward(self, x: Tensor, stride: int = 1, padding: int = 0) -> Tensor:
        return F.conv1d(x, self.weight, self.bias, stride, padding, self.dilation, self.groups)


class Snake(nn.Module):
    def __init__(self, w: Weights, name: str, channels: int) -> None:
        super().__init__()
        self.alpha = fixed(w.take(f"{name}.alpha", 1, channels, 1)[0])

    def forward(self, x: Tensor) -> Tensor:
        return ops.snake(x, self.alpha)


class ResidualUnit(nn.Module):
    """x + k1(snake(k7(snake(x)))), the k7 dilated. Looks `reach` columns either way."""

    def __init__(self, w: Weights, channels: int, dilation: int, depthwise: bool) -> None:
        super().__init__()
        self.reach = dilation * (KERNEL // 2)
        self.snake1, self.snake2 = Snake(w, "block.0", channels), Snake(w, "block.2", channels)
        groups = channels if depthwise else 1
        self.wide = Conv(w, "block.1", channels, channels, KERNEL, dilation=dilation, groups=groups)
        self.point = Conv(w, "block.3", channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """x [1, channels, reach + time + reach] -> [1, channels, time]."""
        y: Tensor = self.point(self.snake2(self.wide(self.snake1(x))))
        return x[..., self.reach : -self.reach] + y


class LocalAttention(nn.Module):
    """Pre-norm self-attention inside windows of `window` columns that do not overlap; rotary positions, 0 first."""

    def __init__(self, w: Weights, width: int, window: int, name: str) -> None:
        super().__init__()
        self.width, self.window, self.name = width, window, name
        self.norm, self.shift = fixed(w.take("norm.weight", width)), fixed(w.take("norm.bias", width))
        self.qkv = fixed(w.take("to_qkv.weight", 3 * width, width).T)
        self.out = fixed(w.take("to_out.weight", width, width).T)
        angles = torch.outer(torch.arange(window), w.take("rel_pos.inv_freq", HEAD // 2)).repeat(1, 2)[:, None]
        self.cos, self.sin = fixed(angles.cos()), fixed(angles.sin())  # [window, 1, HEAD]

    def forward(self, x: Tensor) -> Tensor:
        """x [1, width, windows * window] -> the same, residual added."""
        h = F.layer_norm(x[0].T.reshape(-1, self.window, self.width), (self.width,), self.norm, self.shift)
        q, k, v = (h @ self.qkv).chunk(3, dim=-1)
        h = ops.attention(self._turn(q), self._turn(k), v, self.width // HEAD, self.name) @ self.out
        return x + h.flatten(0, 1).T

    def _turn(self, x: Tensor) -> Tensor:
        x = x.unflatten(-1, (-1, HEAD))
        first, second = x.chunk(2, dim=-1)
        return (x * self.cos + torch.cat((-second, first), dim=-1) * self.sin).flatten(-2)


class Step:
    """One step of the decoder: what every convolution keeps, in turn, and which columns are real."""

    def __init__(self, past: list[Tensor], real: Tensor) -> None:
        self._past = past
        self.after: list[Tensor] = []
        self.columns = real.numel()
        self._known = self.join(real.reshape(-1))  # history, then this step's
        self._history = self._known.shape[0] - self.columns

    def join(self, x: Tensor) -> Tensor:
        """The columns kept from before, then x; as many are kept for the next step."""
        before = self._past.pop(0)
        x = torch.cat((before, x), dim=-1)
        self.after.append(x[..., -before.shape[-1] :])
        return x

    def mask(self, rate: int, delay: int) -> Tensor:
        """1 where a column lies inside the audio, else 0, for a stream of `rate` per latent column, `delay` late."""
        fine = self._known[:, None].expand(-1, rate).reshape(-1)
        start = self._history * rate - delay
        return fine[start : start + self.columns * rate]


class TransposedConv(nn.Module):
    """Transposed convolution of kernel 2 `rate` and stride `rate`: each block of `rate` outputs sees two inputs.

    As one MatMul: faster than ConvTranspose, Transposes included (x1.1 at 4 columns), and int8 where asked for.
    """

    def __init__(self, w: Weights, name: str, inputs: int, outputs: int, rate: int) -> None:
        super().__init__()
        # [tap of this column or the one before, inputs; place in the block, outputs]
        taps = w.folded(name, inputs, outputs, 2 * rate).view(inputs, outputs, 2, rate)
        self.weight = fixed(taps.permute(2, 0, 3, 1).reshape(2 * inputs, rate * outputs))
        self.bias = fixed(w.take(f"{name}.bias", outputs))

    def forward(self, x: Tensor) -> Tensor:
        """x [1, inputs, 1 + time], one column of the past first -> [1, outputs, rate * time]."""
        h = x[0].T
        pairs = torch.cat((h[1:], h[:-1]), dim=-1)
        return (pairs @ self.weight).view(-1, self.bias.shape[0]).T[None] + self.bias[:, None]


class Upsampler(nn.Module):
    """Snake, transposed convolution, noise block, three residual units; all delayed."""

    def __init__(self, w: Weights, inputs: int, outputs: int, rate: int, noise: bool, depthwise: bool) -> None:
        super().__init__()
        self.rate = rate
        self.snake = Snake(w, "block.0", inputs)
        self.up = TransposedConv(w, "block.1", inputs, outputs, rate)
        self.mix = fixed(w.folded("block.2.linear", outputs, outputs, 1)) if noise else None
        after = 3 if w.has("block.5.block.0.alpha") else 2  # with or without a noise block, used or not
        self.units = nn.ModuleList(
            ResidualUnit(w.at(f"block.{after + i}"), outputs, d, depthwise) for i, d in enumerate(DILATIONS)
        )

    def forward(self, x: Tensor, step: Step, rate: int, delay: int, draws: Tensor | None) -> tuple[Tensor, int]:
        """x [1, inputs, time], `delay` columns late -> [1, outputs, time * self.rate] and its delay.

        `rate`: columns of the output per latent column; draws [units, unit * rate].
        """
        x = self.up(self.snake(step.join(x)))
        delay = delay * self.rate + math.ceil(self.rate / 2)
        if self.mix is not None and draws is not None:
            noise = step.join(draws.reshape(-1))[: step.columns * rate]
            x = x + F.conv1d(x, self.mix) * noise
        x = x * step.mask(rate, delay)
        for unit, dilation in zip(self.units, DILATIONS, strict=True):
            delay += KERNEL // 2 * dilation
            x = unit(step.join(x)) * step.mask(rate, delay)
        return x, delay


class Decoder(nn.Module):
    """Codes -> audio, `delay` samples late. State in order: `SnacConfig` determines it, snac.py declares it."""

    def __init__(self, w: Weights, config: SnacConfig) -> None:
        super().__init__()
        self.config = config
        levels = [w.at(f"quantizer.quantizers.{i}") for i in range(len(config.vq_strides))]
        self.codebooks = nn.ParameterList(
            fixed(v.take("codebook.weight", config.codebook_size, config.codebook_dim)) for v in levels
        )
        # the levels' projections are summed: one MatMul over their code vectors side by side
        self.project = fixed(
            torch.cat([v.folded("out_proj", config.latent, config.codebook_dim, 1)[..., 0].T for v in levels])
        )
        self.offset = fixed(sum((v.take("out_proj.bias", config.latent) for v in levels), torch.zeros(1)))
        model, widths = w.at("decoder.model"), config.widths
        if config.depthwise:
            front = [
                Conv(model, "0", config.latent, config.latent, KERNEL, groups=config.latent),
                Conv(model, "1", config.latent, widths[0], 1),
            ]
        else:
            front = [Conv(model, "0", config.latent, widths[0], KERNEL)]
        self.front = nn.Sequential(*front)
        at = len(front)
        self.attention: LocalAttention | None = None
        if config.attn_window_size:
            self.attention = LocalAttention(model.at(str(at)), widths[0], config.attn_window_size, "decode.attention")
            at += 1
        self.first = at
        self.blocks = nn.ModuleList(
            Upsampler(model.at(str(at + i)), *dims, config.noise, config.depthwise)
            for i, dims in enumerate(zip(widths, widths[1:], config.decoder_rates, strict=False))
        )
        at += len(self.blocks)
        self.snake = Snake(model, str(at), widths[-1])
        self.last = Conv(model, str(at + 1), widths[-1], 1, KERNEL)

    def forward(self, codes: Tensor, real: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
        """codes int64 [levels, units, unit], real [units, unit], noise.i [units, unit * rate i] -> audio, next state.

        `real`: 1, or 0 for the columns past the end; coarse codes are repeated for every column; audio [units, unit *
        hop] is `delay` samples late. Taps hold what upstream's layers give when the whole utterance is one step.
        """
        config = self.config
        noisy = len(self.blocks) if config.noise else 0
        draws = [*rest[:noisy], *[None] * (len(self.blocks) - noisy)]
        step = Step(list(rest[noisy:]), real)

        vectors = torch.cat([F.embedding(c, b) for c, b in zip(codes.flatten(1), self.codebooks, strict=True)], dim=-1)
        x = (vectors @ self.project + self.offset).T[None] * real.reshape(-1)
        tap("decode.z_q", x)
        x, delay = step.join(x), KERNEL // 2
        for i, conv in enumerate(self.front):
            x = conv(x)
            tap(f"decode.layer{i}", x[..., delay:])
        if self.attention is not None:
            wait = -delay % config.unit  # so that windows begin where upstream's do
            delay += wait
            x = self.attention(step.join(x)[..., : step.columns] if wait else x)
            tap(f"decode.layer{len(self.front)}", x[..., delay:])
        x = x * step.mask(1, delay)
        for i, (block, rate, drawn) in enumerate(zip(self.blocks, config.upsampled, draws, strict=True)):
            x, delay = block(x, step, rate, delay, drawn)
            tap(f"decode.layer{self.first + i}", x[..., delay:])
        x = self.snake(step.join(x))
        tap(f"decode.layer{self.first + len(self.blocks)}", x[..., KERNEL - 1 + delay :])
        audio = torch.tanh(self.last(x))
        return audio.reshape(-1, config.unit * config.hop), *step.after
