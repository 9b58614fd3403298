"""What the Qwen3-TTS 12 Hz codec decoder turns its frames into samples with (docs/systems/qwen3tts.md 6): convolutions.

Sequences are [steps, channels] and convolutions MatMuls of what they see at each step, which onnxruntime can do in
int8. In float32 Conv1d is faster, at the machine's limit, so there the residual units take [1, channels, steps].
States are [channels, context] either way.
"""

import torch
from torch import Tensor, nn

from voxport_exporters.checkpoints.weights import Weights
from voxport_exporters.codecs.codec12hz.config import DILATIONS, KERNEL
from voxport_exporters.nets import ops
from voxport_exporters.nets.conv import Conv, TransposedConv
from voxport_exporters.nets.dense import Linear, frozen
from voxport_exporters.nets.states import States, last

MIN_ROW_VALUES = 1024  # below this, what onnxruntime spends on every row shows


class Snake(nn.Module):
    """x + sin(a x)^2 / b per channel, a = exp(alpha), b = exp(beta). x [1, channels, steps] or [steps, channels].

    Where the channels are last, onnxruntime starts anew for every row, so several rows are joined to one: as many as
    reach MIN_ROW_VALUES together and divide the `steps` of a frame.
    """

    def __init__(self, w: Weights, channels: int, steps: int, exact: bool = True) -> None:
        """Where not `exact` and channels are last, which is beside int8, it is the coarser of ops.snake."""
        super().__init__()
        self.alpha = frozen(torch.exp(w.take("alpha", channels)))
        self.beta = frozen(torch.exp(w.take("beta", channels)))
        self.rows = max(n for n in range(1, max(1, MIN_ROW_VALUES // channels) + 1) if steps % n == 0)
        self.exact = exact

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() == 3:
            return ops.snake(x, self.alpha[:, None], self.beta[:, None])
        wide = x.reshape(-1, self.rows * x.shape[1])
        alpha, beta = self.alpha.tile(self.rows), self.beta.tile(self.rows)
        return ops.snake(wide, alpha, beta, self.exact).reshape(x.shape)


class Residual(nn.Module):
    """x + conv2(snake(conv1(snake(x)))), conv1 with kernel 7 and dilated, conv2 with kernel 1."""

    def __init__(self, w: Weights, channels: int, dilation: int, steps: int, as_matmul: bool) -> None:
        super().__init__()
        self.act1, self.act2 = (Snake(w.at(name), channels, steps, exact=False) for name in ("act1", "act2"))
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
        self.act = Snake(w.at("0"), inputs, steps)
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


def joined(states: States, x: Tensor) -> Tensor:
    """The state [channels, context] before x [1, channels, steps] or [steps, channels], in x's layout."""
    if x.dim() == 3:
        return states.join(x.squeeze(0), axis=1)[None]
    past = states.take()
    x = torch.cat((past.T, x))
    states.keep(last(x, past.shape[1]).T)
    return x
