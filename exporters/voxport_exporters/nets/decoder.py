"""The decoder of LFM2, Qwen3, Qwen2 and Llama-3 language models (docs/systems/vyvo.md 6), written for export.

One graph serves prefill and step: `time` is free. All state is passed in and handed back: rotated keys and values of
attention layers, allocated once to `capacity`, and the last inputs of short convolutions. Projections that read the
same input are one matrix: query-key-value, gate-up, and the convolution's three.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from voxport.graphs.stage import CAPACITY, Stage, TensorSpec
from voxport_exporters.checkpoints.later import built, later
from voxport_exporters.checkpoints.weights import Weights
from voxport_exporters.nets import ops
from voxport_exporters.nets.attention import Places, cached_attention
from voxport_exporters.nets.decoder_config import DecoderConfig
from voxport_exporters.nets.dense import Linear
from voxport_exporters.nets.taps import tap

# name here -> name in the checkpoint, where lfm2 differs from the others
_LFM2 = {
    "input_layernorm": "operator_norm",
    "post_attention_layernorm": "ffn_norm",
    "o_proj": "out_proj",
    "q_norm": "q_layernorm",
    "k_norm": "k_layernorm",
    "mlp": "feed_forward",
    "gate_proj": "w1",
    "up_proj": "w3",
    "down_proj": "w2",
    "norm": "embedding_norm",
}


class Norm(nn.Module):
    def __init__(self, weight: Tensor, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return ops.rms_norm(x, self.weight, self.eps)


class Attention(nn.Module):
    """Grouped-query attention; queries and keys may be normed per head before they are rotated."""

    def __init__(self, w: Weights, c: DecoderConfig, window: int) -> None:
        super().__init__()
        H, K, S = c.heads, c.kv_heads, c.head_size
        self.heads, self.kv_heads, self.head_size, self.window = H, K, S, window
        out = _name(c, "o_proj")
        self.qkv = Linear.joined(w, c.width, {"q_proj": H * S, "k_proj": K * S, "v_proj": K * S}, c.qkv_bias)
        self.out = Linear.joined(w, H * S, {out: c.width}, c.out_bias)
        self.norm = None
        if c.qk_norm:  # one norm over all heads, with a row of weights for each
            q, k = (w.take(f"{_name(c, n)}.weight", S) for n in ("q_norm", "k_norm"))
            self.norm = Norm(torch.cat((q.expand(H, S), k.expand(K, S))), c.eps)

    def forward(self, x: Tensor, places: Places, keys: Tensor, values: Tensor) -> tuple[Tensor, ...]:
        """x [batch, time, width], keys and values [batch, kv heads, capacity, head size] -> same shapes."""
        H, K, S = self.heads, self.kv_heads, self.head_size
        qk, v = self.qkv(x).split(((H + K) * S, K * S), dim=-1)
        if self.norm is not None:
            qk = self.norm(qk.unflatten(-1, (H + K, S))).flatten(-2)
        q, k = ops.rotary(qk, H + K, places.cos, places.sin).split((H * S, K * S), dim=-1)
        y, keys, values = cached_attention(q, k, v, keys, values, places, self.window)
        return self.out(y), keys, values


class ShortConv(nn.Module):
    """LFM2's gated short convolution: out(C * conv(B * x)) with (B, C, x) from one projection."""

    def __init__(self, w: Weights, c: DecoderConfig) -> None:
        super().__init__()
        self.in_proj = Linear.joined(w, c.width, {"in_proj": 3 * c.width}, c.conv_bias)
        self.out_proj = Linear.joined(w, c.width, {"out_proj": c.width}, c.conv_bias)
        self.weight = nn.Parameter(w.take("conv.weight", c.width, 1, c.kernel), requires_grad=False)
        self.bias = nn.Parameter(w.take("conv.bias", c.width), requires_grad=False) if c.conv_bias else None

    def forward(self, x: Tensor, _places: Places, past: Tensor) -> tuple[Tensor, ...]:
        """x [batch, time, width], past [batch, kernel - 1, width]: the last B * x -> same shapes."""
        b, c, x = self.in_proj(x).chunk(3, dim=-1)
        y, past = ops.short_conv(b * x, past, self.weight, self.bias)
        return self.out_proj(c * y), past


class Mlp(nn.Module):
    """down(act(gate(x)) * up(x))"""

    def __init__(self, w: Weights, c: DecoderConfig) -> None:
        super().__init__()
        gate, up, down = (_name(c, n) for n in ("gate_proj", "up_proj", "down_proj"))
        self.gate_up = Linear.joined(w, c.width, {gate: c.ffn, up: c.ffn}, c.mlp_bias)
        self.down = Linear.joined(w, c.ffn, {down: c.width}, c.mlp_bias)
        self.activation = ops.ACTIVATIONS[c.activation]

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.gate_up(x).chunk(2, dim=-1)
        y: Tensor = self.down(self.activation(gate) * up)
        return y


