"""What the Qwen3-TTS 12 Hz codec decoder turns its frames into samples with (docs/systems/qwen3tts.md 6): convolutions.

Sequences are [steps, channels] and convolutions MatMuls of what they see at each step, which onnxruntime can do in
int8. In float32 Conv1d is faster, at the machine's limit, so there the residual units take [1, channels, steps].
States are [channels, context] either way.
"""

import torch
from torch import Tensor, nn

from voxport_exporters.checkpoints.weights import Weights
from voxport_exporters.codecs.codec12hz.config import DILATIONS, KERNEL
from voxport_exporters.nets.conv import Conv, TransposedConv, joined
from voxport_exporters.nets.dense import Linear, frozen
from voxport_exporters.nets.snake import Snake
from voxport_exporters.nets.states import States


def snake(w: Weights, channels: int, steps: int, exact: bool = True) -> Snake:
    """With a = exp(alpha) and b = exp(beta)."""
    return Snake(torch.exp(w.take("alpha", channels)), torch.exp(w.take("beta", channels)), steps, exact)


class Residual(nn.Module):
    """x + conv2(snake(conv1(snake(x)))), conv1 with kernel 7 and dilated, conv2 with kernel 1."""

    def __init__(self, w: Weights, channels: int, dilation: int, steps: int, as_matmul: bool) -> None:
        super().__init__()
        self.act1, self.act2 = (snake(w.at(name), channels, steps, exact=False) for name in ("act1", "act2"))
        conv1, conv2 = w.at("conv1.conv"), w.at("conv2.conv")
        self.conv1 = Conv.of(conv1, channels, channels, KERNEL, dilation=dilation, as_matmul=as_matmul)
        self.conv2 = Conv.of(conv2, channels, channels, 1, as_matmul=as_matmul)

    def forward(self, x: Tensor, states: States) -> Tensor:
        """x [1, channels, steps] or [steps, channels] -> same shape."""
        y: Tensor = self.conv2(self.act2(self.conv1(joined(states, self.act1(x)))))
        return x + y


class Units(nn.ModuleList):
    """The residual units of a block, [steps, channels] -> same shape.

    With `as_matmul` all their convolutions are MatMuls: onnxruntime has no int8 kernel for Conv worth using
    (docs/performance.md 3.2), and no float32 MatMul as fast as Conv.
    """

    def __init__(self, w: Weights, channels: int, steps: int, as_matmul: bool) -> None:
        super().__init__(Residual(w.at(str(2 + j)), channels, d, steps, as_matmul) for j, d in enumerate(DILATIONS))
        self.as_matmul = as_matmul

    def forward(self, x: Tensor, states: States) -> Tensor:
        """State: one tensor per unit."""
        x = x if self.as_matmul else x.T[None]
        for unit in self:
            x = unit(x, states)
        return x if self.as_matmul else x.squeeze(0).T


class Block(nn.Module):
    """Upsampling by `rate` and three residual units."""

    def __init__(self, w: Weights, inputs: int, outputs: int, rate: int, steps: int, as_matmul: bool) -> None:
        """`steps` come in per frame; `as_matmul`: of the residual units."""
        super().__init__()
        self.act = snake(w.at("0"), inputs, steps)
        self.up = TransposedConv.of(w.at("1.conv"), inputs, outputs, rate, reach=2)
        self.units = Units(w, outputs, steps * rate, as_matmul)

    def forward(self, x: Tensor, states: States) -> Tensor:
        """x [steps, inputs] -> [steps * rate, outputs]."""
        y: Tensor = self.units(self.up(states.join(self.act(x))), states)
        return y


class ToWave(nn.Module):
    """Convolution with kernel 7 to one channel, [kernel - 1 + steps, channels] -> [steps].

    Every tap is multiplied with every step, and the products are summed where they meet: seven numbers per step are
    moved instead of 7 * channels.
    """

    def __init__(self, w: Weights, channels: int) -> None:
        super().__init__()
        self.dense = Linear(w.take("weight", 1, channels, KERNEL)[0])
        self.bias = frozen(w.take("bias", 1))

    def forward(self, x: Tensor) -> Tensor:
        each, steps = self.dense(x).T, x.shape[0] - KERNEL + 1
        return sum((each[i, i : i + steps] for i in range(KERNEL)), self.bias)
