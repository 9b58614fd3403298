"""The Qwen3-TTS 12 Hz codec decoder (QwenLM/Qwen3-TTS tokenizer v2; docs/systems/qwen3tts.md 6), written for export.

It looks only left, so with its state passed in and handed back any number of frames per call gives the same samples:

    conv tails   the last (kernel - 1) * dilation inputs of every convolution, one input of every transposed one
    k.i, v.i     the keys (turned by their absolute position) and values of the last `sliding_window - 1` frames
    position     frames decoded so far

A sequence is [steps, channels] and every dense layer a MatMul; what makes samples is in wave.py.

Weights that a recipe may name, as the graph has them (kernels are MatMuls' only where int8, see wave.py):

    pre_conv.weight  codebooks.project.weight                 of the frames
    enter, leave, layers.<i>.{qkv,out,gate_up,down} .weight   the transformer
    stretch.<i>, smooth.<i>.{wide,narrow} .weight             upsampling before the blocks
    conv.weight                                               kernel 7 before the blocks
    blocks.<i>.up.weight                                      the transposed convolution of a block
    blocks.<i>.units.<j>.conv1.weight                         kernel 7, dilated
    blocks.<i>.units.<j>.conv2.weight                         kernel 1
    out.dense.weight                                          to the wave
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from voxport_exporters.checkpoints.weights import Weights
from voxport_exporters.codecs.codec12hz.attention import attend, attention_weights, frequencies, split_heads
from voxport_exporters.codecs.codec12hz.config import DEPTHWISE_KERNEL, KERNEL, PRE_KERNEL, DecoderConfig
from voxport_exporters.codecs.codec12hz.wave import Block, ToWave, snake
from voxport_exporters.nets import ops
from voxport_exporters.nets.conv import Conv, TransposedConv, joined
from voxport_exporters.nets.dense import LayerNorm, Linear, frozen
from voxport_exporters.nets.rotary import cos_sin, turn
from voxport_exporters.nets.states import States
from voxport_exporters.nets.taps import tap

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
        self.eps, self.act = config.rms_norm_eps, ops.ACTIVATIONS[config.hidden_act]
        self.norm1 = frozen(w.take("input_layernorm.weight", hidden))
        self.norm2 = frozen(w.take("post_attention_layernorm.weight", hidden))
        scales = [w.take(f"{part}_layer_scale.scale", hidden) for part in ("self_attn", "mlp")]
        self.qkv, self.out = attention_weights(w.at("self_attn"), config, scales[0])
        mlp = w.at("mlp")
        gate, up = (mlp.take(f"{n}_proj.weight", config.intermediate_size, hidden).T for n in ("gate", "up"))
        self.gate_up = Linear(torch.cat((gate, up), dim=1))
        self.down = Linear.of(mlp.at("down_proj"), config.intermediate_size, hidden, bias=False, gain=scales[1])

    def forward(self, x: Tensor, angles: tuple[Tensor, Tensor], mask: Tensor, states: States | None) -> Tensor:
        """x [frames, hidden] -> same shape. State, where there is one: past keys [kv heads, head size, frames] and
        values [kv heads, frames, head size]; `angles`: cosine and sine of the new frames' positions."""
        q, k, v = split_heads(self.qkv(ops.rms_norm(x, self.norm1, self.eps)), self.heads, self.shared)
        keys, values = turn(k, *angles).transpose(1, 2), v
        if states is not None:
            keys, values = states.join(keys, axis=2), states.join(values, axis=1)
        x = x + self.out(attend(turn(q, *angles), keys, values, mask))
        gate, up = self.gate_up(ops.rms_norm(x, self.norm2, self.eps)).chunk(2, dim=-1)
        y: Tensor = x + self.down(self.act(gate) * up)
        return y


class ConvNeXt(nn.Module):
    """x [steps, width] + gamma * MLP(LayerNorm(depthwise convolution of x))."""

    def __init__(self, w: Weights, width: int) -> None:
        super().__init__()
        self.width = width
        self.taps = frozen(w.take("dwconv.conv.weight", width, 1, DEPTHWISE_KERNEL))
        self.bias = frozen(w.take("dwconv.conv.bias", width))
        self.norm = LayerNorm(w.at("norm"), width, eps=1e-6)
        self.wide = Linear.of(w.at("pwconv1"), width, 4 * width)
        self.narrow = Linear.of(w.at("pwconv2"), 4 * width, width, gain=w.take("gamma", width))

    def forward(self, x: Tensor, states: States) -> Tensor:
        """x [steps, width] -> same shape. State: the last inputs of the convolution, [width, kernel - 1]."""
        c = states.join(x.T, axis=1)[None]
        y = self.norm(F.conv1d(c, self.taps, self.bias, groups=self.width).squeeze(0).T)
        out: Tensor = x + self.narrow(F.gelu(self.wide(y)))
        return out


