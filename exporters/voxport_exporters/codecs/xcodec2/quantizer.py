"""XCodec2's quantizer (zhenye234/X-Codec-2.0; docs/systems/t5gemma.md 6.3): what both encoders make -> codes.

Finite scalar quantization: every dimension is squeezed into a few steps and rounded, and a code counts the steps with
one digit per dimension. Rounding takes halves to the even neighbour, in torch as in ONNX.
"""

import math

import torch
from torch import Tensor, nn

from voxport_exporters.checkpoints.weights import Weights
from voxport_exporters.codecs.xcodec2.config import CodecConfig
from voxport_exporters.nets.dense import Linear
from voxport_exporters.nets.taps import tap

BEYOND = 1e-3  # by which share the outermost steps are overshot, hard-coded upstream


class Quantizer(nn.Module):
    """semantic [frames, width], acoustic [frames, width] -> codes int64 [frames].

    Weights that a recipe may name: prior.weight. A code is another one as soon as one dimension rounds to another step,
    so the few products of project.weight stay as they are.
    """

    def __init__(self, w: Weights, config: CodecConfig) -> None:
        super().__init__()
        levels, width = config.fsq_levels, config.semantic_hidden_size + config.codec_encoder_hidden_size
        into = w.at("generator.quantizer.project_in")
        inner = into.shape("weight")[1]
        self.prior = Linear.of(w.at("fc_prior"), width, inner)
        self.project = Linear.of(into, inner, len(levels))
        self.levels = levels
        self.steps = [math.prod(levels[:i]) for i in range(len(levels))]

    def forward(self, semantic: Tensor, acoustic: Tensor) -> tuple[Tensor, ...]:
        x = self.prior(torch.cat((semantic, acoustic), dim=-1))
        tap("codec.enc.fc_prior", x[None])
        x = self.project(x)
        tap("codec.enc.project_in", x[None])
        x = self._bounded(self._bounded(x))  # upstream's residual quantizer does it, and then its only level again
        tap("codec.enc.bounded", x[None])
        digits = torch.round(x).to(torch.int64) + torch.tensor([count // 2 for count in self.levels])
        return ((digits * torch.tensor(self.steps)).sum(-1),)

    def _bounded(self, x: Tensor) -> Tensor:
        """Into the range that rounds to one of `levels`: an even number of them is not symmetric to zero."""
        half = [(count - 1) * (1 + BEYOND) / 2 for count in self.levels]
        offset = [0.0 if count % 2 else 0.5 for count in self.levels]
        shift = torch.tensor([math.atanh(o / h) for o, h in zip(offset, half, strict=True)])
        return torch.tanh(x + shift) * torch.tensor(half) - torch.tensor(offset)
