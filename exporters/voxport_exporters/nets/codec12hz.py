"""The Qwen3-TTS 12 Hz codec decoder (QwenLM/Qwen3-TTS tokenizer v2; facts/qwen3tts.md 6), written for export.

It looks only left, so with its state passed in and handed back any number of frames per call gives the same samples:

    conv tails   the last (kernel - 1) * dilation inputs of every convolution, one input of every transposed one
    k.i, v.i     the keys (turned by their absolute position) and values of the last `sliding_window - 1` frames
    position     frames decoded so far

Up to the first transposed convolution a sequence is [steps, channels] and every dense layer a MatMul; from there on it
is [1, channels, steps] and the residual units are Conv1d, which onnxruntime runs at the machine's limit.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from voxport_exporters import ops
from voxport_exporters.nets.codec12hz_config import (
    ACTIVATIONS,
    DEPTHWISE_KERNEL,
    DILATIONS,
    KERNEL,
    PRE_KERNEL,
    DecoderConfig,
)
from voxport_exporters.nets.rotary import (
    Linear,
    attend,
    attention_weights,
    frequencies,
    frozen,
    rotate,
    split_heads,
    turns,
)
from voxport_exporters.taps import tap
from voxport_exporters.weights import Weights

LEAST_USAGE = 1e-5  # floor of a codebook row's usage count


class Codebooks(nn.Module):
    """codes [frames, books] -> latent [frames, codebook_dim]: book 0 and the sum of the others, each projected."""

    def __init__(self, w: Weights, config: DecoderConfig) -> None:
        super().__init__()
        width, size = config.codebook_dim // 2, config.codebook_size
        first, rest = w.at("rvq_first"), w.at("rvq_rest")
        books = [first.at("vq.layers.0"), *(rest.at(f"vq.layers.{i}") for i in range(config.num_quantizers - 1))]
        self.tables = frozen(torch.stack([codebook(b.at("_codebook"), size, width, "embedding_sum") for b in books]))
        out = [v.take("output_proj.weight", config.codebook_dim, width, 1)[..., 0].T for v in (first, rest)]
        self.project = Linear(torch.cat(out))
        w.drop("rvq_*.input_proj.weight", "quantizes; the decoder does not")

    def forward(self, codes: Tensor) -> Tensor:
        vectors = self.tables[torch.arange(codes.shape[1]), codes]  # [frames, books, width]
        both: Tensor = self.project(torch.cat((vectors[:, 0], vectors[:, 1:].sum(1)), dim=-1))
        return both


def codebook(w: Weights, size: int, width: int, name: str) -> Tensor:
    """[size, width]: the sum of the vectors that fell on each row over their count."""
    return w.take(name, size, width) / w.take("cluster_usage", size).clamp(min=LEAST_USAGE)[:, None]


class Layer(nn.Module):
    """Pre-norm transformer layer with rotary attention over a sliding window; layer scales are folded into weights."""

    def __init__(self, w: Weights, config: DecoderConfig) -> None:
        super().__init__()
        hidden = config.hidden_size
        self.heads, self.shared = config.num_attention_heads, config.num_key_value_heads
        self.eps, self.act = config.rms_norm_eps, ACTIVATIONS[config.hidden_act]
        self.norm1 = frozen(w.take("input_layernorm.weight", hidden))
        self.norm2 = frozen(w.take("post_attention_layernorm.weight", hidden))
        scales = [w.take(f"{part}_layer_scale.scale", hidden) for part in ("self_attn", "mlp")]
        self.qkv, self.out = attention_weights(w.at("self_attn"), config, scales[0])
        mlp = w.at("mlp")
        gate, up = (mlp.take(f"{n}_proj.weight", config.intermediate_size, hidden).T for n in ("gate", "up"))
        self.gate_up = Linear(torch.cat((gate, up), dim=1))
        self.down = Linear.of(mlp.at("down_proj"), config.intermediate_size, hidden, bias=False, gain=scales[1])

    def forward(
        self, x: Tensor, turn: tuple[Tensor, Tensor], mask: Tensor, past: tuple[Tensor, Tensor] | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """x [frames, hidden], past keys [kv heads, head_dim, kept] and values [kv heads, kept, head_dim]
        -> x, all keys and values with the new frames appended."""
        q, k, v = split_heads(self.qkv(ops.rms_norm(x, self.norm1, self.eps)), self.heads, self.shared)
        keys, values = rotate(k, turn).transpose(1, 2), v
        if past is not None:
            keys, values = torch.cat((past[0], keys), dim=-1), torch.cat((past[1], values), dim=1)
        x = x + self.out(attend(rotate(q, turn), keys, values, mask))
        gate, up = self.gate_up(ops.rms_norm(x, self.norm2, self.eps)).chunk(2, dim=-1)
        return x + self.down(self.act(gate) * up), keys, values


class ConvNeXt(nn.Module):
    """x [steps, width] + gamma * MLP(LayerNorm(depthwise convolution of x))."""

    def __init__(self, w: Weights, width: int) -> None:
        super().__init__()
        self.width = width
        self.taps = frozen(w.take("dwconv.conv.weight", width, 1, DEPTHWISE_KERNEL))
        self.bias = frozen(w.take("dwconv.conv.bias", width))
        self.norm, self.norm_bias = frozen(w.take("norm.weight", width)), frozen(w.take("norm.bias", width))
        self.wide = Linear.of(w.at("pwconv1"), width, 4 * width)
        self.narrow = Linear.of(w.at("pwconv2"), 4 * width, width, gain=w.take("gamma", width))

    def forward(self, x: Tensor, past: Tensor) -> tuple[Tensor, Tensor]:
        """x [steps, width], past [width, kernel - 1] -> same shape, next past."""
        c = torch.cat((past, x.T), dim=1)[None]
        y = F.conv1d(c, self.taps, self.bias, groups=self.width).squeeze(0).T
        y = F.layer_norm(y, (self.width,), self.norm, self.norm_bias, eps=1e-6)
        return x + self.narrow(F.gelu(self.wide(y))), tail(c, past)


class Snake(nn.Module):
    """x + sin(a x)^2 / b per channel, a = exp(alpha), b = exp(beta). `last`: channels are the last axis."""

    def __init__(self, w: Weights, channels: int, last: bool = False) -> None:
        super().__init__()
        shape = (channels,) if last else (channels, 1)
        self.alpha = frozen(torch.exp(w.take("alpha", channels)).view(shape))
        self.beta = frozen(torch.exp(w.take("beta", channels)).view(shape))

    def forward(self, x: Tensor) -> Tensor:
        return ops.snake(x, self.alpha, self.beta)


class Upsample(nn.Module):
    """Transposed convolution, kernel `reach * rate`, stride `rate`, as one MatMul: [steps, in] -> [steps * rate, out].

    Step t of `rate` samples sees the inputs t and, where reach is 2, t - 1.
    """

    def __init__(self, w: Weights, inputs: int, outputs: int, rate: int, reach: int) -> None:
        super().__init__()
        taps = w.take("weight", inputs, outputs, reach * rate).unflatten(-1, (reach, rate))
        self.dense = Linear(taps.permute(2, 0, 3, 1).reshape(reach * inputs, -1), w.take("bias", outputs).tile(rate))
        self.rate = rate

    def forward(self, x: Tensor, past: Tensor | None = None) -> Tensor:
        """x [steps, in], past [1, in]: the input before them, where reach is 2."""
        if past is not None:
            x = torch.cat((x, torch.cat((past, x[:-1]))), dim=1)
        samples: Tensor = self.dense(x).unflatten(-1, (self.rate, -1))
        return samples.flatten(0, 1)


class Residual(nn.Module):
    """x + conv1(snake(conv7(snake(x)))), the kernel-7 convolution dilated."""

    def __init__(self, w: Weights, channels: int, dilation: int) -> None:
        super().__init__()
        self.dilation = dilation
        self.act1, self.act2 = Snake(w.at("act1"), channels), Snake(w.at("act2"), channels)
        self.weight1 = frozen(w.take("conv1.conv.weight", channels, channels, KERNEL))
        self.bias1 = frozen(w.take("conv1.conv.bias", channels))
        self.weight2 = frozen(w.take("conv2.conv.weight", channels, channels, 1))
        self.bias2 = frozen(w.take("conv2.conv.bias", channels))

    def forward(self, x: Tensor, past: Tensor) -> tuple[Tensor, Tensor]:
        """x [1, channels, steps], past [channels, context] -> same shape, next past."""
        c = torch.cat((past[None], self.act1(x)), dim=-1)
        y = self.act2(F.conv1d(c, self.weight1, self.bias1, dilation=self.dilation))
        return x + F.conv1d(y, self.weight2, self.bias2), tail(c, past)


class Block(nn.Module):
    """Upsampling by `rate` and three residual units."""

    def __init__(self, w: Weights, inputs: int, outputs: int, rate: int) -> None:
        super().__init__()
        self.act = Snake(w.at("0"), inputs, last=True)
        self.up = Upsample(w.at("1.conv"), inputs, outputs, rate, reach=2)
        self.units = nn.ModuleList(Residual(w.at(str(2 + j)), outputs, d) for j, d in enumerate(DILATIONS))

    def forward(self, x: Tensor, past: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """x [steps, inputs] -> [1, outputs, steps * rate], next past."""
        x = self.act(x)
        after = [x[-1:]]
        y = self.up(x, past[0]).T[None]
        for unit, before in zip(self.units, past[1:], strict=True):
            y, kept = unit(y, before)
            after.append(kept)
        return y, after


def tail(c: Tensor, past: Tensor) -> Tensor:
    """The last columns of c [1, channels, steps], as many as `past` [channels, context] has."""
    return c[..., -past.shape[1] :].squeeze(0)


def windows(x: Tensor, kernel: int) -> Tensor:
    """x [kernel - 1 + steps, width] -> [steps, kernel * width]: what a convolution sees at each step, oldest first."""
    steps = x.shape[0] - kernel + 1
    return torch.cat([x[i : i + steps] for i in range(kernel)], dim=1)


def dense_conv(w: Weights, inputs: int, outputs: int, kernel: int) -> Linear:
    """A convolution's weights for `windows`."""
    return Linear(w.take("weight", outputs, inputs, kernel).permute(2, 1, 0).flatten(0, 1), w.take("bias", outputs))


