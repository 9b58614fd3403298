"""CosyVoice3's flow as eager float32 PyTorch, layer for layer as upstream computes it (docs/systems/cosyvoice3.md 4).

Both rows of classifier-free guidance go through the net in one batch, the modulation is worked out from the time in
every evaluation, and there is no cache. Attention is torch's fused one, as upstream's is.
"""

import math
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from voxport_exporters.systems.cosyvoice3.config import DitConfig, FlowConfig

KERNEL, GROUPS = 31, 16  # of the convolutions over positions
SINUSOIDS, FASTEST = 256, 1000  # channels of the time; its scale


class Lookahead(nn.Module):
    """pre_lookahead_layer: tokens see `ahead` tokens to their right."""

    def __init__(self, inputs: int, channels: int, ahead: int) -> None:
        super().__init__()
        self._ahead = ahead
        self.conv1 = nn.Conv1d(inputs, channels, ahead + 1)
        self.conv2 = nn.Conv1d(channels, inputs, 3)

    def forward(self, x: Tensor) -> Tensor:
        """[1, tokens, inputs] -> the same; nothing follows the last token."""
        y = F.leaky_relu(self.conv1(F.pad(x.transpose(1, 2), (0, self._ahead))))
        out: Tensor = self.conv2(F.pad(y, (2, 0))).transpose(1, 2) + x
        return out


