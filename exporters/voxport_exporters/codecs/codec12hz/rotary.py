"""Self-attention with rotary positions, one sequence at a time, as the codec's two transformers use it."""

import torch
from torch import Tensor, nn

from voxport_exporters.checkpoints.weights import Weights
from voxport_exporters.codecs.codec12hz.config import DecoderConfig, EncoderConfig

Config = DecoderConfig | EncoderConfig


def frozen(tensor: Tensor) -> nn.Parameter:
    return nn.Parameter(tensor.contiguous(), requires_grad=False)


class Linear(nn.Module):
    """x [..., inputs] -> [..., outputs]; the weight is stored as MatMul reads it, [inputs, outputs]."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        """weight [inputs, outputs]."""
        super().__init__()
        self.weight = frozen(weight)
        self.bias = None if bias is None else frozen(bias)

    @classmethod
    def of(cls, w: Weights, inputs: int, outputs: int, bias: bool = True, gain: Tensor | None = None) -> "Linear":
        """`gain` [outputs] multiplies what comes out and is folded in."""
        weight, offset = w.take("weight", outputs, inputs).T, w.take("bias", outputs) if bias else None
        if gain is None:
            return cls(weight, offset)
        return cls(weight * gain, None if offset is None else offset * gain)

    def forward(self, x: Tensor) -> Tensor:
        y = x @ self.weight
        return y if self.bias is None else y + self.bias


def attention_weights(w: Weights, config: Config, gain: Tensor) -> tuple[Linear, Linear]:
    """(q, k and v in one, o). 1/sqrt(head_dim) is folded into q, `gain` [hidden] into o."""
    hidden, bias, size = config.hidden_size, config.attention_bias, config.head_size
    wide, narrow = config.num_attention_heads * size, config.num_key_value_heads * size
    parts = [Linear.of(w.at(f"{n}_proj"), hidden, o, bias) for n, o in (("q", wide), ("k", narrow), ("v", narrow))]
    weights, biases = [p.weight for p in parts], [p.bias for p in parts if p.bias is not None]
    weights[0] = frozen(weights[0] * size**-0.5)
    if biases:
        biases[0] = frozen(biases[0] * size**-0.5)
    qkv = Linear(torch.cat(weights, dim=1), torch.cat(biases) if biases else None)  # type: ignore[arg-type]
    return qkv, Linear.of(w.at("o_proj"), wide, hidden, bias, gain=gain)


def split_heads(qkv: Tensor, heads: int, shared: int) -> tuple[Tensor, Tensor, Tensor]:
    """qkv [steps, all heads * size] -> q [heads, steps, size], k and v [shared, steps, size]."""
    each = qkv.unflatten(-1, (heads + 2 * shared, -1)).transpose(0, 1)
    return each[:heads], each[heads : heads + shared], each[heads + shared :]


def turns(positions: Tensor, frequencies: Tensor) -> tuple[Tensor, Tensor]:
    """positions int [steps] -> cosine and sine [steps, head_dim / 2]."""
    angles = positions[:, None].to(frequencies.dtype) * frequencies
    return torch.cos(angles), torch.sin(angles)


def frequencies(config: Config) -> nn.Parameter:
    """Rotary frequencies [head_dim / 2] in radians per position."""
    return frozen(1 / config.rope_theta ** (torch.arange(0, config.head_size, 2).float() / config.head_size))


def rotate(x: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
    """Turns the two halves of each head [heads, steps, size] against each other."""
    cos, sin = turn
    a, b = x.chunk(2, dim=-1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)


def attend(q: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> Tensor:
    """q [heads, steps, size], keys [shared, size, seen], values [shared, seen, size], mask [steps, seen]
    -> [steps, heads * size]. Scores are scaled already; a query head reads the key head of its group."""
    groups = q.unflatten(0, (keys.shape[0], -1))
    weights = torch.softmax(groups @ keys[:, None] + mask, dim=-1)
    return (weights @ values[:, None]).flatten(0, 1).transpose(0, 1).flatten(-2)
