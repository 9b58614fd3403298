"""How the time of an Euler step modulates the DiT: a net for any time, a table of a few in the graph.

Its linears are 43 % of the flow's weights (docs/systems/cosyvoice3.md 8) and see nothing but the time, of which a
schedule has as many as steps.
"""

import math

import numpy as np
import onnx_ir as ir
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from voxport.graphs.session import Array
from voxport.graphs.stage import Stage, TensorSpec
from voxport_exporters.checkpoints.later import built, later
from voxport_exporters.checkpoints.weights import Weights
from voxport_exporters.graphs.unroll import Chain
from voxport_exporters.nets.dense import Linear
from voxport_exporters.nets.taps import tap
from voxport_exporters.systems.cosyvoice3.config import DitConfig

# Hard-coded upstream (flow/DiT/modules.py, SinusPositionEmbedding):
WAVES = 128  # sines, and as many cosines
SCALE = 1000
SLOWEST = 10000
PER_BLOCK = 6  # shift, 1 + scale and gate of the attention, then of the feed-forward
LAST = 2  # 1 + scale and shift of the last norm, in this order


class Modulation(nn.Module):
    """A time -> the modulations of every norm and gate.

    The large linears are no parameters of the module, for no graph holds them: each is read when it is used.
    """

    def __init__(self, w: Weights, config: DitConfig) -> None:
        """`w`: the weights below `decoder.estimator.`"""
        super().__init__()
        self.dim = config.dim
        mlp = w.at("time_embed.time_mlp")
        self.enter, self.leave = Linear.of(mlp.at("0"), 2 * WAVES, self.dim), Linear.of(mlp.at("2"), self.dim, self.dim)
        names = [f"transformer_blocks.{i}.attn_norm.linear" for i in range(config.depth)]
        self._linears = [*(_linear(w.at(name), self.dim, PER_BLOCK) for name in names)]
        self._linears.append(_linear(w.at("norm_out.linear"), self.dim, LAST))
        blocks = [row % 3 == 1 for row in range(PER_BLOCK)] * config.depth
        self._scales = torch.tensor([*blocks, True, False])[:, None].float()  # rows to which 1 is added

    def forward(self, time: Tensor) -> tuple[Tensor, ...]:
        """time [1] -> modulation [rows, dim], the time it is of [1]."""
        return self.rows(time)[0], time

    def rows(self, times: Tensor) -> Tensor:
        """times [n] -> [n, rows, dim]."""
        radians = torch.exp(torch.arange(WAVES).float() * -(math.log(SLOWEST) / (WAVES - 1)))
        angles = SCALE * times[:, None] * radians
        waves = torch.cat((angles.sin(), angles.cos()), dim=-1)
        embedding = self.leave(F.silu(self.enter(waves)))
        tap("time_embed", embedding)
        act = F.silu(embedding)
        rows = [(act @ built(weight).T + bias).unflatten(-1, (-1, self.dim)) for weight, bias in self._linears]
        return torch.cat(rows, dim=1) + self._scales


def _linear(w: Weights, dim: int, rows: int) -> tuple[nn.Parameter, Tensor]:
    """weight [rows * dim, dim], maybe deferred, and bias."""
    return later(lambda: w.take("weight", rows * dim, dim)), w.take("bias", rows * dim)


def rows_of(config: DitConfig) -> int:
    """Rows of a modulation."""
    return PER_BLOCK * config.depth + LAST


def modulation_stage(config: DitConfig) -> Stage:
    """The modulations of the time in the table that is nearest to `time`, and that time."""
    return Stage(
        "flow_modulation",
        inputs=(TensorSpec("time", "float32", (1,)),),
        outputs=(
            TensorSpec("modulation", "float32", (rows_of(config), config.dim)),
            TensorSpec("nearest", "float32", (1,)),
        ),
    )


def table(net: Modulation, stage: Stage, times: Array) -> ir.Model:
    """The graph: `net` evaluated at `times` float32 [n]."""
    with torch.no_grad():
        rows = net.rows(torch.from_numpy(times))
    chain = Chain()
    chain.constant("times", times)
    chain.constant("table", rows.flatten(1).numpy())  # a matrix, so that it is known for a table of rows
    chain.constant("sizes", np.array(rows.shape[1:], np.int64))
    chain.node("Sub", ["times", "time"], ["difference"])
    chain.node("Abs", ["difference"], ["distance"])
    chain.node("ArgMin", ["distance"], ["index"], axis=0)
    chain.node("Gather", ["times", "index"], ["nearest"])
    chain.node("Gather", ["table", "index"], ["row"])
    chain.node("Reshape", ["row", "sizes"], ["modulation"])
    return chain.model(stage)
