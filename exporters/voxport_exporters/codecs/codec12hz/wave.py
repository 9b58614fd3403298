"""What the Qwen3-TTS 12 Hz codec decoder turns its frames into samples with (docs/systems/qwen3tts.md 6): convolutions.

Sequences are [steps, channels] and convolutions MatMuls of what they see at each step, which onnxruntime can do in
int8. In float32 Conv1d is faster, at the machine's limit, so there the residual units take [1, channels, steps].
States are [channels, context] either way.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from voxport_exporters.checkpoints.weights import Weights
from voxport_exporters.codecs.codec12hz.config import DILATIONS, KERNEL
from voxport_exporters.nets import ops
from voxport_exporters.nets.dense import Linear, frozen
from voxport_exporters.nets.states import States, last

ROW = 1024  # values in a row from which on it costs no more that rows are short
# sin(pi r)^2 as p^2 (c0 + c1 p), p = r (r - 1): minimax, largest error 1.6e-3 (-56 dB; int8 leaves 16 to 30)
COARSE = (9.1215333021590, -27.409844918885)


class Snake(nn.Module):
    """x + sin(a x)^2 / b per channel, a = exp(alpha), b = exp(beta). x [1, channels, steps] or [steps, channels].

    Where the channels are last, onnxruntime starts anew for every row, so it is given several as one: as many as are
    not too long together and divide the `steps` of a frame.
    """

    def __init__(self, w: Weights, channels: int, steps: int, exact: bool = True) -> None:
        """Not `exact`: where channels are last, which is beside int8, it is `coarse`."""
        super().__init__()
        self.alpha = frozen(torch.exp(w.take("alpha", channels)))
        self.beta = frozen(torch.exp(w.take("beta", channels)))
        self.rows = max(n for n in range(1, max(1, ROW // channels) + 1) if steps % n == 0)
        self.exact = exact

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() == 3:
            return ops.snake(x, self.alpha[:, None], self.beta[:, None])
        snake = ops.snake if self.exact else coarse
        wide = x.reshape(-1, self.rows * x.shape[1])
        return snake(wide, self.alpha.tile(self.rows), self.beta.tile(self.rows)).reshape(x.shape)


def coarse(x: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    """ops.snake within 1.6e-3 / beta; in ten passes over memory, not fourteen: a tenth of an int8 decoder step less."""
    turns, gain = x * (alpha / torch.pi), 1 / (beta + 1e-9)
    r = turns - torch.floor(turns)
    p = r * (r - 1)
    c0, c1 = (c * gain for c in COARSE)
    return x + (p * c1 + c0) * (p * p)


class Conv(nn.Module):
    """Convolution without padding over [1, channels, steps].

    With `as_matmul` it is a MatMul over [steps, channels], and its weight is [kernel * inputs, outputs].
    """

    def __init__(
        self, w: Weights, inputs: int, outputs: int, kernel: int, dilation: int = 1, as_matmul: bool = False
    ) -> None:
        super().__init__()
        self.kernel, self.dilation, self.as_matmul = kernel, dilation, as_matmul
        weight = w.take("weight", outputs, inputs, kernel)
        self.weight = frozen(weight.permute(2, 1, 0).flatten(0, 1) if as_matmul else weight)
        self.bias = frozen(w.take("bias", outputs))

    def forward(self, x: Tensor) -> Tensor:
        if self.as_matmul:
            return windows(x, self.kernel, self.dilation) @ self.weight + self.bias
        return F.conv1d(x, self.weight, self.bias, dilation=self.dilation)


class Upsample(nn.Module):
    """Transposed convolution, kernel `reach * rate`, stride `rate`, as one MatMul: [steps, in] -> [steps * rate, out].

    Step t of `rate` samples sees the inputs t and, where reach is 2, t - 1.
    """

    def __init__(self, w: Weights, inputs: int, outputs: int, rate: int, reach: int) -> None:
        super().__init__()
        taps = w.take("weight", inputs, outputs, reach * rate).unflatten(-1, (reach, rate)).flip(2)  # oldest first
        self.dense = Linear(taps.permute(2, 0, 3, 1).reshape(reach * inputs, -1), w.take("bias", outputs).tile(rate))
        self.rate, self.reach = rate, reach

    def forward(self, x: Tensor) -> Tensor:
        """x [reach - 1 + steps, in]: where reach is 2, the input before them first."""
        samples: Tensor = self.dense(windows(x, self.reach)).unflatten(-1, (self.rate, -1))
        return samples.flatten(0, 1)


class Residual(nn.Module):
    """x + conv2(snake(conv1(snake(x)))), conv1 with kernel 7 and dilated, conv2 with kernel 1."""

    def __init__(self, w: Weights, channels: int, dilation: int, steps: int, as_matmul: bool) -> None:
        super().__init__()
        self.act1, self.act2 = (Snake(w.at(name), channels, steps, exact=False) for name in ("act1", "act2"))
        self.conv1 = Conv(w.at("conv1.conv"), channels, channels, KERNEL, dilation, as_matmul)
        self.conv2 = Conv(w.at("conv2.conv"), channels, channels, 1, as_matmul=as_matmul)

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
        self.up = Upsample(w.at("1.conv"), inputs, outputs, rate, reach=2)
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


def windows(x: Tensor, kernel: int, dilation: int = 1) -> Tensor:
    """What a convolution sees at each step, oldest first: x [(kernel - 1) * dilation + steps, width]
    -> [steps, kernel * width]."""
    if kernel == 1:
        return x
    steps = x.shape[0] - (kernel - 1) * dilation
    seen = torch.arange(steps, device=x.device)[:, None] + dilation * torch.arange(kernel, device=x.device)
    return x.index_select(0, seen.flatten()).reshape(-1, kernel * x.shape[1])


def joined(states: States, x: Tensor) -> Tensor:
    """The state [channels, context] before x [1, channels, steps] or [steps, channels], in x's layout."""
    if x.dim() == 3:
        return states.join(x.squeeze(0), axis=1)[None]
    past = states.take()
    x = torch.cat((past.T, x))
    states.keep(last(x, past.shape[1]).T)
    return x