class Layer(nn.Module):
    """Pre-norm residual layer: a mixer along time, then the MLP."""

    def __init__(self, w: Weights, c: DecoderConfig, i: int) -> None:
        super().__init__()
        norms = (w.take(f"{_name(c, n)}.weight", c.width) for n in ("input_layernorm", "post_attention_layernorm"))
        self.norm1, self.norm2 = (Norm(weight, c.eps) for weight in norms)
        mixer = c.mixers[i]
        self.mixer = (
            ShortConv(w.at("conv"), c)
            if mixer == "conv"
            else Attention(w.at("self_attn"), c, c.window if mixer == "sliding" else 0)
        )
        self.mlp = Mlp(w.at(_name(c, "mlp")), c)

    def forward(self, h: Tensor, places: Places, *state: Tensor) -> tuple[Tensor, ...]:
        update, *after = self.mixer(self.norm1(h), places, *state)
        h = h + update
        return h + self.mlp(self.norm2(h)), *after


class Decoder(nn.Module):
    """Embeds in, hidden states out: what every system builds its language model from."""

    def __init__(self, w: Weights, config: DecoderConfig) -> None:
        """`w`: the weights below `model.`, those of the embedding not included."""
        super().__init__()
        self.config = config
        self.layers = nn.ModuleList(Layer(w.at(f"layers.{i}"), config, i) for i in range(len(config.mixers)))
        self.norm = Norm(w.take(f"{_name(config, 'norm')}.weight", config.width), config.eps)
        self.frequencies = nn.Parameter(config.rope.frequencies(config.head_size), requires_grad=False)

    def forward(self, embeds: Tensor, past: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        """embeds [batch, time, width], past int64 [batch] -> normed hidden [batch, time, width], next state.

        `past`: tokens in each row's caches. State: `state_of(config)`.
        """
        c = self.config
        windows = {c.window if mixer == "sliding" else 0 for mixer in c.mixers if mixer != "conv"}
        places = Places.of(past, embeds.shape[1], self.frequencies, windows)
        rest, after = list(state), []
        h = embeds
        for i, layer in enumerate(self.layers):
            tap(f"hidden{i}", h)
            count = 2 if c.mixers[i] != "conv" else 1 if c.kernel > 1 else 0
            mine = [rest.pop(0) for _ in range(count)] or [h[:, :0]]
            h, *mine = layer(h, places, *mine)
            after += mine[:count]
        h = self.norm(h)
        tap(f"hidden{len(self.layers)}", h)
        return h, *after


class LanguageModel(nn.Module):
    """Token ids in, the last token's hidden state out; a head turns that into logits."""

    def __init__(self, w: Weights, config: DecoderConfig) -> None:
        """`w`: the whole checkpoint of a transformers *ForCausalLM."""
        super().__init__()
        self.config = config
        self.embedding = later(lambda: w.take("model.embed_tokens.weight", config.vocab, config.width))
        self.decoder = Decoder(w.at("model"), config)

    def forward(self, tokens: Tensor, past: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        """tokens int64 [batch, time], past int64 [batch] -> hidden [batch, width] of the last token, next state."""
        h, *after = self.decoder(F.embedding(tokens, self.embedding), past, *state)
        return h[:, -1], *after

    def rows(self, tokens: Tensor) -> Tensor:
        """tokens int64 [batch, time] -> embeds [batch, time, width], also when the table is deferred."""
        return F.embedding(tokens, built(self.embedding))


class Head(nn.Module):
    """Logits of the rows a grammar allows, as [start, stop) ranges of ids in the order of the output."""

    def __init__(self, w: Weights, config: DecoderConfig, rows: list[tuple[int, int]] | None = None) -> None:
        super().__init__()
        name = "model.embed_tokens.weight" if config.tied else "lm_head.weight"
        ranges = rows or [(0, config.vocab)]
        self.weight = later(lambda: torch.cat([w.take(name, config.vocab, config.width)[a:b] for a, b in ranges]).T)

    def forward(self, hidden: Tensor) -> tuple[Tensor, ...]:
        """hidden [batch, width] -> logits [batch, rows]."""
        return (hidden @ self.weight,)


def state_of(c: DecoderConfig) -> tuple[TensorSpec, ...]:
    """The state tensors of a Decoder, layer by layer."""
    cache = ("batch", c.kv_heads, CAPACITY, c.head_size)
    state: list[TensorSpec] = []
    for i, mixer in enumerate(c.mixers):
        if mixer != "conv":
            state += [TensorSpec(f"{kind}.{i}", "float32", cache) for kind in ("keys", "values")]
        elif c.kernel > 1:
            state.append(TensorSpec(f"conv.{i}", "float32", ("batch", c.kernel - 1, c.width)))
    return tuple(state)


def decoder_stage(name: str, config: DecoderConfig, tokens: TensorSpec, outputs: tuple[TensorSpec, ...]) -> Stage:
    """The declaration of a graph around a Decoder: `tokens`, how many each row has in its caches, and the caches."""
    past = TensorSpec("past", "int64", ("batch",))
    return Stage(name, inputs=(tokens, past), outputs=outputs, state=state_of(config))


def _name(c: DecoderConfig, name: str) -> str:
    return _LFM2.get(name, name) if c.family == "lfm2" else name
