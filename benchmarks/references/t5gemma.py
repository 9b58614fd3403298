"""T5Gemma-TTS as eager PyTorch, layer for layer as upstream runs it: what benchmarks compare with
(docs/systems/t5gemma.md 3, 4, 5).

Attention is torch's fused one, keys and values of a layer are concatenated at every step as transformers' DynamicCache
does, and every row of a batch has its own copy of the text's keys and values.
"""

import json
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.nn import functional as F

from voxport_exporters.systems.t5gemma.config import Config, Stack

BACKBONE = "backbone.model."
Turns = tuple[Tensor, Tensor]  # cos and sin [batch, 1, time, size]
Cache = tuple[Tensor, Tensor]  # keys and values [batch, kv heads, tokens, size]


class Norm(nn.Module):
    """In float32 whatever the type of x; the weight is what is added to 1."""

    def __init__(self, c: Stack) -> None:
        super().__init__()
        self._eps = c.rms_norm_eps
        self.weight = nn.Parameter(torch.empty(c.hidden_size))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x.float()
        y = y * torch.rsqrt(y.square().mean(-1, keepdim=True) + self._eps)
        return y.mul(1 + self.weight.float()).type_as(x)


class Attention(nn.Module):
    """Of a layer to its own tokens, or to those of a text of width `memory`."""

    def __init__(self, c: Stack, window: int, causal: bool, memory: int = 0) -> None:
        super().__init__()
        self._size, self._scale = c.head_dim, c.query_pre_attn_scalar**-0.5
        self._window, self._causal = window, causal
        heads, shared, bias = c.num_attention_heads * c.head_dim, c.num_key_value_heads * c.head_dim, c.attention_bias
        self.q_proj = nn.Linear(c.hidden_size, heads, bias)
        self.k_proj, self.v_proj = (nn.Linear(memory or c.hidden_size, shared, bias) for _ in range(2))
        self.o_proj = nn.Linear(heads, c.hidden_size, bias)

    def cache(self, x: Tensor, turns: Turns) -> Cache:
        """x [batch, tokens, width] -> its keys, rotated, and values."""
        return _rotate(self._split(self.k_proj(x)), turns), self._split(self.v_proj(x))

    def forward(self, x: Tensor, turns: Turns, cache: Cache) -> Tensor:
        """x [batch, time, width], the last tokens of `cache` where that is its own -> the shape of x."""
        keys, values = cache
        q = _rotate(self._split(self.q_proj(x)), turns)
        mask = self._mask(x.shape[1], keys.shape[2])
        y = F.scaled_dot_product_attention(q, keys, values, mask, scale=self._scale, enable_gqa=True)
        out: Tensor = self.o_proj(y.transpose(1, 2).flatten(2))
        return out

    def _mask(self, time: int, total: int) -> Tensor | None:
        """bool [time, total], True where a token sees; None: everywhere."""
        causal, slides = self._causal and time > 1, 0 < self._window < total
        if not (causal or slides):
            return None
        behind = torch.arange(total - time, total)[:, None] - torch.arange(total)
        visible = behind >= 0 if causal else torch.ones_like(behind, dtype=torch.bool)
        return visible & (behind.abs() < self._window) if slides else visible

    def _split(self, x: Tensor) -> Tensor:
        heads: Tensor = x.unflatten(-1, (-1, self._size))
        return heads.transpose(1, 2)


def _rotate(x: Tensor, turns: Turns) -> Tensor:
    """Channel i of a head with channel i + size / 2."""
    low, high = x.chunk(2, -1)
    return x * turns[0] + torch.cat((-high, low), -1) * turns[1]


