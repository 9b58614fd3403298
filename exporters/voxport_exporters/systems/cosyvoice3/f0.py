"""Mel to f0 in float64 (docs/systems/cosyvoice3.md 5): stage `f0`.

The phase of the source is a running sum of f0, so what float32 gets wrong in it grows with time. Upstream computes it
in float64 for that reason. onnxruntime has no Conv in float64, but MatMul, so these convolutions are MatMuls.
"""

import torch
from torch import Tensor, nn

from voxport.graphs.stage import Stage, TensorSpec
from voxport_exporters.checkpoints.weights import Weights
from voxport_exporters.graphs.part import Part
from voxport_exporters.nets.conv import Conv
from voxport_exporters.nets.dense import frozen
from voxport_exporters.nets.states import States
from voxport_exporters.systems.cosyvoice3.config import F0Config

KERNELS = (4, 3, 3, 3, 3)  # hard-coded upstream; the first one looks ahead, the others back


class F0(nn.Module):
    """mel [frames, bands] -> Hz float64 [frames], as late as the first convolution looks ahead.

    State: the frames the first convolution looks at beside the newest, which whoever starts a stream puts there; and
    what the others look back at.
    """

    def __init__(self, w: Weights, config: F0Config) -> None:
        super().__init__()
        widths = (config.in_channels, *(config.cond_channels for _ in KERNELS))
        self.convs = nn.ModuleList(
            _conv(w.at(f"condnet.{2 * i}"), widths[i], widths[i + 1], kernel) for i, kernel in enumerate(KERNELS)
        )
        self.weight = frozen(w.take("classifier.weight", config.num_class, widths[-1]).to(torch.float64).T)
        self.bias = frozen(w.take("classifier.bias", config.num_class).to(torch.float64))

    def forward(self, mel: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        """mel [frames, bands], state as `f0_stage` declares it -> Hz, next state."""
        states = States(state)
        first, *others = self.convs
        x = _elu(first(states.join(mel).to(torch.float64)))
        for conv in others:
            x = _elu(conv(states.join(x)))
        return (x @ self.weight + self.bias).abs().squeeze(-1), *states.after


def _conv(w: Weights, inputs: int, outputs: int, kernel: int) -> Conv:
    weight = w.folded(outputs, inputs, kernel, dtype=torch.float64)
    return Conv(weight, w.take("bias", outputs).to(torch.float64), as_matmul=True)


def _elu(x: Tensor) -> Tensor:
    """onnxruntime has no Elu in float64."""
    return torch.relu(x) + (torch.exp(-torch.relu(-x)) - 1)


def f0_stage(config: F0Config) -> Stage:
    ahead, *back = (kernel - 1 for kernel in KERNELS)
    return Stage(
        "f0",
        inputs=(TensorSpec("mel", "float32", ("frames", config.in_channels)),),
        outputs=(TensorSpec("f0", "float64", ("frames",)),),
        state=(
            TensorSpec("ahead", "float32", (ahead, config.in_channels)),
            *(TensorSpec(f"back.{i}", "float64", (n, config.cond_channels)) for i, n in enumerate(back)),
        ),
    )


def f0_part(w: Weights, config: F0Config, frames: int) -> Part:
    """From the weights below `f0_predictor`; `frames` of a typical call."""
    return Part(f0_stage(config), F0(w, config), axes={"frames": frames})
