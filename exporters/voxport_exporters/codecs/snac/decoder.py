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
from voxport_exporters.nets.conv import Conv, TransposedConv
from voxport_exporters.nets.dense import LayerNorm, Linear, frozen
from voxport_exporters.nets.rotary import cos_sin, turn
from voxport_exporters.nets.states import States
from voxport_exporters.nets.taps import tap


class Snake(nn.Module):
    def __init__(self, w: Weights, name: str, channels: int) -> None:
        super().__init__()
        self.alpha = frozen(w.take(f"{name}.alpha", 1, channels, 1)[0])

    def forward(self, x: Tensor) -> Tensor:
        return ops.snake(x, self.alpha)


class ResidualUnit(nn.Module):
    """x + k1(snake(k7(snake(x)))), the k7 dilated. Looks `reach` columns either way."""

    def __init__(self, w: Weights, channels: int, dilation: int, depthwise: bool) -> None:
        super().__init__()
        self.reach = dilation * (KERNEL // 2)
        self.snake1, self.snake2 = Snake(w, "block.0", channels), Snake(w, "block.2", channels)
        options = {"dilation": dilation, "groups": channels if depthwise else 1}
        self.wide = Conv.weight_normed(w.at("block.1"), channels, channels, KERNEL, **options)
        self.point = Conv.weight_normed(w.at("block.3"), channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """x [1, channels, reach + time + reach] -> [1, channels, time]."""
        y: Tensor = self.point(self.snake2(self.wide(self.snake1(x))))
        return x[..., self.reach : -self.reach] + y


class LocalAttention(nn.Module):
    """Pre-norm self-attention inside windows of `window` columns that do not overlap; rotary positions, 0 first."""

    def __init__(self, w: Weights, width: int, window: int, name: str) -> None:
        super().__init__()
        self.width, self.window, self.name = width, window, name
        self.norm = LayerNorm(w.at("norm"), width)
        self.qkv = Linear.of(w.at("to_qkv"), width, 3 * width, bias=False)
        self.out = Linear.of(w.at("to_out"), width, width, bias=False)
        cos, sin = cos_sin(torch.arange(window)[:, None], w.take("rel_pos.inv_freq", HEAD // 2))
        self.cos, self.sin = frozen(cos), frozen(sin)  # [window, 1, HEAD / 2]

    def forward(self, x: Tensor) -> Tensor:
        """x [1, width, windows * window] -> the same, residual added."""
        h = self.norm(x[0].T.reshape(-1, self.window, self.width))
        q, k, v = self.qkv(h).chunk(3, dim=-1)
        mixed: Tensor = self.out(ops.attention(self._turned(q), self._turned(k), v, self.width // HEAD, self.name))
        return x + mixed.flatten(0, 1).T

    def _turned(self, x: Tensor) -> Tensor:
        return turn(x.unflatten(-1, (-1, HEAD)), self.cos, self.sin).flatten(-2)


class Step:
    """One step of the decoder: the columns that every convolution remembers, and which columns are real."""

    def __init__(self, states: States, real: Tensor) -> None:
        self._states = states
        self.columns = real.numel()
        self._known = self.join(real.reshape(-1))  # history, then this step's
        self._history = self._known.shape[0] - self.columns

    def join(self, x: Tensor) -> Tensor:
        """The columns remembered from before, then x; as many are remembered for the next step."""
        return self._states.join(x, axis=-1)

    def mask(self, rate: int, delay: int) -> Tensor:
        """1 where a column lies inside the audio, else 0, for a stream of `rate` per latent column, `delay` late."""
        fine = self._known[:, None].expand(-1, rate).reshape(-1)
        start = self._history * rate - delay
        return fine[start : start + self.columns * rate]


class Upsampler(nn.Module):
    """Snake, transposed convolution, noise block, three residual units; all delayed."""

    def __init__(self, w: Weights, inputs: int, outputs: int, rate: int, noise: bool, depthwise: bool) -> None:
        super().__init__()
        self.rate = rate
        self.snake = Snake(w, "block.0", inputs)
        up = w.at("block.1")
        self.up = TransposedConv(up.folded(inputs, outputs, 2 * rate), up.take("bias", outputs), rate)
        self.mix = frozen(w.at("block.2.linear").folded(outputs, outputs, 1)) if noise else None
        after = 3 if w.has("block.5.block.0.alpha") else 2  # with or without a noise block, used or not
        self.units = nn.ModuleList(
            ResidualUnit(w.at(f"block.{after + i}"), outputs, d, depthwise) for i, d in enumerate(DILATIONS)
        )

    def forward(self, x: Tensor, step: Step, rate: int, delay: int, draws: Tensor | None) -> tuple[Tensor, int]:
        """x [1, inputs, time], `delay` columns late -> [1, outputs, time * self.rate] and its delay.

        `rate`: columns of the output per latent column; draws [units, unit * rate].
        """
        x = self.up(self.snake(step.join(x))[0].T).T[None]
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
    """Codes -> audio, `delay` samples late. State in order: `SnacConfig` determines it, stages.py declares it."""

    def __init__(self, w: Weights, config: SnacConfig) -> None:
        super().__init__()
        self.config = config
        levels = [w.at(f"quantizer.quantizers.{i}") for i in range(len(config.vq_strides))]
        self.codebooks = nn.ParameterList(
            frozen(v.take("codebook.weight", config.codebook_size, config.codebook_dim)) for v in levels
        )
        # the levels' projections are summed: one MatMul over their code vectors side by side
        self.project = frozen(
            torch.cat([v.at("out_proj").folded(config.latent, config.codebook_dim, 1)[..., 0].T for v in levels])
        )
        self.offset = frozen(sum((v.take("out_proj.bias", config.latent) for v in levels), torch.zeros(1)))
        model, widths = w.at("decoder.model"), config.widths
        if config.depthwise:
            front = [
                Conv.weight_normed(model.at("0"), config.latent, config.latent, KERNEL, groups=config.latent),
                Conv.weight_normed(model.at("1"), config.latent, widths[0], 1),
            ]
        else:
            front = [Conv.weight_normed(model.at("0"), config.latent, widths[0], KERNEL)]
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
        self.last = Conv.weight_normed(model.at(str(at + 1)), widths[-1], 1, KERNEL)

    def forward(self, codes: Tensor, real: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
        """codes int64 [levels, units, unit], real [units, unit], noise.i [units, unit * rate i] -> audio, next state.

        `real`: 1, or 0 for the columns past the end; coarse codes are repeated for every column; audio [units, unit *
        hop] is `delay` samples late. Taps hold what upstream's layers give when the whole utterance is one step.
        """
        config = self.config
        noisy = len(self.blocks) if config.noise else 0
        draws = [*rest[:noisy], *[None] * (len(self.blocks) - noisy)]
        states = States(rest[noisy:])
        step = Step(states, real)

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
        return audio.reshape(-1, config.unit * config.hop), *states.after
