"""Rotary positions: the two halves of every attention head are turned against each other, by an angle per position."""

import torch
from torch import Tensor


def frequencies(theta: float, size: int) -> Tensor:
    """Radians per position [size / 2] of a head of `size` channels; channel i turns with channel i + size / 2."""
    steps = torch.arange(0, size, 2, dtype=torch.int64).to(torch.float32) / size
    return 1.0 / (theta**steps)


def cos_sin(positions: Tensor, radians: Tensor) -> tuple[Tensor, Tensor]:
    """positions [...], radians per position [size / 2] -> cosine and sine [..., size / 2]."""
    angles = positions[..., None].to(radians.dtype) * radians
    return torch.cos(angles), torch.sin(angles)


def turn(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turns the two halves of the last axis of `x` [..., size]; cos and sin fit [..., size / 2]."""
    low, high = x.chunk(2, dim=-1)
    return torch.cat((low * cos - high * sin, high * cos + low * sin), dim=-1)
