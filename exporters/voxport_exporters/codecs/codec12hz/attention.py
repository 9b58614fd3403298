"""Self-attention with rotary positions, one sequence at a time, as the codec's two transformers use it."""

import torch
from torch import Tensor, nn

from voxport_exporters.checkpoints.weights import Weights
from voxport_exporters.codecs.codec12hz.config import DecoderConfig, EncoderConfig
from voxport_exporters.nets import rotary
from voxport_exporters.nets.dense import Linear, frozen

Config = DecoderConfig | EncoderConfig


def attention_weights(w: Weights, config: Config, gain: Tensor) -> tuple[Linear, Linear]:
    """(q, k and v in one, o). 1/sqrt(head size) is folded into q, `gain` [hidden] into o."""
    hidden, bias, size = config.hidden_size, config.attention_bias, config.head_size
    wide, narrow = config.num_attention_heads * size, config.num_key_value_heads * size
    scales = {"q": torch.full((wide,), size**-0.5), "k": torch.ones(narrow), "v": torch.ones(narrow)}
    parts = [Linear.of(w.at(f"{n}_proj"), hidden, len(s), bias=bias, gain=s) for n, s in scales.items()]
    weights: list[Tensor] = [part.weight for part in parts]
    biases: list[Tensor] = [part.bias for part in parts if part.bias is not None]
    qkv = Linear(torch.cat(weights, dim=1), torch.cat(biases) if biases else None)
    return qkv, Linear.of(w.at("o_proj"), wide, hidden, bias=bias, gain=gain)


def split_heads(qkv: Tensor, heads: int, shared: int) -> tuple[Tensor, Tensor, Tensor]:
    """qkv [steps, all heads * size] -> q [heads, steps, size], k and v [shared, steps, size]."""
    each = qkv.unflatten(-1, (heads + 2 * shared, -1)).transpose(0, 1)
    return each[:heads], each[heads : heads + shared], each[heads + shared :]


def frequencies(config: Config) -> nn.Parameter:
    """Rotary frequencies [head size / 2] in radians per position."""
    return frozen(rotary.frequencies(config.rope_theta, config.head_size))


def attend(q: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> Tensor:
    """q [heads, steps, size], keys [shared, size, columns], values [shared, columns, size], mask [steps, columns]
    -> [steps, heads * size]. Scores are scaled already; a query head reads the key head of its group."""
    groups = q.unflatten(0, (keys.shape[0], -1))
    weights = torch.softmax(groups @ keys[:, None] + mask, dim=-1)
    return (weights @ values[:, None]).flatten(0, 1).transpose(0, 1).flatten(-2)