class TimeEmbed(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.time_mlp = nn.Sequential(nn.Linear(SINUSOIDS, dim), nn.SiLU(), nn.Linear(dim, dim))

    def forward(self, t: Tensor) -> Tensor:
        """[batch] -> [batch, dim]."""
        half = SINUSOIDS // 2
        speeds = torch.exp(torch.arange(half) * -(math.log(10000) / (half - 1)))
        angles = FASTEST * t[:, None] * speeds
        out: Tensor = self.time_mlp(torch.cat((angles.sin(), angles.cos()), -1))
        return out


class ConvPosition(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = (
            nn.Sequential(nn.Conv1d(dim, dim, KERNEL, groups=GROUPS), nn.Mish()) for _ in range(2)
        )

    def forward(self, x: Tensor) -> Tensor:
        """[batch, frames, dim] -> the same."""
        y = x.transpose(1, 2)
        for conv in (self.conv1, self.conv2):
            y = conv(F.pad(y, (KERNEL - 1, 0)))
        out: Tensor = y.transpose(1, 2)
        return out


class InputEmbed(nn.Module):
    def __init__(self, c: DitConfig) -> None:
        super().__init__()
        self.proj = nn.Linear(2 * c.mel_dim + c.mu + c.speaker, c.dim)
        self.conv_pos_embed = ConvPosition(c.dim)

    def forward(self, x: Tensor, cond: Tensor, mu: Tensor, spks: Tensor | None) -> Tensor:
        """All [batch, frames, ..], spks [batch, speaker] -> [batch, frames, dim]."""
        parts = [x, cond, mu]
        if spks is not None:
            parts.append(spks[:, None].expand(-1, x.shape[1], -1))
        h = self.proj(torch.cat(parts, -1))
        out: Tensor = h + self.conv_pos_embed(h)
        return out


class Attention(nn.Module):
    def __init__(self, c: DitConfig) -> None:
        super().__init__()
        self._heads, self._rotated = c.heads, c.dim_head
        self.to_q, self.to_k, self.to_v = (nn.Linear(c.dim, c.inner) for _ in range(3))
        self.to_out = nn.Sequential(nn.Linear(c.inner, c.dim))

    def forward(self, x: Tensor, angles: Tensor, mask: Tensor | None) -> Tensor:
        """x [batch, frames, dim], angles [frames, dim_head], mask bool [frames, frames] or None for all."""
        q, k, v = self.to_q(x), self.to_k(x), self.to_v(x)
        # Before the heads are split: only the first one has positions.
        q, k = (torch.cat((_rotate(y[..., : self._rotated], angles), y[..., self._rotated :]), -1) for y in (q, k))
        q, k, v = (y.unflatten(-1, (self._heads, -1)).transpose(1, 2) for y in (q, k, v))
        out: Tensor = self.to_out(F.scaled_dot_product_attention(q, k, v, mask).transpose(1, 2).flatten(2))
        return out


def _rotate(x: Tensor, angles: Tensor) -> Tensor:
    """Pairs of neighbouring channels, rotated."""
    even, odd = x[..., ::2], x[..., 1::2]
    return x * angles.cos() + torch.stack((-odd, even), -1).flatten(-2) * angles.sin()


class Modulation(nn.Module):
    """adaLN: a layer norm without weights, and `parts` vectors for a time."""

    def __init__(self, dim: int, parts: int) -> None:
        super().__init__()
        self._dim, self._parts = dim, parts
        self.linear = nn.Linear(dim, parts * dim)

    def forward(self, time: Tensor) -> tuple[Tensor, ...]:
        """[batch, dim] -> each [batch, 1, dim]."""
        vectors: Tensor = self.linear(F.silu(time))[:, None]
        return vectors.chunk(self._parts, -1)

    def norm(self, x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
        return F.layer_norm(x, (self._dim,), eps=1e-6) * (1 + scale) + shift


class FeedForward(nn.Module):
    def __init__(self, dim: int, inner: int) -> None:
        super().__init__()
        self.ff = nn.Sequential(
            nn.Sequential(nn.Linear(dim, inner), nn.GELU(approximate="tanh")), nn.Dropout(0), nn.Linear(inner, dim)
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.ff(x)
        return out


class Block(nn.Module):
    def __init__(self, c: DitConfig) -> None:
        super().__init__()
        self.attn_norm = Modulation(c.dim, 6)
        self.attn = Attention(c)
        self.ff = FeedForward(c.dim, c.ff_mult * c.dim)

    def forward(self, x: Tensor, time: Tensor, angles: Tensor, mask: Tensor | None) -> Tensor:
        shift, scale, gate, ff_shift, ff_scale, ff_gate = self.attn_norm(time)
        heads = self.attn(self.attn_norm.norm(x, shift, scale), angles, mask)
        x = x + gate * heads
        wide = self.ff(self.attn_norm.norm(x, ff_shift, ff_scale))
        out: Tensor = x + ff_gate * wide
        return out


class Rotary(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.inv_freq = nn.Buffer(torch.zeros(dim // 2))

    def forward(self, frames: int) -> Tensor:
        """-> angles [frames, dim]."""
        return torch.outer(torch.arange(frames), self.inv_freq).repeat_interleave(2, -1)


class Dit(nn.Module):
    """decoder.estimator."""

    def __init__(self, c: DitConfig) -> None:
        super().__init__()
        self._chunk = c.static_chunk_size
        self.time_embed, self.input_embed, self.rotary_embed = TimeEmbed(c.dim), InputEmbed(c), Rotary(c.dim_head)
        self.transformer_blocks = nn.ModuleList(Block(c) for _ in range(c.depth))
        self.norm_out = Modulation(c.dim, 2)
        self.proj_out = nn.Linear(c.dim, c.mel_dim)

    def forward(
        self, x: Tensor, mu: Tensor, t: Tensor, spks: Tensor | None, cond: Tensor, streaming: bool = False
    ) -> Tensor:
        """x, mu, cond [batch, mel, frames], t [batch], spks [batch, speaker] -> velocity [batch, mel, frames]."""
        time, frames = self.time_embed(t), x.shape[-1]
        h = self.input_embed(*(y.transpose(1, 2) for y in (x, cond, mu)), spks)
        blocks = torch.arange(frames) // self._chunk
        mask = blocks[None] <= blocks[:, None] if streaming else None
        angles = self.rotary_embed(frames)
        for block in self.transformer_blocks:
            h = block(h, time, angles, mask)
        scale, shift = self.norm_out(time)
        velocity: Tensor = self.proj_out(self.norm_out.norm(h, shift, scale))
        return velocity.transpose(1, 2)


class Decoder(nn.Module):
    def __init__(self, c: DitConfig) -> None:
        super().__init__()
        self.estimator = Dit(c)


class Flow(nn.Module):
    """flow.pt: speech tokens to mel."""

    def __init__(self, c: FlowConfig) -> None:
        super().__init__()
        self._rate, self._ratio = c.cfm.inference_cfg_rate, c.token_mel_ratio
        self.input_embedding = nn.Embedding(c.vocab_size, c.input_size)
        self.spk_embed_affine_layer = nn.Linear(c.spk_embed_dim, c.output_size)
        ahead = c.lookahead
        self.pre_lookahead_layer = Lookahead(ahead.in_channels, ahead.channels, ahead.pre_lookahead_len)
        self.decoder = Decoder(c.dit)

    def step(self, x: Tensor, mu: Tensor, spks: Tensor, cond: Tensor, t: float, dt: float) -> Tensor:
        """One Euler step: x, mu, cond [1, mel, frames], spks [1, speaker] -> the next x."""
        both = [torch.cat((y, torch.zeros_like(y))) for y in (mu, spks, cond)]
        velocity = self.decoder.estimator(x.expand(2, -1, -1), both[0], torch.full((2,), t), *both[1:])
        guided, free = velocity
        out: Tensor = x + dt * ((1 + self._rate) * guided - self._rate * free)
        return out

    @torch.inference_mode()
    def forward(self, tokens: Tensor, prompt: Tensor, embedding: Tensor, noise: Tensor, steps: int = 10) -> Tensor:
        """tokens int64 [1, those of the prompt and more], prompt mel [1, frames, mel], embedding [1, speaker], noise
        [1, mel, frames of all] -> mel [1, mel, frames behind the prompt]."""
        spks = self.spk_embed_affine_layer(F.normalize(embedding))
        mu = self.pre_lookahead_layer(self.input_embedding(tokens)).repeat_interleave(self._ratio, 1).transpose(1, 2)
        cond = F.pad(prompt.transpose(1, 2), (0, mu.shape[-1] - prompt.shape[1]))
        grid, x = 1 - torch.cos(torch.linspace(0, 1, steps + 1) * 0.5 * torch.pi), noise
        for t, following in zip(grid[:-1].tolist(), grid[1:].tolist(), strict=True):
            x = self.step(x, mu, spks, cond, t, following - t)
        return x[..., prompt.shape[1] :]


def load(checkpoint: Path, config: FlowConfig) -> Flow:
    """The net of flow.pt."""
    with torch.device("meta"):
        net = Flow(config)
    net.load_state_dict(torch.load(checkpoint / "flow.pt", weights_only=True), assign=True)
    return net.eval()