class Mlp(nn.Module):
    def __init__(self, c: Stack) -> None:
        super().__init__()
        self.gate_proj, self.up_proj = (nn.Linear(c.hidden_size, c.intermediate_size, bias=False) for _ in range(2))
        self.down_proj = nn.Linear(c.intermediate_size, c.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.down_proj(F.gelu(self.gate_proj(x), approximate="tanh") * self.up_proj(x))
        return out


class Layer(nn.Module):
    """`memory`: the width of the text that cross attention reads; 0 in the encoder."""

    def __init__(self, c: Stack, i: int, memory: int = 0) -> None:
        super().__init__()
        self.self_attn = Attention(c, c.windows[i], causal=bool(memory))
        self.pre_self_attn_layernorm, self.post_self_attn_layernorm = Norm(c), Norm(c)
        if memory:
            self.cross_attn = Attention(c, 0, False, memory)
            self.pre_cross_attn_layernorm, self.post_cross_attn_layernorm = Norm(c), Norm(c)
        self.mlp = Mlp(c)
        self.pre_feedforward_layernorm, self.post_feedforward_layernorm = Norm(c), Norm(c)

    def cross(self, memory: Tensor, turns: Turns) -> Cache:
        return self.cross_attn.cache(memory, turns)

    def forward(
        self, x: Tensor, turns: Turns, past: Cache | None = None, text: Cache | None = None
    ) -> tuple[Tensor, Cache]:
        """x [batch, time, width] -> the same, the cache with x in it."""
        y = self.pre_self_attn_layernorm(x)
        cache = self.self_attn.cache(y, turns)
        if past is not None:
            cache = torch.cat((past[0], cache[0]), 2), torch.cat((past[1], cache[1]), 2)
        x = x + self.post_self_attn_layernorm(self.self_attn(y, turns, cache))
        if text is not None:
            y = self.cross_attn(self.pre_cross_attn_layernorm(x), turns, text)
            x = x + self.post_cross_attn_layernorm(y)
        x = x + self.post_feedforward_layernorm(self.mlp(self.pre_feedforward_layernorm(x)))
        return x, cache


class Model(nn.Module):
    """One stack: the layers of `encoder` or `decoder` and their last norm."""

    def __init__(self, c: Stack, memory: int = 0) -> None:
        super().__init__()
        self.stack = c
        self.layers = nn.ModuleList(Layer(c, i, memory) for i in range(c.num_hidden_layers))
        self.norm = Norm(c)

    @property
    def every(self) -> list[Layer]:
        return [layer for layer in self.layers if isinstance(layer, Layer)]

    def turns(self, places: Tensor) -> Turns:
        """places float32 [batch, time]: how far along each token is."""
        half = torch.arange(0, self.stack.head_dim, 2) / self.stack.head_dim
        angles = (places[..., None] * self.stack.theta**-half).repeat(1, 1, 2)[:, None]
        kind = self.norm.weight.dtype
        return angles.cos().to(kind), angles.sin().to(kind)


class Reference:
    """A checkpoint's decoder and, if asked for, its encoder. Positions are the fractions of an utterance that are over
    (PM-RoPE)."""

    def __init__(self, checkpoint: Path, config: Config, dtype: torch.dtype, encodes: bool = True) -> None:
        """`checkpoint`: the folder of the model; its weights are converted to `dtype`."""
        self.config = config
        self.decoder = _load(checkpoint, "decoder", Model, config.decoder, config.encoder.hidden_size, dtype=dtype)
        own = _tensors(checkpoint, ("audio_embedding.", "predict_layer."), dtype)
        self.table = own.pop("audio_embedding.0.weight")
        self.head = [(own[f"predict_layer.0.{i}.weight"], own[f"predict_layer.0.{i}.bias"]) for i in (0, 2)]
        if encodes:
            self.encoder = _load(checkpoint, "encoder", Model, config.encoder, dtype=dtype)
            name = f"{BACKBONE}encoder.embed_tokens.weight"
            self.text_table = _tensors(checkpoint, (name,), dtype)[name]

    @torch.inference_mode()
    def read(self, ids: Tensor) -> Tensor:
        """ids int64 [batch, text] -> what the decoder attends to [batch, text, width]."""
        x, turns = _scaled(self.text_table, ids), self.encoder.turns(self._text_places(ids.shape[1]))
        for layer in self.encoder.every:
            x, _ = layer(x, turns)
        out: Tensor = self.encoder.norm(x)
        return out

    def speech(self, memory: Tensor, prompt: Tensor, total: int) -> "Speech":
        """memory [batch, text, width], prompt int64 [batch, frames] with its separator, `total`: frames of it and of
        the speech that is to come."""
        return Speech(self, memory, prompt, total)

    def _text_places(self, count: int) -> Tensor:
        return torch.arange(count)[None] / max(count - 1, 1) * self.config.voice.progress_scale


class Speech:
    """Tokens that are being generated: `logits` are the scores of the next one, [batch, rows]."""

    @torch.inference_mode()
    def __init__(self, reference: Reference, memory: Tensor, prompt: Tensor, total: int) -> None:
        self._reference, self._count = reference, prompt.shape[1] + 1
        self._span, net = max(total + 1, self._count) - 1, reference.decoder
        turns = net.turns(reference._text_places(memory.shape[1]))
        self._text = [layer.cross(memory, turns) for layer in net.every]
        self._caches: list[Cache | None] = [None] * len(net.layers)
        first = torch.full((len(prompt), 1), reference.config.tokens["empty"])
        places = torch.arange(self._count)[None] / max(self._span, 1) * reference.config.voice.progress_scale
        self.logits = self._run(torch.cat((first, prompt), 1), places)

    @torch.inference_mode()
    def feed(self, tokens: Tensor) -> None:
        """tokens int64 [batch]: what was chosen."""
        scale = self._reference.config.voice.progress_scale
        place = min(self._count / max(self._span, 1) * scale, scale)
        self._count += 1
        self.logits = self._run(tokens[:, None], torch.full((1, 1), place, dtype=torch.float32))

    def _run(self, tokens: Tensor, places: Tensor) -> Tensor:
        net = self._reference.decoder
        x, turns = _scaled(self._reference.table, tokens), net.turns(places)
        for i, layer in enumerate(net.every):
            x, self._caches[i] = layer(x, turns, self._caches[i], self._text[i])
        hidden, (inner, outer) = net.norm(x)[:, -1], self._reference.head
        return F.linear(F.gelu(F.linear(hidden, *inner)), *outer)


def draw(logits: Tensor, temperature: float = 0.8, top_k: int = 30, top_p: float = 0.9) -> Tensor:
    """logits [batch, rows] -> ids [batch], upstream's defaults."""
    logits = logits / temperature
    logits = logits.masked_fill(logits < logits.topk(top_k).values[:, -1:], -torch.inf)
    ordered, ids = logits.sort(descending=True)
    over = ordered.softmax(-1).cumsum(-1) > top_p
    over[:, 1:] = over[:, :-1].clone()
    over[:, 0] = False
    logits = logits.masked_fill(over.scatter(1, ids, over), -torch.inf)
    return torch.multinomial(logits.softmax(-1), 1)[:, 0]


def _scaled(table: Tensor, ids: Tensor) -> Tensor:
    """Embeddings times the root of their width, which is rounded to their type first."""
    return F.embedding(ids, table) * torch.tensor(table.shape[1] ** 0.5, dtype=table.dtype)


def _load(checkpoint: Path, name: str, model: type[Model], *sizes: object, dtype: torch.dtype) -> Model:
    """A stack whose memory is allocated for its weights only."""
    prefix = f"{BACKBONE}{name}."
    state = _tensors(checkpoint, (f"{prefix}layers.", f"{prefix}norm."), dtype)
    with torch.device("meta"):
        net = model(*sizes)  # type: ignore[arg-type]
    net.load_state_dict({key.removeprefix(prefix): value for key, value in state.items()}, assign=True)
    return net.eval()


def _tensors(checkpoint: Path, prefixes: tuple[str, ...], dtype: torch.dtype) -> dict[str, Tensor]:
    """Those of the checkpoint's shards whose names begin so."""
    index = checkpoint / "model.safetensors.index.json"
    names = {*json.loads(index.read_text())["weight_map"].values()} if index.exists() else {"model.safetensors"}
    found: dict[str, Tensor] = {}
    for name in sorted(names):
        with safe_open(checkpoint / name, "pt") as file:
            keys = [key for key in file.keys() if key.startswith(prefixes)]  # noqa: SIM118
            found |= {key: file.get_tensor(key).to(dtype, copy=True) for key in keys}
    return found
