"""XCodec2's 16 kHz decoder as eager float32 PyTorch, layer for layer as upstream runs it: what benchmarks compare with
(docs/systems/t5gemma.md 6.1).

Left out is the rotation of queries and keys: upstream turns both of a head by the same angle, which changes no score.
"""

from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.nn import functional as F

from voxport_exporters.codecs.xcodec2.config import GROUPS, OVERLAP, CodecConfig

LOUDEST = 100.0  # of a magnitude
PREFIXES = ("fc_post_a.", "generator.quantizer.project_out.", "generator.backbone.", "generator.head.")


class Residual(nn.Module):
    """Two convolutions, each behind a norm over groups of channels and all of the time."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = (nn.GroupNorm(GROUPS, width, eps=1e-6) for _ in range(2))
        self.conv1, self.conv2 = (nn.Conv1d(width, width, 3, padding=1) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        """[1, width, frames] -> the same."""
        y = self.conv1(F.silu(self.norm1(x)))
        out: Tensor = x + self.conv2(F.silu(self.norm2(y)))
        return out


class Norm(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width))

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(torch.mean(x**2, dim=-1, keepdim=True) + 1e-6) * self.weight


class Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self._heads = heads
        self.c_attn, self.c_proj = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[1, frames, width] -> the same; every frame attends to all."""
        q, k, v = (y.unflatten(-1, (self._heads, -1)).transpose(1, 2) for y in self.c_attn(x).chunk(3, -1))
        out: Tensor = self.c_proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return out


class Mlp(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, 4 * width, bias=False), nn.Linear(4 * width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc2(F.silu(self.fc1(x)))
        return out


class Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.att_norm, self.ffn_norm = Norm(width), Norm(width)
        self.att, self.mlp = Attention(width, heads), Mlp(width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.att(self.att_norm(x))
        out: Tensor = x + self.mlp(self.ffn_norm(x))
        return out


class Backbone(nn.Module):
    def __init__(self, width: int, heads: int, depth: int) -> None:
        super().__init__()
        self.embed = nn.Conv1d(width, width, 7, padding=3)
        self.prior_net, self.post_net = (nn.Sequential(Residual(width), Residual(width)) for _ in range(2))
        self.transformers = nn.Sequential(*(Block(width, heads) for _ in range(depth)))
        self.final_layer_norm = nn.LayerNorm(width, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        """[1, frames, width] -> the same."""
        y = self.prior_net(self.embed(x.transpose(1, 2))).transpose(1, 2)
        y = self.post_net(self.transformers(y).transpose(1, 2)).transpose(1, 2)
        out: Tensor = self.final_layer_norm(y)
        return out


class Window(nn.Module):
    """The inverse Fourier transform with its window, trimmed to `hop` samples per frame."""

    def __init__(self, hop: int) -> None:
        super().__init__()
        self._hop, self._size = hop, OVERLAP * hop
        self.register_buffer("window", torch.empty(self._size))

    def forward(self, spectrum: Tensor) -> Tensor:
        """complex [1, bins, frames] -> [samples]."""
        window = self.get_buffer("window")
        frames = torch.fft.irfft(spectrum, self._size, dim=1) * window[:, None]
        weights = window.square()[:, None].expand(-1, frames.shape[2])
        wave, weight = self._added(frames), self._added(weights[None])
        return wave / weight

    def _added(self, frames: Tensor) -> Tensor:
        """[1, size, frames] -> their overlapping sum."""
        length, trim = (frames.shape[2] - 1) * self._hop + self._size, (self._size - self._hop) // 2
        return F.fold(frames, (1, length), (1, self._size), stride=(1, self._hop))[0, 0, 0, trim : length - trim]


class Head(nn.Module):
    def __init__(self, width: int, hop: int) -> None:
        super().__init__()
        self.out, self.istft = nn.Linear(width, OVERLAP * hop + 2), Window(hop)

    def forward(self, x: Tensor) -> Tensor:
        """[1, frames, width] -> [samples]."""
        size, phase = self.out(x).transpose(1, 2).chunk(2, dim=1)
        magnitude = torch.clip(torch.exp(size), max=LOUDEST)
        wave: Tensor = self.istft(magnitude * (torch.cos(phase) + 1j * torch.sin(phase)))
        return wave


class Decoder(nn.Module):
    """Codes to samples. Submodules have upstream's names below `generator`, and `fc_post_a`."""

    def __init__(self, config: CodecConfig) -> None:
        super().__init__()
        width, self._levels = config.codec_decoder_hidden_size, config.fsq_levels
        both = config.semantic_hidden_size + config.codec_encoder_hidden_size
        self.quantizer = nn.ModuleDict({"project_out": nn.Linear(len(self._levels), both)})
        self.fc_post_a = nn.Linear(both, width)
        self.backbone = Backbone(width, config.heads, config.depth)
        self.head = Head(width, config.hop_length)

    @torch.inference_mode()
    def forward(self, codes: Tensor) -> Tensor:
        """int64 [frames] -> [samples]."""
        digits, rest = [], codes
        for levels in self._levels:
            digits.append((rest % levels - levels // 2) / (levels // 2))
            rest = rest // levels
        x = self.fc_post_a(self.quantizer["project_out"](torch.stack(digits, -1)))
        wave: Tensor = self.head(self.backbone(x[None]))
        return wave


def load(checkpoint: Path, config: CodecConfig) -> Decoder:
    """The decoder of model.safetensors in the folder `checkpoint`."""
    with safe_open(checkpoint / "model.safetensors", "pt") as file:
        names = [name for name in file.keys() if name.startswith(PREFIXES)]  # noqa: SIM118
        state = {name.removeprefix("generator."): file.get_tensor(name).clone() for name in names}
    with torch.device("meta"):
        net = Decoder(config)
    net.load_state_dict(state, assign=True)
    return net.eval()
