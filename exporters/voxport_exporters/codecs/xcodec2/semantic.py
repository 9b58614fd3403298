"""XCodec2's semantic encoder (zhenye234/X-Codec-2.0; docs/systems/t5gemma.md 6.3), written for export.

Weights that a recipe may name:

    bert.project.weight  bert.layers.<i>.{ffn1,ffn2}.{wide,narrow}.weight
    bert.layers.<i>.attention.{qkv,out}.weight  bert.layers.<i>.convolution.{enter,leave}.weight
    {enter,wide,narrow,leave}.weight                       convolutions over what w2v-BERT makes
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from voxport_exporters.checkpoints.weights import Weights
from voxport_exporters.codecs.xcodec2.w2vbert import W2vBert, W2vBertConfig
from voxport_exporters.nets.conv import Conv
from voxport_exporters.nets.taps import tap


class Semantic(nn.Module):
    """features [frames, inputs] -> semantic [frames, width]: w2v-BERT, and a few convolutions."""

    def __init__(self, w: Weights, config: W2vBertConfig, width: int) -> None:
        """`w`: all of the codec's weights."""
        super().__init__()
        self.bert = W2vBert(w.at("semantic_model"), config)
        a = w.at("SemanticEncoder_module")
        self.enter, self.wide, self.narrow, self.leave = (
            _same(a.at(name), width, bias)
            for name, bias in (
                ("initial_conv", False),
                ("residual_blocks.1", True),
                ("residual_blocks.3", True),
                ("final_conv", False),
            )
        )

    @property
    def inputs(self) -> int:
        """Features of a frame."""
        return self.bert.project.weight.shape[0]

    def forward(self, features: Tensor) -> tuple[Tensor, ...]:
        # Upstream's first ReLU works in place, on the very tensor that it adds again afterwards.
        x = F.relu(self.enter(self.bert(features).T[None]))
        x = x + self.narrow(F.relu(self.wide(x)))
        x = self.leave(x).squeeze(0)
        tap("codec.enc.semantic_encoder_out", x[None])
        return (x.T,)


def _same(w: Weights, width: int, bias: bool) -> Conv:
    """A convolution whose output is as long as its input; the kernel, an odd one, is the tensor's."""
    kernel = w.shape("weight")[-1]
    if kernel % 2 == 0:
        raise ValueError(f"{w.source}: {w.key('weight')} has kernel {kernel}, only odd ones are supported")
    offset = w.take("bias", width) if bias else torch.zeros(width)
    return Conv(w.take("weight", width, width, kernel), offset, padding=kernel // 2)
