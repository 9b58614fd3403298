"""Dense layers and norms, as every net here uses them. Weights are frozen: nothing here is trained."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from voxport_exporters.checkpoints.later import later
from voxport_exporters.checkpoints.weights import Weights


def frozen(tensor: Tensor) -> nn.Parameter:
    """A parameter that is not trained, contiguous as a graph stores it."""
    return nn.Parameter(tensor.contiguous(), requires_grad=False)


class Linear(nn.Module):
    """x [..., inputs] -> x W + b [..., outputs]; W is stored [inputs, outputs], as MatMul reads it."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        """weight [inputs, outputs], bias [outputs]. A parameter is kept as it is, since it may be deferred."""
        super().__init__()
        self.weight = weight if isinstance(weight, nn.Parameter) else frozen(weight)
        self.bias = None if bias is None else frozen(bias)

    @classmethod
    def of(
        cls, w: Weights, inputs: int, outputs: int, *kernel: int, bias: bool = True, gain: Tensor | None = None
    ) -> "Linear":
        """From `weight` [outputs, inputs] and `bias` below `w`.

        `kernel`: the further axes of a weight that is stored as one of a convolution, of size 1 or summed up in
        `inputs`; `gain` [outputs] multiplies the outputs and is folded in.
        """
        weight = w.take("weight", outputs, inputs, *kernel).flatten(1).T
        offset = w.take("bias", outputs) if bias else None
        if gain is None:
            return cls(weight, offset)
        return cls(weight * gain, None if offset is None else offset * gain)

    @classmethod
    def joined(cls, w: Weights, inputs: int, outputs: dict[str, int], bias: bool = False) -> "Linear":
        """Several projections of one input side by side; `outputs`: name in the checkpoint -> width of each.

        The weight may be deferred (checkpoints/later.py).
        """
        names = outputs.items()
        weight = later(lambda: torch.cat([w.take(f"{name}.weight", n, inputs) for name, n in names]).T)
        return cls(weight, torch.cat([w.take(f"{name}.bias", n) for name, n in names]) if bias else None)

    def forward(self, x: Tensor) -> Tensor:
        y = x @ self.weight
        return y if self.bias is None else y + self.bias


class LayerNorm(nn.Module):
    """(x - mean) / deviation over the last axis, times `weight`, plus `bias`."""

    def __init__(self, w: Weights, width: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.weight, self.bias = frozen(w.take("weight", width)), frozen(w.take("bias", width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, (x.shape[-1],), self.weight, self.bias, self.eps)
