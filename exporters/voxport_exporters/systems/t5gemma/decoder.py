"""T5Gemma's decoder: audio embeddings in, the scores of the next audio token out (docs/systems/t5gemma.md 4).

    decoder  embeds [batch, time, D], past int64 [batch], cos, sin [batch, time, S / 2], read int64 [batch],
             cross_keys.i, cross_values.i [batch, kv heads, text, S], state keys.i, values.i
             -> logits [batch, rows] of the last token, next state

D: width, S: head size, i: layer. `read`: of each row, how many columns of its text are its own; the others fill up to
the longest text of the batch. Windows count tokens; how far a token turns is the runtime's to know.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from voxport.graphs.stage import CAPACITY, Stage, TensorSpec
from voxport_exporters.checkpoints.weights import Weights
from voxport_exporters.nets import ops
from voxport_exporters.nets.attention import HIDDEN, Places, grouped_attention, turned_attention
from voxport_exporters.nets.dense import Linear
from voxport_exporters.nets.taps import tap
from voxport_exporters.systems.t5gemma.config import Config, Stack
from voxport_exporters.systems.t5gemma.encoder import cross_specs, turn_specs
from voxport_exporters.systems.t5gemma.layers import Mlp, Norm, heads, output, scaled

KINDS = ("keys", "values")
LAST = 2  # layers whose weights recipes can name apart: what they get wrong no later layer evens out


class SelfAttention(nn.Module):
    """Causal, over all tokens so far or the last of them."""

    def __init__(self, w: Weights, c: Stack, window: int, softcap: float) -> None:
        super().__init__()
        self.heads, self.kv_heads = c.num_attention_heads, c.num_key_value_heads
        self.window, self.softcap = window, softcap
        shared = self.kv_heads * c.head_dim
        sizes = {"q_proj": self.heads * c.head_dim, "k_proj": shared, "v_proj": shared}
        gain = (c.head_dim / c.query_pre_attn_scalar) ** 0.5  # attention with a cache divides by the root of the size
        self.qkv = heads(w, c.hidden_size, sizes, {"q_proj": gain}, c.attention_bias)
        self.out = output(w, c)

    def forward(self, x: Tensor, places: Places, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x [batch, time, width], keys, values [batch, kv heads, capacity, size] -> same shapes."""
        heads = self.heads, self.kv_heads
        y, keys, values = turned_attention(self.qkv(x), heads, keys, values, places, self.window, self.softcap)
        return self.out(y), keys, values


class CrossAttention(nn.Module):
    """Attends to the text, whose keys and values are inputs."""

    def __init__(self, w: Weights, c: Stack, rotates: bool, softcap: float) -> None:
        super().__init__()
        self.heads, self.rotates, self.softcap = c.num_attention_heads, rotates, softcap
        sizes, gains = {"q_proj": self.heads * c.head_dim}, {"q_proj": c.query_pre_attn_scalar**-0.5}
        self.q = heads(w, c.hidden_size, sizes, gains, c.attention_bias)
        self.out = output(w, c)

    def forward(self, x: Tensor, places: Places, keys: Tensor, values: Tensor, mask: Tensor) -> Tensor:
        """x [batch, time, width], keys, values [batch, kv heads, text, size], mask [batch, 1, 1, text] -> the shape of
        x."""
        q = self.q(x)
        if self.rotates:
            q = ops.rotary(q, self.heads, places.cos, places.sin)
        y: Tensor = self.out(grouped_attention(q, keys, values, mask, self.softcap))
        return y


class Layer(nn.Module):
    """Each block is normed before and after."""

    def __init__(self, w: Weights, c: Stack, i: int, rotates: bool, softcap: float) -> None:
        super().__init__()
        self.i = i
        self.self_attention = SelfAttention(w.at("self_attn"), c, c.windows[i], softcap)
        self.cross_attention = CrossAttention(w.at("cross_attn"), c, rotates, softcap)
        self.mlp = Mlp(w.at("mlp"), c)
        blocks = ("self_attn", "cross_attn", "feedforward")
        self.pre_self, self.pre_cross, self.pre_mlp = (Norm(w.at(f"pre_{block}_layernorm"), c) for block in blocks)
        self.post_self, self.post_cross, self.post_mlp = (Norm(w.at(f"post_{block}_layernorm"), c) for block in blocks)

    def forward(
        self, h: Tensor, x: Tensor, following: Norm, places: Places, text: tuple[Tensor, ...], *caches: Tensor
    ) -> tuple[Tensor, ...]:
        """h and x, its norm [batch, time, width]; `following`: the norm after this layer; text: keys and values of the
        cross attention, and their mask -> h, x of the next layer, next keys, next values."""
        y, *caches_after = self.self_attention(x, places, *caches)
        tap(f"dec.{self.i}.self_attn", y)
        x, h = self.pre_cross.of_sum(self.post_self(y), h)
        y = self.cross_attention(x, places, *text)
        tap(f"dec.{self.i}.cross_attn", y)
        x, h = self.pre_mlp.of_sum(self.post_cross(y), h)
        x, h = following.of_sum(self.post_mlp(self.mlp(x)), h)
        tap(f"dec.{self.i}.out", h)
        return h, x, *caches_after


