"""T5Gemma's encoder, and what its output becomes for the decoder's layers (docs/systems/t5gemma.md 3, 4).

    encoder  embeds [1, text, D_enc], cos, sin [text, S_enc / 2] -> memory [1, text, D_enc]
    cross    memory [1, text, D_enc], cos, sin [text, S / 2]
             -> per decoder layer i: cross_keys.i and cross_values.i [1, kv heads, text, S]

Keys come rotated; where the config says `use_pm_rope 0` they do not, and `cross` has no cos and sin. How far each token
turns is the runtime's to know.
"""

import torch
from torch import Tensor, nn

from voxport.graphs.stage import Stage, TensorSpec
from voxport_exporters.checkpoints.weights import Weights
from voxport_exporters.nets import ops
from voxport_exporters.nets.attention import HIDDEN, grouped_attention
from voxport_exporters.nets.taps import tap
from voxport_exporters.systems.t5gemma.config import Config, Stack
from voxport_exporters.systems.t5gemma.layers import Mlp, Norm, heads, output, scaled


class SelfAttention(nn.Module):
    """Every token attends to all, or to those that are less than a window away, on both sides."""

    def __init__(self, w: Weights, c: Stack, softcap: float) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.size = c.num_attention_heads, c.num_key_value_heads, c.head_dim
        self.softcap = softcap
        shared = self.kv_heads * self.size
        sizes = {"q_proj": self.heads * self.size, "k_proj": shared, "v_proj": shared}
        self.qkv = heads(w, c.hidden_size, sizes, {"q_proj": c.query_pre_attn_scalar**-0.5}, c.attention_bias)
        self.out = output(w, c)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor | None) -> Tensor:
        """x [1, text, width], cos, sin [1, text, size / 2], mask [1, 1, text, text] -> the shape of x."""
        wide, shared = self.heads * self.size, self.kv_heads * self.size
        qk, v = self.qkv(x).split((wide + shared, shared), dim=-1)
        q, k = ops.rotary(qk, self.heads + self.kv_heads, cos, sin).split((wide, shared), dim=-1)
        keys, values = (t.unflatten(-1, (self.kv_heads, self.size)).transpose(1, 2) for t in (k, v))
        y: Tensor = self.out(grouped_attention(q, keys, values, mask, self.softcap))
        return y


class Layer(nn.Module):
    """Each block is normed before and after."""

    def __init__(self, w: Weights, c: Stack, softcap: float) -> None:
        super().__init__()
        self.attention, self.mlp = SelfAttention(w.at("self_attn"), c, softcap), Mlp(w.at("mlp"), c)
        names = ("pre_self_attn", "post_self_attn", "pre_feedforward", "post_feedforward")
        self.norms = nn.ModuleList(Norm(w.at(f"{name}_layernorm"), c) for name in names)

    def forward(self, h: Tensor, cos: Tensor, sin: Tensor, mask: Tensor | None) -> Tensor:
        pre, post, before, after = self.norms
        h = h + post(self.attention(pre(h), cos, sin, mask))
        out: Tensor = h + after(self.mlp(before(h)))
        return out


class Encoder(nn.Module):
    """Text in both directions."""

    def __init__(self, w: Weights, c: Stack, softcap: bool) -> None:
        """`w`: the weights below `backbone.model.encoder.`"""
        super().__init__()
        cap = c.softcap if softcap else 0.0
        self.windows = c.windows
        self.layers = nn.ModuleList(Layer(w.at(f"layers.{i}"), c, cap) for i in range(c.num_hidden_layers))
        self.norm = Norm(w.at("norm"), c)

    def forward(self, embeds: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """embeds [1, text, width], cos, sin [text, head size / 2] -> normed memory [1, text, width]."""
        h, places = scaled(embeds), torch.arange(embeds.shape[1])
        apart = (places[:, None] - places).abs()
        masks = {w: torch.where(apart < w, 0.0, HIDDEN)[None, None] if w else None for w in {*self.windows}}
        for i, (layer, window) in enumerate(zip(self.layers, self.windows, strict=True)):
            h = layer(h, cos[None], sin[None], masks[window])
            tap(f"enc.{i}.out", h)
        memory: Tensor = self.norm(h)
        tap("enc.out", memory)
        return memory


class CrossLayer(nn.Module):
    """Keys and values of one decoder layer."""

    def __init__(self, w: Weights, c: Stack, inputs: int) -> None:
        super().__init__()
        self.heads, self.size = c.num_key_value_heads, c.head_dim
        sizes = dict.fromkeys(("k_proj", "v_proj"), self.heads * self.size)
        self.kv = heads(w, inputs, sizes, {}, c.attention_bias)

    def forward(self, memory: Tensor, turn: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        """memory [1, text, D_enc], turn: cos and sin [1, text, size / 2], or nothing -> keys, values, see above."""
        k, v = self.kv(memory).chunk(2, dim=-1)
        if turn:
            k = ops.rotary(k, self.heads, *turn)
        keys, values = (t.unflatten(-1, (self.heads, self.size)).transpose(1, 2) for t in (k, v))
        return keys, values


class Cross(nn.Module):
    """What every decoder layer attends to, computed once per text."""

    def __init__(self, w: Weights, c: Stack, inputs: int) -> None:
        """`w`: the weights below `backbone.model.decoder.`; `inputs`: the encoder's width."""
        super().__init__()
        names = (f"layers.{i}.cross_attn" for i in range(c.num_hidden_layers))
        self.layers = nn.ModuleList(CrossLayer(w.at(name), c, inputs) for name in names)

    def forward(self, memory: Tensor, *turn: Tensor) -> tuple[Tensor, ...]:
        """memory [1, text, D_enc] and, where keys are rotated, cos, sin [text, size / 2] -> keys, values, keys .."""
        tables = tuple(t[None] for t in turn)
        return tuple(array for layer in self.layers for array in layer(memory, tables))


def encoder_stage(c: Stack) -> Stage:
    memory = TensorSpec("memory", "float32", (1, "text", c.hidden_size))
    embeds = TensorSpec("embeds", "float32", (1, "text", c.hidden_size))
    return Stage("encoder", inputs=(embeds, *turn_specs(c, "text")), outputs=(memory,))


def cross_stage(config: Config) -> Stage:
    memory = TensorSpec("memory", "float32", (1, "text", config.encoder.hidden_size))
    turn = turn_specs(config.decoder, "text") if config.voice.use_pm_rope else ()
    return Stage("cross", inputs=(memory, *turn), outputs=cross_specs(config.decoder, 1))


def turn_specs(c: Stack, *axes: str) -> tuple[TensorSpec, TensorSpec]:
    """cos and sin [axes .., head size / 2] of a stack."""
    shape: tuple[int | str, ...] = (*axes, c.head_dim // 2)
    return TensorSpec("cos", "float32", shape), TensorSpec("sin", "float32", shape)


def cross_specs(c: Stack, batch: int | str) -> tuple[TensorSpec, ...]:
    """cross_keys.i and cross_values.i of every decoder layer."""
    shape = (batch, c.num_key_value_heads, "text", c.head_dim)
    names = (f"{kind}.{i}" for i in range(c.num_hidden_layers) for kind in ("cross_keys", "cross_values"))
    return tuple(TensorSpec(name, "float32", shape) for name in names)
