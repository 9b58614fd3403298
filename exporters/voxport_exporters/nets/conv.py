"""Convolutions along time, and transposed ones, as every net here uses them: MatMuls where that pays."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from voxport_exporters.checkpoints.weights import Weights
from voxport_exporters.nets.dense import frozen
from voxport_exporters.nets.states import States, last


class Conv(nn.Module):
    """Convolution over [1, channels, time].

    With `as_matmul` it is a MatMul over [time, channels], and its weight is [kernel * inputs, outputs].
    """

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor,
        *,
        stride: int = 1,
        padding: int = 0,
        dilation: int = 1,
        groups: int = 1,
        as_matmul: bool = False,
    ) -> None:
        """weight [outputs, inputs / groups, kernel], bias [outputs]; `padding`: zeros on both sides."""
        super().__init__()
        if as_matmul and (stride, padding, groups) != (1, 0, 1):
            raise ValueError("as a MatMul, a convolution has stride 1, no padding and one group")
        self.kernel, self.stride, self.padding = weight.shape[-1], stride, padding
        self.dilation, self.groups, self.as_matmul = dilation, groups, as_matmul
        self.weight = frozen(weight.permute(2, 1, 0).flatten(0, 1) if as_matmul else weight)
        self.bias = frozen(bias)

    @classmethod
    def of(
        cls,
        w: Weights,
        inputs: int,
        outputs: int,
        kernel: int,
        *,
        stride: int = 1,
        dilation: int = 1,
        as_matmul: bool = False,
    ) -> "Conv":
        """From `weight` [outputs, inputs, kernel] and `bias` below `w`."""
        weight, bias = w.take("weight", outputs, inputs, kernel), w.take("bias", outputs)
        return cls(weight, bias, stride=stride, dilation=dilation, as_matmul=as_matmul)

    @classmethod
    def weight_normed(
        cls,
        w: Weights,
        inputs: int,
        outputs: int,
        kernel: int,
        *,
        stride: int = 1,
        padding: int = 0,
        dilation: int = 1,
        groups: int = 1,
    ) -> "Conv":
        """From the weight-normed weight and `bias` below `w`."""
        weight, bias = w.folded(outputs, inputs // groups, kernel), w.take("bias", outputs)
        return cls(weight, bias, stride=stride, padding=padding, dilation=dilation, groups=groups)

    @property
    def context(self) -> int:
        """Steps of the past that the next output needs beside its own `stride` steps."""
        return (self.kernel - 1) * self.dilation + 1 - self.stride

    def forward(self, x: Tensor) -> Tensor:
        if self.as_matmul:
            return windows(x, self.kernel, self.dilation) @ self.weight + self.bias
        return F.conv1d(x, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


def causal(conv: Conv, x: Tensor, states: States) -> Tensor:
    """`conv` over x and the steps before it, a state [channels, context]; none with context 0.

    x [1, channels, time], or [time, channels] where the convolution is a MatMul.
    """
    y: Tensor = conv(joined(states, x) if conv.context else x)
    return y


def joined(states: States, x: Tensor) -> Tensor:
    """The state [channels, context] before x [1, channels, steps] or [steps, channels], in x's layout."""
    if x.dim() == 3:
        return states.join(x.squeeze(0), axis=1)[None]
    past = states.take()
    x = torch.cat((past.T, x))
    states.keep(last(x, past.shape[1]).T)
    return x


def windows(x: Tensor, kernel: int, dilation: int = 1, *, newest_first: bool = False) -> Tensor:
    """What a convolution sees at each step, oldest first: x [(kernel - 1) * dilation + steps, width]
    -> [steps, kernel * width]. One Gather, of which an int8 product needs the bytes only (graphs/int8.py)."""
    if kernel == 1:
        return x
    steps = x.shape[0] - (kernel - 1) * dilation
    taps = torch.arange(kernel, device=x.device)
    index = torch.arange(steps, device=x.device)[:, None] + dilation * (taps.flip(0) if newest_first else taps)
    return x.index_select(0, index.flatten()).reshape(-1, kernel * x.shape[1])