class Head(nn.Module):
    """Scores of audio ids: two dense layers."""

    def __init__(self, w: Weights, width: int, rows: int) -> None:
        """`w`: the weights below `predict_layer.0.`"""
        super().__init__()
        self.hidden = Linear.joined(w, width, {"0": width}, bias=True)
        self.out = Linear.joined(w, width, {"2": rows}, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        """x [batch, width] -> logits [batch, rows]."""
        logits: Tensor = self.out(F.gelu(self.hidden(x)))
        return logits


class Decoder(nn.Module):
    """Audio embeddings in, the scores of the next token out."""

    def __init__(self, w: Weights, config: Config, softcap: bool) -> None:
        """`w`: the whole checkpoint. The last LAST layers are a list of their own."""
        super().__init__()
        c, rotates = config.decoder, bool(config.voice.use_pm_rope)
        self.count, self.windows = c.num_hidden_layers, {*c.windows}
        cap, own = c.softcap if softcap else 0.0, w.at("backbone.model.decoder")
        every = [Layer(own.at(f"layers.{i}"), c, i, rotates, cap) for i in range(self.count)]
        self.layers, self.last = nn.ModuleList(every[:-LAST]), nn.ModuleList(every[-LAST:])
        self.norm = Norm(own.at("norm"), c)
        self.head = Head(w.at("predict_layer.0"), c.hidden_size, config.rows)

    def forward(
        self, embeds: Tensor, past: Tensor, cos: Tensor, sin: Tensor, read: Tensor, *rest: Tensor
    ) -> tuple[Tensor, ...]:
        """rest: cross keys and values layer by layer, then the state -> logits of the last token, next state."""
        hidden, *after = self.read(embeds, past, cos, sin, read, *rest)
        tap("hidden", hidden[:, -1])
        return self.head(hidden[:, -1]), *after

    def read(
        self, embeds: Tensor, past: Tensor, cos: Tensor, sin: Tensor, read: Tensor, *rest: Tensor
    ) -> tuple[Tensor, ...]:
        """As `forward`, but what comes first is what the head reads, of every token: [batch, time, width]."""
        text, state = rest[: 2 * self.count], rest[2 * self.count :]
        places = Places.turned(past, cos, sin, self.windows)
        layers = (*self.layers, *self.last)
        own = torch.arange(text[0].shape[2]) < read[:, None]
        mask = torch.where(own, 0.0, HIDDEN)[:, None, None]
        norms = (*(layer.pre_self for layer in layers), self.norm)
        h, after = scaled(embeds), []
        x = norms[0](h)
        for i, layer in enumerate(layers):
            pair = slice(2 * i, 2 * i + 2)
            h, x, *mine = layer(h, x, norms[i + 1], places, (*text[pair], mask), *state[pair])
            after += mine
        return x, *after


def decoder_stage(config: Config) -> Stage:
    c, batch = config.decoder, ("batch",)
    cache = (*batch, c.num_key_value_heads, CAPACITY, c.head_dim)
    caches = [TensorSpec(f"{kind}.{i}", "float32", cache) for i in range(c.num_hidden_layers) for kind in KINDS]
    return Stage(
        "decoder",
        inputs=(
            TensorSpec("embeds", "float32", (*batch, "time", c.hidden_size)),
            TensorSpec("past", "int64", batch),
            *turn_specs(c, "batch", "time"),
            TensorSpec("read", "int64", batch),
            *cross_specs(c, "batch"),
        ),
        outputs=(TensorSpec("logits", "float32", (*batch, config.rows)),),
        state=tuple(caches),
    )
