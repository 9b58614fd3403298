"""A stage of the vocoder: more steps per frame, the source mixed in, residual blocks (docs/systems/cosyvoice3.md 5)."""

from collections.abc import Sequence
from itertools import chain

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from voxport_exporters.checkpoints.weights import Weights
from voxport_exporters.nets.conv import Conv, RepeatedConv, causal, joined
from voxport_exporters.nets.snake import Snake
from voxport_exporters.nets.states import States, last
from voxport_exporters.nets.taps import tap
from voxport_exporters.systems.cosyvoice3 import hift_shapes as shapes
from voxport_exporters.systems.cosyvoice3.config import HiftConfig


class Unit(nn.Module):
    """Snake, then a causal convolution, over [1, channels, steps], or with `as_matmul` over [steps, channels].

    onnxruntime has no int8 kernel for Conv worth using, no float32 MatMul as fast as Conv (docs/performance.md 3.2).
    """

    def __init__(self, alpha: Tensor, conv: Weights, kernel: int, dilation: int, steps: int, as_matmul: bool) -> None:
        """alpha [channels]; `steps` come in per frame."""
        super().__init__()
        channels = len(alpha)
        self.act = Snake(alpha, alpha, steps, exact=False)
        weight = conv.folded(channels, channels, kernel)
        self.conv = Conv(weight, conv.take("bias", channels), dilation=dilation, as_matmul=as_matmul)

    def forward(self, x: Tensor, states: States) -> Tensor:
        return causal(self.conv, self.act(x), states)


class ResBlock(nn.Module):
    """x + unit(unit(x)), for every dilation: the first of the two units is dilated (generator.py, ResBlock)."""

    def __init__(
        self, w: Weights, channels: int, kernel: int, dilations: Sequence[int], steps: int, as_matmul: bool
    ) -> None:
        """`steps` come in per frame; `as_matmul`: see `Unit`."""
        super().__init__()

        def unit(number: int, i: int, dilation: int) -> Unit:
            alpha, conv = w.take(f"activations{number}.{i}.alpha", channels), w.at(f"convs{number}.{i}")
            return Unit(alpha, conv, kernel, dilation, steps, as_matmul)

        pairs = [(unit(1, i, dilation), unit(2, i, 1)) for i, dilation in enumerate(dilations)]
        self.units = nn.ModuleList(chain.from_iterable(pairs))

    def forward(self, x: Tensor, states: States) -> Tensor:
        """State: what every convolution looks back at."""
        units = iter(self.units)
        for first, second in zip(units, units, strict=True):
            x = x + second(first(x, states), states)
        return x


class Stage(nn.Module):
    """x [steps, inputs], the source's STFT -> [steps * rate, outputs]."""

    def __init__(self, w: Weights, config: HiftConfig, index: int, as_matmul: bool) -> None:
        """`as_matmul`: of the residual blocks, see `Unit`."""
        super().__init__()
        c, widths, steps = config, shapes.channels(config), shapes.steps(config)[index + 1]
        self.index, self.slope, self.as_matmul = index, c.lrelu_slope, as_matmul
        self.last, self.past = index == len(c.upsample_rates) - 1, shapes.past_frames(c)
        width, up = widths[index + 1], w.at(f"ups.{index}")
        weight = up.folded(width, widths[index], c.upsample_kernel_sizes[index])
        self.up = RepeatedConv(weight, up.take("bias", width), c.upsample_rates[index])
        kernel, self.stride = shapes.downs(c)[index]
        bins = c.istft_params.n_fft + 2
        self.down = Conv.of(w.at(f"source_downs.{index}"), bins, width, kernel, stride=self.stride)
        own = c.source_resblock_kernel_sizes[index], c.source_resblock_dilation_sizes[index]
        self.source = ResBlock(w.at(f"source_resblocks.{index}"), width, *own, steps, as_matmul)
        kinds = list(zip(c.resblock_kernel_sizes, c.resblock_dilation_sizes, strict=True))
        self.blocks = nn.ModuleList(
            ResBlock(w.at(f"resblocks.{index * len(kinds) + j}"), width, *kind, steps, as_matmul)
            for j, kind in enumerate(kinds)
        )

    def forward(self, x: Tensor, spectrum: Tensor, states: States) -> Tensor:
        """spectrum [1, bins, past + frames + 1], see `Hift`."""
        x = F.leaky_relu(x, self.slope)
        x = self.up(joined(states, x) if self.up.reach > 1 else x)
        x = x if self.as_matmul else x.T[None]
        self._tap("ups", self.index, x)
        if self.last:
            x = _late(x, states)
        # The steps of the last stage are the frames; a step of another one sees `stride` frames before and after it.
        s: Tensor = self.down(
            spectrum[..., self.past : -1] if self.last else spectrum[..., self.past - self.stride + 1 :]
        )
        s = s.squeeze(0).T if self.as_matmul else s
        self._tap("source_downs", self.index, s)
        s = self.source(s, states)
        self._tap("source_resblocks", self.index, s)
        x = x + s
        mixed = [block(x, states) for block in self.blocks]
        for j, y in enumerate(mixed):
            self._tap("resblocks", self.index * len(mixed) + j, y)
        x = sum(mixed[1:], mixed[0]) / len(mixed)
        return x if self.as_matmul else x.squeeze(0).T

    def _tap(self, name: str, index: int, x: Tensor) -> None:
        tap(f"{name}.{index}", x.T[None] if self.as_matmul else x)


def _late(x: Tensor, states: States) -> Tensor:
    """x one step later, as upstream's padding by reflection makes it: it puts the second step before the first.

    State: whether there were steps before (1, or 0), and the last of them.
    """
    axis = 0 if x.dim() == 2 else 2
    going, before = states.take(), states.take()
    second, body, newest = x.narrow(axis, 1, 1), x.narrow(axis, 0, x.shape[axis] - 1), last(x, 1, axis)
    states.keep(going.clamp(min=1))
    states.keep(newest.T if axis == 0 else newest.squeeze(0))
    before = before.T if axis == 0 else before[None]
    return torch.cat((going * before + (1 - going) * second, body), dim=axis)
