"""XCodec2's acoustic encoder (zhenye234/X-Codec-2.0; docs/systems/t5gemma.md 6.3), written for export.

Weights that a recipe may name: enter.weight, blocks.<i>.units.<j>.{wide,point}.weight, blocks.<i>.down.weight,
leave.weight. All are convolutions.
"""

from torch import Tensor, nn

from voxport_exporters.checkpoints.weights import Weights
from voxport_exporters.codecs.xcodec2.antialias import Snake
from voxport_exporters.codecs.xcodec2.config import CodecConfig
from voxport_exporters.nets.conv import Conv
from voxport_exporters.nets.taps import tap

DILATIONS = (1, 3, 9)  # of the residual units of a block, hard-coded upstream


class Unit(nn.Module):
    """x + point(snake(wide(snake(x)))), `wide` dilated; [1, channels, steps] -> same shape."""

    def __init__(self, w: Weights, channels: int, dilation: int) -> None:
        super().__init__()
        self.snake1, self.snake2 = (Snake(w.at(f"block.{i}"), channels) for i in (0, 2))
        self.wide, self.point = (
            _same(w.at(f"block.{i}"), channels, channels, dilation) for i, dilation in ((1, dilation), (3, 1))
        )

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.point(self.snake2(self.wide(self.snake1(x))))
        return x + y


class Block(nn.Module):
    """Residual units, then a convolution that makes one step of `ratio` and twice the channels."""

    def __init__(self, w: Weights, channels: int, ratio: int) -> None:
        super().__init__()
        self.units = nn.Sequential(*(Unit(w.at(str(i)), channels, d) for i, d in enumerate(DILATIONS)))
        self.snake = Snake(w.at(str(len(DILATIONS))), channels)
        self.down = Conv.weight_normed(
            w.at(str(len(DILATIONS) + 1)),
            channels,
            2 * channels,
            2 * ratio,
            stride=ratio,
            padding=ratio // 2 + ratio % 2,
        )

    def forward(self, x: Tensor) -> Tensor:
        """x [1, channels, steps] -> [1, 2 * channels, steps / ratio]."""
        y: Tensor = self.down(self.snake(self.units(x)))
        return y


class Acoustic(nn.Module):
    """audio [frames, samples per frame] -> acoustic [frames, width]. It looks about half a second to either side."""

    def __init__(self, w: Weights, config: CodecConfig) -> None:
        """`w`: the weights below `CodecEnc.`"""
        super().__init__()
        blocks, final, channels = w.at("conv_blocks"), w.at("conv_final_block"), config.ngf
        self.enter = _same(blocks.at("0"), 1, channels)
        self.blocks = nn.ModuleList()
        for i, ratio in enumerate(config.up_ratios):
            self.blocks.append(Block(blocks.at(f"{i + 1}.block"), channels, ratio))
            channels *= 2
        self.snake = Snake(final.at("0"), channels)
        self.leave = _same(final.at("1"), channels, config.codec_encoder_hidden_size)

    def forward(self, audio: Tensor) -> tuple[Tensor, ...]:
        x = self.enter(audio.reshape(1, 1, -1))
        for i, block in enumerate(self.blocks):
            x = block(x)
            tap(f"codec.enc.acoustic.conv_blocks.{i + 1}", x)
        x = self.leave(self.snake(x)).squeeze(0).T
        tap("codec.enc.acoustic_out", x[None])
        return (x,)


def _same(w: Weights, inputs: int, outputs: int, dilation: int = 1) -> Conv:
    """A weight-normed convolution whose output is as long as its input; the kernel, an odd one, is the tensor's."""
    name = "weight_v" if w.has("weight_v") else "parametrizations.weight.original1"
    kernel = w.shape(name)[-1]
    if kernel % 2 == 0:
        raise ValueError(f"{w.source}: {w.key(name)} has kernel {kernel}, only odd ones are supported")
    padding = (kernel - 1) // 2 * dilation
    return Conv.weight_normed(w, inputs, outputs, kernel, padding=padding, dilation=dilation)
