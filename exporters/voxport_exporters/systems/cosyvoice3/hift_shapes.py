"""Sizes inside the vocoder, and of its state, worked out from the config (docs/systems/cosyvoice3.md 5)."""

import math
from collections.abc import Sequence

from voxport_exporters.nets.checks import require
from voxport_exporters.systems.cosyvoice3.config import HiftConfig

POST_KERNEL = 7  # of the last convolution, hard-coded upstream (generator.py)
OTHER_SOURCE = 22050  # at this rate upstream builds another source, whose noise is not fixed (SourceModuleHnNSF)

Shapes = dict[str, tuple[int, ...]]


def check(c: HiftConfig) -> None:
    """Raises ValueError that names what upstream's classes cannot be built of, or would not run with."""
    require(c.sampling_rate != OTHER_SOURCE, f"hift: sampling_rate {OTHER_SOURCE} has another source upstream")
    require(c.f0_predictor.num_class == 1, f"hift: f0_predictor's num_class is {c.f0_predictor.num_class}, wanted 1")
    n_fft, hop = c.istft_params.n_fft, c.istft_params.hop_len
    require(n_fft % 2 == 0 and 2 * hop <= n_fft, f"hift: n_fft {n_fft} is odd, or below twice hop_len {hop}")
    last = c.upsample_rates[-1]
    require(last > 1, f"hift: upsample_rates end with {last}, wanted 2 or more")
    require(c.hop > 2, f"hift: {c.hop} samples per frame, wanted 3 or more")


def channels(c: HiftConfig) -> list[int]:
    """Before the first stage, and after each."""
    return [c.base_channels // 2**i for i in range(len(c.upsample_rates) + 1)]


def steps(c: HiftConfig) -> list[int]:
    """Per frame: before the first stage, and after each."""
    return [math.prod(c.upsample_rates[:i]) for i in range(len(c.upsample_rates) + 1)]


def downs(c: HiftConfig) -> list[tuple[int, int]]:
    """(kernel, stride) of the convolution that brings the source's STFT to the steps of each stage."""
    strides = [math.prod(c.upsample_rates[i + 1 :]) for i in range(len(c.upsample_rates))]
    return [(2 * stride, stride) if stride > 1 else (1, 1) for stride in strides]


def past_frames(c: HiftConfig) -> int:
    """STFT frames before a call that its first steps see."""
    return max(stride - 1 for _, stride in downs(c))


def contexts(kernel: int, dilations: Sequence[int]) -> list[int]:
    """What every convolution of a residual block looks back at, in the order they run."""
    return [(kernel - 1) * reach for dilation in dilations for reach in (dilation, 1)]


def tails(c: HiftConfig) -> Shapes:
    """Name and shape of the vocoder's state, in the order its net runs."""
    n_fft, past, widths = c.istft_params.n_fft, past_frames(c), channels(c)
    shapes: Shapes = {"ahead": (c.conv_pre_look_right, c.in_channels), "samples": (n_fft,)}
    shapes["spectrum"] = (n_fft + 2, past)
    for i, rate in enumerate(c.upsample_rates):
        width = widths[i + 1]
        shapes[f"up.{i}"] = (widths[i], -(-(c.upsample_kernel_sizes[i] - 1) // rate))
        if i == len(c.upsample_rates) - 1:
            shapes |= {"going": (1,), "last": (width, 1)}
        blocks = {f"down.{i}": (c.source_resblock_kernel_sizes[i], c.source_resblock_dilation_sizes[i])}
        kinds = zip(c.resblock_kernel_sizes, c.resblock_dilation_sizes, strict=True)
        blocks |= {f"block.{i}.{j}": kind for j, kind in enumerate(kinds)}
        for name, kind in blocks.items():
            shapes |= {f"{name}.{j}": (width, context) for j, context in enumerate(contexts(*kind))}
    shapes["post"] = (widths[-1], POST_KERNEL - 1)
    shapes["istft"] = (n_fft + 3, -(-n_fft // c.istft_params.hop_len) - 1)
    return {name: shape for name, shape in shapes.items() if 0 not in shape}
