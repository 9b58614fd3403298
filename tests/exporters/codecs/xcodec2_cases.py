"""What the tests of XCodec2's decoder share: releases of random weights, and the decoder as upstream writes it."""

import math
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from voxport_exporters.codecs.xcodec2.config import CodecConfig

TINY: dict[str, Any] = {"codec_decoder_hidden_size": 64, "depth": 2, "heads": 2}
# What upstream's variant for 44.1 kHz adds, with its factors and an odd kernel
WIDE: dict[str, Any] = {
    "codec_decoder_hidden_size": 128, "depth": 1, "heads": 2, "hop_length": 98, "sample_rate": 44100,
    "upsample_factors": [3, 3], "fsq_levels": [4, 4, 4],
}  # fmt: skip
# Far from the releases: an odd hop, odd counts of levels and of channels per head, one stage, other kernels
ODD: dict[str, Any] = {
    "codec_decoder_hidden_size": 192, "depth": 1, "heads": 64, "hop_length": 7, "upsample_factors": [2],
    "fsq_levels": [3, 8, 5, 2], "sample_rate": 700,
}  # fmt: skip


def release(config: CodecConfig, seed: int = 0, kernels: tuple[int, ...] = (), inner: int = 48) -> dict[str, Tensor]:
    """The decoder's tensors by upstream's names. `kernels`: of the upsampler's stages; `inner`: between projections."""
    draw = torch.Generator().manual_seed(seed)
    width, tensors = config.codec_decoder_hidden_size, {}

    def normal(name: str, *shape: int, gain: float = 1.0, mean: float = 0.0) -> None:
        tensors[name] = torch.randn(shape, generator=draw) * gain + mean

    def dense(name: str, inputs: int, outputs: int, *kernel: int, bias: bool = True) -> None:
        normal(f"{name}.weight", outputs, inputs, *kernel, gain=(inputs * math.prod(kernel)) ** -0.5)
        if bias:
            normal(f"{name}.bias", outputs, gain=0.1)

    def norm(name: str, channels: int, bias: bool = True) -> None:
        normal(f"{name}.weight", channels, gain=0.2, mean=1.0)
        if bias:
            normal(f"{name}.bias", channels, gain=0.1)

    def block(name: str, channels: int) -> None:
        for i in (1, 2):
            norm(f"{name}.norm{i}", channels)
            dense(f"{name}.conv{i}", channels, channels, 3)

    dense("generator.quantizer.project_out", len(config.fsq_levels), inner)
    dense("fc_post_a", inner, width)
    backbone = "generator.backbone"
    dense(f"{backbone}.embed", width, width, 7)
    for i in range(2):
        block(f"{backbone}.prior_net.{i}", width)
        block(f"{backbone}.post_net.{i}", width)
    for i in range(config.depth):
        layer = f"{backbone}.transformers.{i}"
        norm(f"{layer}.att_norm", width, bias=False)
        norm(f"{layer}.ffn_norm", width, bias=False)
        dense(f"{layer}.att.c_attn", width, 3 * width, bias=False)
        dense(f"{layer}.att.c_proj", width, width, bias=False)
        dense(f"{layer}.mlp.fc1", width, 4 * width, bias=False)
        dense(f"{layer}.mlp.fc2", 4 * width, width, bias=False)
    norm(f"{backbone}.final_layer_norm", width)
    for i, (kernel, factor) in enumerate(zip(kernels, config.factors, strict=True)):
        up, inputs = f"generator.upsampler.upsample_layers.{i}", width >> i
        normal(f"{up}.parametrizations.weight.original0", inputs, 1, 1, gain=0.2, mean=(kernel / factor) ** 0.5)
        normal(f"{up}.parametrizations.weight.original1", inputs, inputs // 2, kernel)
        normal(f"{up}.bias", inputs // 2, gain=0.1)
        block(f"generator.upsampler.resnet_blocks.{i}", inputs // 2)
    if config.factors:
        dense("generator.upsampler.out_proj", width >> len(config.factors), width)
    n_fft = 4 * config.hop_length
    dense("generator.head.out", width, n_fft + 2)
    tensors["generator.head.istft.window"] = torch.hann_window(n_fft)
    return tensors


def upstreams(tensors: dict[str, Tensor], config: CodecConfig, codes: np.ndarray) -> np.ndarray:
    """codes [frames] -> samples, computed as upstream does: complex numbers, rotated heads, time last."""
    w = tensors

    def linear(x: Tensor, name: str) -> Tensor:
        return F.linear(x, w[f"{name}.weight"], w.get(f"{name}.bias"))

    def conv(x: Tensor, name: str) -> Tensor:
        weight = w[f"{name}.weight"]
        return F.conv1d(x, weight, w[f"{name}.bias"], padding=weight.shape[-1] // 2)

    def block(x: Tensor, name: str) -> Tensor:
        y = x
        for i in (1, 2):
            y = F.group_norm(y, 32, w[f"{name}.norm{i}.weight"], w[f"{name}.norm{i}.bias"], 1e-6)
            y = conv(y * torch.sigmoid(y), f"{name}.conv{i}")
        return x + y

    levels = torch.tensor(config.fsq_levels)
    basis = torch.cumprod(torch.tensor([1, *config.fsq_levels[:-1]]), 0)
    half = levels // 2
    x = ((torch.from_numpy(codes)[:, None] // basis) % levels - half) / half
    x = linear(linear(x[None], "generator.quantizer.project_out"), "fc_post_a")
    backbone = "generator.backbone"
    x = conv(x.transpose(1, 2), f"{backbone}.embed")
    for i in range(2):
        x = block(x, f"{backbone}.prior_net.{i}")
    x = x.transpose(1, 2)
    for i in range(config.depth):
        x = _layer(x, w, f"{backbone}.transformers.{i}", config.heads)
    x = x.transpose(1, 2)
    for i in range(2):
        x = block(x, f"{backbone}.post_net.{i}")
    norm = f"{backbone}.final_layer_norm"
    x = F.layer_norm(x.transpose(1, 2), x.shape[1:2], w[f"{norm}.weight"], w[f"{norm}.bias"], 1e-6)
    for i, factor in enumerate(config.factors):
        up = f"generator.upsampler.upsample_layers.{i}"
        gain, direction = (w[f"{up}.parametrizations.weight.original{j}"] for j in (0, 1))
        weight = direction * gain / direction.flatten(1).norm(dim=1)[:, None, None]
        x = x.transpose(1, 2) if i == 0 else x
        x = F.conv_transpose1d(x, weight, w[f"{up}.bias"], factor, (weight.shape[-1] - factor) // 2)
        x = block(x, f"generator.upsampler.resnet_blocks.{i}")
    if config.factors:
        x = F.silu(linear(x.transpose(1, 2), "generator.upsampler.out_proj"))
    magnitude, phase = linear(x, "generator.head.out").transpose(1, 2).chunk(2, dim=1)
    spectrum = magnitude.exp().clip(max=1e2) * (phase.cos() + 1j * phase.sin())
    samples: np.ndarray = _istft(spectrum, w["generator.head.istft.window"], config.hop_length).numpy()
    return samples


def _layer(x: Tensor, w: dict[str, Tensor], name: str, heads: int) -> Tensor:
    def rms(x: Tensor, norm: str) -> Tensor:
        return x * torch.rsqrt((x**2).mean(-1, keepdim=True) + 1e-6) * w[f"{name}.{norm}.weight"]

    def turned(x: Tensor) -> Tensor:
        """x [1, heads, steps, size]: upstream hands its rotary embedding an axis of heads where it expects time. Sizes
        it cannot take are left as they are."""
        size = x.shape[-1]
        if size % 2:
            return x
        angles = torch.arange(heads)[:, None] * 10000 ** (-torch.arange(0, size, 2) / size)
        pairs = torch.view_as_complex(x.unflatten(-1, (-1, 2)).contiguous())
        return torch.view_as_real(pairs * torch.polar(torch.ones_like(angles), angles)[:, None]).flatten(-2)

    qkv = F.linear(rms(x, "att_norm"), w[f"{name}.att.c_attn.weight"])
    q, k, v = qkv.unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4)
    y = F.scaled_dot_product_attention(turned(q), turned(k), v).transpose(1, 2).flatten(2)
    x = x + F.linear(y, w[f"{name}.att.c_proj.weight"])
    y = F.silu(F.linear(rms(x, "ffn_norm"), w[f"{name}.mlp.fc1.weight"]))
    return x + F.linear(y, w[f"{name}.mlp.fc2.weight"])


def _istft(spectrum: Tensor, window: Tensor, hop: int) -> Tensor:
    """spectrum complex [1, bins, steps] -> [steps * hop]: windowed frames added up, over the windows' sum."""
    frames = torch.fft.irfft(spectrum[0].T, len(window)) * window
    total = (len(frames) - 1) * hop + len(window)
    signal, cover = torch.zeros(total, dtype=torch.float64), torch.zeros(total, dtype=torch.float64)
    for i, frame in enumerate(frames):
        signal[i * hop : i * hop + len(window)] += frame
        cover[i * hop : i * hop + len(window)] += window**2
    start = (len(window) - hop) // 2
    return (signal / cover)[start : start + len(frames) * hop].float()
