"""LLVC's pre-net: gated causal convolutions on raw samples (KoeAI/LLVC cached_convnet.py; docs/systems/llvc.md 3)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from voxport_exporters.checkpoints.weights import Weights
from voxport_exporters.nets.dense import frozen
from voxport_exporters.nets.states import States
from voxport_exporters.nets.taps import tap
from voxport_exporters.systems.llvc.config import PreNetConfig


class GatedConv(nn.Module):
    """y = x + tanh(f(x)) sigmoid(g(x)), f and g causal convolutions; or plain conv + batch norm + leaky ReLU."""

    def __init__(self, w: Weights, inputs: int, outputs: int, kernel: int, dilation: int, gated: bool) -> None:
        super().__init__()
        self.gated, self.dilation, self.outputs = gated, dilation, outputs
        self.context = (kernel - 1) * dilation
        shape = (outputs, inputs, kernel)
        if gated:
            self.filter = frozen(w.take("filter.weight", *shape))
            self.filter_bias = frozen(w.take("filter.bias", outputs))
            self.gate = frozen(w.take("gate.weight", *shape))
            self.gate_bias = frozen(w.take("gate.bias", outputs))
        else:  # the batch norm of eval mode is a scale and a shift: folded into the convolution
            norm = w.at("conv.1")
            mean, var = norm.take("running_mean", outputs), norm.take("running_var", outputs)
            scale = norm.take("weight", outputs) / torch.sqrt(var + 1e-5)
            norm.drop("num_batches_tracked", "training only")
            self.filter = frozen(w.take("conv.0.weight", *shape) * scale[:, None, None])
            self.filter_bias = frozen((w.take("conv.0.bias", outputs) - mean) * scale + norm.take("bias", outputs))

    def forward(self, x: Tensor) -> Tensor:
        """x [1, channels, context + samples] -> [1, outputs, samples]."""
        y = F.conv1d(x, self.filter, self.filter_bias, dilation=self.dilation)
        if not self.gated:
            return F.leaky_relu(y, 0.01)
        y = torch.tanh(y) * torch.sigmoid(F.conv1d(x, self.gate, self.gate_bias, dilation=self.dilation))
        past = x[:, : self.outputs, self.context :]  # wider inputs are cropped, narrower ones zero-padded, as upstream
        missing = self.outputs - past.shape[1]
        return y + (F.pad(past, (0, 0, 0, missing)) if missing else past)


class PreNet(nn.Module):
    """The convolutional pre-net on raw samples. State i: the last `contexts[i]` input samples of layer i."""

    def __init__(self, w: Weights, config: PreNetConfig) -> None:
        super().__init__()
        self.combine, self.skip = config.combine_residuals, config.skip_connection
        self.layers = nn.ModuleList(
            GatedConv(w.at(f"down_convs.{i}"), *dims, config.use_residual_blocks)
            for i, dims in enumerate(
                zip(config.in_channels, config.out_channels, config.kernel_sizes, config.dilations, strict=True)
            )
        )

    def forward(self, audio: Tensor, *past: Tensor) -> tuple[Tensor, ...]:
        """audio [samples], past.i [channels, context] -> filtered [samples], next past.i."""
        x = y = audio[None, None]
        states = States(past)
        for i, layer in enumerate(self.layers):
            c = states.join(y[0], axis=-1)[None]
            tap(f"pre.{i}.in", c)
            out = layer(c)
            tap(f"pre.{i}.out", out)
            y = y + out if self.combine == "add" else y * out if self.combine == "multiply" else out
        tap("pre.out", y)
        y = x + y if self.skip == "add" else x * y if self.skip == "multiply" else y
        return y[0, 0], *states.after
