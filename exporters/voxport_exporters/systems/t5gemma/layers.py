"""What the layers of both stacks of T5Gemma are made of (docs/systems/t5gemma.md 4)."""

import math

import torch
from torch import Tensor, nn

from voxport_exporters.checkpoints.later import later
from voxport_exporters.checkpoints.weights import Weights
from voxport_exporters.nets import ops
from voxport_exporters.nets.dense import Linear
from voxport_exporters.systems.t5gemma.config import Stack


class Norm(nn.Module):
    """x / sqrt(mean(x^2) + eps) * (1 + w): what the checkpoint stores is the distance from one."""

    def __init__(self, w: Weights, c: Stack) -> None:
        super().__init__()
        self.weight = nn.Parameter(1 + w.take("weight", c.hidden_size), requires_grad=False)
        self.eps = c.rms_norm_eps

    def forward(self, x: Tensor) -> Tensor:
        return ops.rms_norm(x, self.weight, self.eps)

    def of_sum(self, update: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        """(the norm of update + h, that sum), [batch, time, width] each."""
        return ops.add_norm(update, h, self.weight, self.eps)


class Mlp(nn.Module):
    """down(act(gate(x)) * up(x))"""

    def __init__(self, w: Weights, c: Stack) -> None:
        super().__init__()
        inner = c.intermediate_size
        self.gate_up = Linear.joined(w, c.hidden_size, {"gate_proj": inner, "up_proj": inner})
        self.down = Linear.joined(w, inner, {"down_proj": c.hidden_size})
        self.activation = ops.ACTIVATIONS[c.hidden_activation]

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.gate_up(x).chunk(2, dim=-1)
        y: Tensor = self.down(self.activation(gate) * up)
        return y


def heads(w: Weights, inputs: int, sizes: dict[str, int], gains: dict[str, float], bias: bool) -> Linear:
    """Projections to heads side by side, `sizes`: name -> width; `gains`: name -> factor that is folded in."""

    def joined(kind: str, *rest: int) -> Tensor:
        taken = (w.take(f"{name}.{kind}", size, *rest) * gains.get(name, 1.0) for name, size in sizes.items())
        return torch.cat(list(taken))

    return Linear(later(lambda: joined("weight", inputs).T), joined("bias") if bias else None)


def output(w: Weights, c: Stack) -> Linear:
    """The projection of all heads back to the width of the stack."""
    wide = c.num_attention_heads * c.head_dim
    return Linear.joined(w, wide, {"o_proj": c.hidden_size}, c.attention_bias)


def scaled(embeds: Tensor) -> Tensor:
    """Embeddings as a stack takes them. Upstream's factor is sqrt(width) in the type that it computes in."""
    return embeds * math.sqrt(embeds.shape[-1])