class Decoder(nn.Module):
    """codes [frames, books] -> wave [frames, samples per frame] at 24 kHz, in [-1, 1]."""

    def __init__(self, w: Weights, config: DecoderConfig, int8: frozenset[str] = frozenset()) -> None:
        """`int8`: names of int8 weights. Where residual units hold one, their convolutions are MatMuls."""
        super().__init__()
        self.config = c = config
        latent, hidden = c.latent_dim, c.hidden_size
        self.codebooks = Codebooks(w.at("quantizer"), c)
        self.pre_conv = Conv.of(w.at("pre_conv.conv"), c.codebook_dim, latent, PRE_KERNEL, as_matmul=True)
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
        self.stretch = nn.ModuleList(TransposedConv.of(v.at("0.conv"), latent, latent, r, reach=1) for v, r in rates)
        self.smooth = nn.ModuleList(ConvNeXt(v.at("1"), latent) for v in u)
        d, channels, last = w.at("decoder"), c.channels, len(c.upsample_rates) + 1
        self.conv = Conv.of(d.at("0.conv"), latent, channels[0], KERNEL, as_matmul=True)
        as_matmul = [any(name.startswith(f"blocks.{i}.units.") for name in int8) for i in range(len(c.upsample_rates))]
        self.blocks = nn.ModuleList(
            Block(d.at(f"{i + 1}.block"), channels[i], channels[i + 1], rate, c.steps[i], as_matmul[i])
            for i, rate in enumerate(c.upsample_rates)
        )
        self.act = snake(d.at(str(last)), channels[-1], c.frame)
        self.out = ToWave(d.at(f"{last + 1}.conv"), channels[-1])

    def forward(self, codes: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        """codes int64 [frames, books], state as stages.py declares it -> wave, next state."""
        frames, c = codes.shape[0], self.config
        tails = len(c.tails)
        states, caches = States(state[:tails]), States(state[tails:])

        x = self.codebooks(codes)
        tap("dec.quantizer", x.T[None])
        x = self.pre_conv(states.join(x))
        tap("dec.pre_conv", x.T[None])
        x = self._transform(x, caches)
        tap("dec.pre_transformer", x[None])

        for i, (stretch, smooth) in enumerate(zip(self.stretch, self.smooth, strict=True)):
            x = stretch(x)
            tap(f"dec.upsample.{i}.0", x.T[None])
            x = smooth(x, states)
            tap(f"dec.upsample.{i}.1", x.T[None])

        x = self.conv(states.join(x))
        tap("dec.decoder.0", x.T[None])
        for i, block in enumerate(self.blocks):
            x = block(x, states)
            tap(f"dec.decoder.{i + 1}", x.T[None])
        wave = self.out(joined(states, self.act(x))).clamp(-1, 1)
        return wave.view(frames, c.frame), *states.after, *caches.after

    def _transform(self, x: Tensor, states: States) -> Tensor:
        """x [frames, latent] -> same shape. State: position, then keys and values of every layer."""
        c, frames, past = self.config, x.shape[0], self.config.sliding_window - 1
        position = states.take()
        states.keep(position + frames)
        new = torch.arange(frames, device=x.device)
        angles = cos_sin(position + new, self.frequencies)
        # Column s of the keys holds frame position - past + s; before the start there is nothing to see.
        columns = torch.arange(past + frames, device=x.device)
        behind = past + new[:, None] - columns
        visible = (behind >= 0) & (behind <= past) & (columns >= past - position)
        mask = torch.zeros(visible.shape, device=x.device).masked_fill(~visible, -torch.inf)
        x = self.enter(x)
        for i, layer in enumerate(self.layers):
            x = layer(x, angles, mask, states if past else None)
            tap(f"dec.pre_transformer.layer.{i}", x[None])
        out: Tensor = self.leave(ops.rms_norm(x, self.norm, c.rms_norm_eps))
        return out