def polyphase(weight: Tensor, rate: int) -> Tensor:
    """The matrix [reach * inputs, rate * outputs] of a transposed convolution with stride `rate`.

    weight [inputs, outputs, reach * rate]. Its product with `reach` steps of input side by side, newest first, is the
    `rate` steps of output that begin at the newest of them. Which comes first decides how float32 rounds: newest first
    SNAC's decoder, whose activations reach 400, is within 0.53 of its bound (SNAC_LAYER) of upstream's in float64,
    oldest first it is not (1.06).
    """
    inputs, outputs, kernel = weight.shape
    taps = weight.view(inputs, outputs, kernel // rate, rate)
    return taps.permute(2, 0, 3, 1).reshape(kernel // rate * inputs, rate * outputs)


def nearest(weight: Tensor, rate: int) -> Tensor:
    """The matrix [reach * inputs, rate * outputs] of a causal convolution over steps that are repeated `rate` times.

    weight [outputs, inputs, kernel]. Its product with `reach` steps of input side by side, oldest first, is the `rate`
    steps of output of the last of them. Taps that see the same step are summed up: of kernel 16 and rate 8 that are 3
    steps for 8 outputs, where a convolution would multiply 16 for each.
    """
    outputs, inputs, kernel = weight.shape
    reach = -(-(kernel - 1) // rate) + 1
    matrix = torch.zeros(reach, inputs, rate, outputs, dtype=torch.float64)
    for phase in range(rate):
        for tap in range(kernel):
            step = (phase - (kernel - 1) + tap) // rate  # before the newest one
            matrix[reach - 1 + step, :, phase] += weight[:, :, tap].T
    return matrix.view(reach * inputs, rate * outputs).to(torch.float32)


class RepeatedConv(nn.Module):
    """A causal convolution over steps that are repeated `rate` times first, as one MatMul.

    [reach - 1 + steps, inputs] -> [steps * rate, outputs]: the inputs before the first step come first.
    """

    def __init__(self, weight: Tensor, bias: Tensor, rate: int) -> None:
        """weight [outputs, inputs, kernel], bias [outputs]."""
        super().__init__()
        self.rate, self.weight, self.bias = rate, frozen(nearest(weight, rate)), frozen(bias.tile(rate))
        self.reach = self.weight.shape[0] // weight.shape[1]

    def forward(self, x: Tensor) -> Tensor:
        blocks = windows(x, self.reach) @ self.weight + self.bias
        return blocks.reshape(-1, self.weight.shape[1] // self.rate)


class TransposedConv(nn.Module):
    """Transposed convolution, kernel `reach * rate`, stride `rate`, as one MatMul: [steps, in] -> [steps * rate, out].

    Step t of `rate` outputs sees the inputs t and the `reach` - 1 before it. Faster than ConvTranspose, and int8 where
    asked for.
    """

    def __init__(self, weight: Tensor, bias: Tensor, rate: int) -> None:
        """weight [inputs, outputs, reach * rate], bias [outputs]."""
        super().__init__()
        self.rate, self.reach = rate, weight.shape[-1] // rate
        self.weight, self.bias = frozen(polyphase(weight, rate)), frozen(bias.tile(rate))

    @classmethod
    def of(cls, w: Weights, inputs: int, outputs: int, rate: int, reach: int) -> "TransposedConv":
        """From `weight` [inputs, outputs, reach * rate] and `bias` below `w`."""
        return cls(w.take("weight", inputs, outputs, reach * rate), w.take("bias", outputs), rate)

    def forward(self, x: Tensor) -> Tensor:
        """x [reach - 1 + steps, in]: the inputs before the first step come first."""
        blocks = windows(x, self.reach, newest_first=True) @ self.weight + self.bias
        return blocks.view(-1, self.weight.shape[1] // self.rate)
