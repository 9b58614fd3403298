"""The layers of the LLVC reference: pre-net, encoder and decoder, as docs/systems/llvc.md 3 describes upstream.

Channels first, torch.nn layers, attributes named by the released state dict. Each takes and returns its state.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

HEADS = 8
POSITIONS = 200


def last(x: Tensor, count: int, dim: int = -1) -> Tensor:
    """The last `count` steps; unlike x[..., -count:] also for count 0."""
    return x.narrow(dim, x.shape[dim] - count, count)


class GatedBlock(nn.Module):
    """y + tanh(filter) * sigmoid(gate), y the newest T samples: [B, in, T + context] -> [B, out, T] (3.2)."""

    def __init__(self, inputs: int, outputs: int, kernel: int, dilation: int, dropout: float) -> None:
        super().__init__()
        self.filter = nn.Conv1d(inputs, outputs, kernel, dilation=dilation)
        self.gate = nn.Conv1d(inputs, outputs, kernel, dilation=dilation)
        self.dropout = nn.Dropout1d(dropout)

    def forward(self, x: Tensor) -> Tensor:
        gated = torch.tanh(self.filter(x)) * torch.sigmoid(self.gate(x))
        # A negative pad drops channels: a narrowing layer keeps the first ones.
        y = F.pad(last(x, gated.shape[-1]), (0, 0, 0, gated.shape[1] - x.shape[1]))
        dropped: Tensor = self.dropout(y + gated)
        return dropped


class PlainBlock(nn.Module):
    """use_residual_blocks = false: [B, in, T + context] -> [B, out, T] (3.2)."""

    def __init__(self, inputs: int, outputs: int, kernel: int, dilation: int, dropout: float) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            nn.Conv1d(inputs, outputs, kernel, dilation=dilation),
            nn.BatchNorm1d(outputs),
            nn.Dropout1d(dropout),
            nn.LeakyReLU(0.01),
        )

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(x)
        return y


class PreNet(nn.Module):
    """The causal convolutions in front, at sample rate: [B, 1, T] -> [B, last channels, T] (3.2)."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        self.combine = config["combine_residuals"]
        outputs: list[int] = config["out_channels"]
        self.channels = [1, *outputs[:-1]]
        shapes = list(zip(self.channels, outputs, config["kernel_sizes"], config["dilations"], strict=True))
        self.context = [(kernel - 1) * dilation for _, _, kernel, dilation in shapes]
        block = GatedBlock if config["use_residual_blocks"] else PlainBlock
        self.down_convs = nn.ModuleList(block(*shape, config["dropout"]) for shape in shapes)

    def forward(self, x: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        states = []
        for block, context, old in zip(self.down_convs, self.context, state, strict=True):
            c = torch.cat((old, x), dim=-1)
            states.append(last(c, context))
            y = block(c)
            x = x + y if self.combine == "add" else x * y if self.combine == "multiply" else y
        return x, tuple(states)


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of [B, channels, frames]."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.transpose(1, 2)).transpose(1, 2)


class SeparableConv(nn.Module):
    """Depthwise dilated, then pointwise, each with norm and ReLU: [B, dim, F + 2 * dilation] -> [B, dim, F] (3.5)."""

    def __init__(self, dim: int, dilation: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv1d(dim, dim, 3, dilation=dilation, groups=dim),
            ChannelNorm(dim),
            nn.ReLU(),
            nn.Conv1d(dim, dim, 1),
            ChannelNorm(dim),
            nn.ReLU(),
        )

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layers(x)
        return y


class Encoder(nn.Module):
    """Residual causal convolutions of dilation 1, 2, 4, ...: [B, enc_dim, F] -> [B, enc_dim, F] (3.5)."""

    def __init__(self, dim: int, layers: int) -> None:
        super().__init__()
        self.dcc_layers = nn.ModuleDict({f"dcc_{i}": SeparableConv(dim, 2**i) for i in range(layers)})

    def forward(self, h: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        states = []
        for layer, old in zip(self.dcc_layers.values(), state, strict=True):
            c = torch.cat((old, h), dim=-1)
            states.append(last(c, old.shape[-1]))
            h = h + layer(c)
        return h, tuple(states)


class Positions(nn.Module):
    """The sinusoid table, a buffer of the release: [1, 200, dim], sine in even and cosine in odd columns (3.7)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        angles = torch.arange(POSITIONS)[:, None] * torch.exp(torch.arange(0, dim, 2) * -(math.log(10000.0) / dim))
        self.pe: Tensor
        self.register_buffer("pe", torch.stack((angles.sin(), angles.cos()), dim=-1).reshape(1, POSITIONS, dim))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.pe[:, : x.shape[1]]


class DecoderLayer(nn.Module):
    """Post-norm transformer layer on windows: [W, past + chunk, dim] twice -> [W, chunk, dim], no mask (3.7)."""

    def __init__(self, dim: int, dropout: float) -> None:
        super().__init__()
        self.self_attn = nn.MultiheadAttention(dim, HEADS, dropout, batch_first=True)
        self.multihead_attn = nn.MultiheadAttention(dim, HEADS, dropout, batch_first=True)
        self.linear1 = nn.Linear(dim, 2 * dim)
        self.linear2 = nn.Linear(2 * dim, dim)
        self.norm1 = nn.LayerNorm(dim)
        self.norm2 = nn.LayerNorm(dim)
        self.norm3 = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, tgt: Tensor, mem: Tensor, chunk: int) -> Tensor:
        q = last(tgt, chunk, dim=1)
        q = self.norm1(q + self.dropout(self.self_attn(q, tgt, tgt)[0]))
        q = self.norm2(q + self.dropout(self.multihead_attn(q, mem, mem)[0]))
        inner = self.dropout(torch.relu(self.linear1(q)))
        y: Tensor = self.norm3(q + self.dropout(self.linear2(inner)))
        return y


class Decoder(nn.Module):
    """Transformer over windows of past + own frames: tgt, mem [B, dim, F] -> [B, dim, F] (3.7)."""

    def __init__(self, dim: int, past: int, chunk: int, layers: int, use_positions: bool, dropout: float) -> None:
        super().__init__()
        self.past, self.chunk, self.use_positions = past, chunk, use_positions
        self.pos_enc = Positions(dim)
        self.tf_dec_layers = nn.ModuleList(DecoderLayer(dim, dropout) for _ in range(layers))

    def windows(self, x: Tensor) -> Tensor:
        """[B, past + W * chunk, dim] -> [B * W, past + chunk, dim], one window every chunk."""
        return x.unfold(1, self.past + self.chunk, self.chunk).flatten(0, 1).transpose(1, 2)

    def forward(self, tgt: Tensor, mem: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        batch, dim, frames = tgt.shape
        rest = -frames % self.chunk
        tgt, mem = (F.pad(x, (0, rest)).transpose(1, 2) for x in (tgt, mem))

        mem = torch.cat((state[0], mem), dim=1)
        states = [last(mem, self.past, dim=1)]
        mem = self.windows(mem)
        if self.use_positions:
            mem = self.pos_enc(mem)
        for j, layer in enumerate(self.tf_dec_layers):
            tgt = torch.cat((state[j + 1], tgt), dim=1)
            states.append(last(tgt, self.past, dim=1))
            tgt = self.windows(tgt)
            if self.use_positions and j == 0:
                tgt = self.pos_enc(tgt)
            tgt = layer(tgt, mem, self.chunk).reshape(batch, frames + rest, dim)
        return tgt.transpose(1, 2)[..., :frames], tuple(states)