class Decoder(nn.Module):
    """codes [frames, books] -> wave [frames, samples per frame] at 24 kHz, in [-1, 1]."""

    def __init__(self, w: Weights, config: DecoderConfig) -> None:
        super().__init__()
        self.config = c = config
        latent, hidden = c.latent_dim, c.hidden_size
        self.codebooks = Codebooks(w.at("quantizer"), c)
        self.pre_conv = dense_conv(w.at("pre_conv.conv"), c.codebook_dim, latent, PRE_KERNEL)
        t = w.at("pre_transformer")
        self.enter, self.leave = (
            Linear.of(t.at("input_proj"), latent, hidden),
            Linear.of(t.at("output_proj"), hidden, latent),
        )
        self.layers = nn.ModuleList(Layer(t.at(f"layers.{i}"), c) for i in range(c.num_hidden_layers))
        self.norm = frozen(t.take("norm.weight", hidden))
        self.frequencies = frequencies(c)
        u = [w.at(f"upsample.{i}") for i in range(len(c.upsampling_ratios))]
        rates = zip(u, c.upsampling_ratios, strict=True)
        self.stretch = nn.ModuleList(Upsample(v.at("0.conv"), latent, latent, r, reach=1) for v, r in rates)
        self.smooth = nn.ModuleList(ConvNeXt(v.at("1"), latent) for v in u)
        d, channels, last = w.at("decoder"), c.channels, len(c.upsample_rates) + 1
        self.conv = dense_conv(d.at("0.conv"), latent, channels[0], KERNEL)
        self.blocks = nn.ModuleList(
            Block(d.at(f"{i + 1}.block"), channels[i], channels[i + 1], rate) for i, rate in enumerate(c.upsample_rates)
        )
        self.act = Snake(d.at(str(last)), channels[-1])
        self.out = frozen(d.take(f"{last + 1}.conv.weight", 1, channels[-1], KERNEL))
        self.out_bias = frozen(d.take(f"{last + 1}.conv.bias", 1))

    def forward(self, codes: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        """codes int64 [frames, books], state as exporters/codec12hz.py declares it -> wave, next state."""
        frames, c = codes.shape[0], self.config
        rest = list(state)
        after: list[Tensor] = []
        kv: list[Tensor] = []

        x = self.codebooks(codes)
        tap("dec.quantizer", x.T[None])
        x = torch.cat((rest.pop(0), x))
        after.append(x[-(PRE_KERNEL - 1) :])
        x = self.pre_conv(windows(x, PRE_KERNEL))
        tap("dec.pre_conv", x.T[None])
        x = self._transform(x, rest, kv)
        tap("dec.pre_transformer", x[None])

        for i, (stretch, smooth) in enumerate(zip(self.stretch, self.smooth, strict=True)):
            x = stretch(x)
            tap(f"dec.upsample.{i}.0", x.T[None])
            x, kept = smooth(x, rest.pop(0))
            tap(f"dec.upsample.{i}.1", x.T[None])
            after.append(kept)

        x = torch.cat((rest.pop(0), x))
        after.append(x[-(KERNEL - 1) :])
        x = self.conv(windows(x, KERNEL))
        tap("dec.decoder.0", x.T[None])
        for i, block in enumerate(self.blocks):
            units = 1 + len(DILATIONS)
            y, kept = block(x, rest[:units])
            tap(f"dec.decoder.{i + 1}", y)
            x = y.squeeze(0).T
            del rest[:units]
            after += kept

        past = rest.pop(0)
        y = torch.cat((past[None], self.act(y)), dim=-1)
        after.append(tail(y, past))
        wave = F.conv1d(y, self.out, self.out_bias).clamp(-1, 1)
        return wave.view(frames, c.frame), *after, *kv

    def _transform(self, x: Tensor, rest: list[Tensor], kv: list[Tensor]) -> Tensor:
        """x [frames, latent] -> same shape. Takes position, k.i, v.i from the end of `rest`, puts the next in `kv`."""
        c, frames, kept = self.config, x.shape[0], self.config.sliding_window - 1
        at = len(rest) - 1 - (2 * c.num_hidden_layers if kept else 0)
        position, cache = rest[at], rest[at + 1 :]
        del rest[at:]
        kv.append(position + frames)
        new = torch.arange(frames, device=x.device)
        turn = turns(position + new, self.frequencies)
        # Slot s of the keys holds frame position - kept + s; before the start there is nothing to see.
        slots = torch.arange(kept + frames, device=x.device)
        behind = kept + new[:, None] - slots
        seen = (behind >= 0) & (behind <= kept) & (slots >= kept - position)
        mask = torch.zeros(seen.shape, device=x.device).masked_fill(~seen, -torch.inf)
        x = self.enter(x)
        for i, layer in enumerate(self.layers):
            past = (cache[2 * i], cache[2 * i + 1]) if kept else None
            x, keys, values = layer(x, turn, mask, past)
            tap(f"dec.pre_transformer.layer.{i}", x[None])
            if kept:
                kv += [keys[..., -kept:], values[:, -kept:]]
        out: Tensor = self.leave(ops.rms_norm(x, self.norm, c.rms_norm_eps))
        return out
