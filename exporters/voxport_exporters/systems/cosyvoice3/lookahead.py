"""Speech tokens to what they say, and the speaker vector: flow.pt without its DiT (docs/systems/cosyvoice3.md 4)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from voxport.graphs.stage import Stage, TensorSpec
from voxport_exporters.checkpoints.weights import Weights
from voxport_exporters.nets.conv import Conv
from voxport_exporters.nets.dense import Linear, frozen
from voxport_exporters.nets.states import States
from voxport_exporters.systems.cosyvoice3.config import FlowConfig

# Hard-coded upstream (transformer/upsample_encoder.py, PreLookaheadLayer):
KERNEL = 3  # of the second convolution, which looks left
SLOPE = 0.01  # of the LeakyReLU: torch's default
LEAST_NORM = 1e-12  # of the speaker vector: torch's default


class Lookahead(nn.Module):
    """Tokens and the few after them in; one vector per token out."""

    def __init__(self, w: Weights, config: FlowConfig) -> None:
        """`w`: all weights of flow.pt."""
        super().__init__()
        width, channels, ahead = config.input_size, config.lookahead.channels, config.pre_lookahead_len
        self.table = frozen(w.take("input_embedding.weight", config.vocab_size, width))
        convs = w.at("pre_lookahead_layer")
        self.right = Conv.of(convs.at("conv1"), width, channels, ahead + 1)
        self.left = Conv.of(convs.at("conv2"), channels, width, KERNEL)

    def forward(self, ids: Tensor, ahead: Tensor, tail: Tensor) -> tuple[Tensor, ...]:
        """ids int64 [tokens], ahead int64 [lookahead], tail [channels, KERNEL - 1] -> mu [tokens, width], next tail."""
        every = torch.cat((ids, ahead))
        embeds = F.embedding(every.clamp(min=0), self.table) * (every >= 0)[:, None]
        states = States((tail,))
        h = F.leaky_relu(self.right(embeds.T[None]), SLOPE)
        y = self.left(states.join(h.squeeze(0), axis=1)[None]).squeeze(0).T
        return y + embeds[: ids.shape[0]], *states.after


class Speaker(nn.Module):
    """The speaker vector, made as long as 1 and projected to mel bands."""

    def __init__(self, w: Weights, config: FlowConfig) -> None:
        """`w`: all weights of flow.pt."""
        super().__init__()
        self.project = Linear.of(w.at("spk_embed_affine_layer"), config.spk_embed_dim, config.output_size)

    def forward(self, embedding: Tensor) -> tuple[Tensor, ...]:
        """embedding [spk_embed_dim] -> spks [bands]."""
        return (self.project(F.normalize(embedding, dim=0, eps=LEAST_NORM)),)


def encode_stage(config: FlowConfig) -> Stage:
    """Tokens to mu. `ahead`: the tokens that come after them; -1: none, as behind the last token."""
    channels = config.lookahead.channels
    return Stage(
        "flow_encode",
        inputs=(
            TensorSpec("ids", "int64", ("tokens",)),
            TensorSpec("ahead", "int64", (config.pre_lookahead_len,)),
        ),
        outputs=(TensorSpec("mu", "float32", ("tokens", config.input_size)),),
        state=(TensorSpec("tail", "float32", (channels, KERNEL - 1)),),
    )


def speaker_stage(config: FlowConfig) -> Stage:
    """The voice's vector, as the speaker encoder made it, to the DiT's."""
    return Stage(
        "flow_speaker",
        inputs=(TensorSpec("embedding", "float32", (config.spk_embed_dim,)),),
        outputs=(TensorSpec("spks", "float32", (config.output_size,)),),
    )
