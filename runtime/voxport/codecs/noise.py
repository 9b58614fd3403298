"""Noise that a codec's decoder adds: where its draws come from."""

from collections.abc import Callable, Sequence

import numpy as np

from voxport import draws
from voxport.graphs.session import Array

Noise = Callable[[int, int, int], Array]  # (noise block, frame, n) -> float32 [n]: the block's draws of that frame


def seeded(seed: int, piece: int = 0) -> Noise:
    """Normal draws addressed by block and absolute frame: the same for every chunking, others for every piece."""
    of_piece = f".piece{piece}" if piece else ""
    return lambda block, frame, n: draws.normals(seed, f"codec.noise.{block}{of_piece}", frame, n)


def silent(_block: int, _frame: int, n: int) -> Array:
    """No noise: deterministic, and not upstream's sound, which is never without."""
    return np.zeros(n, np.float32)


def from_arrays(arrays: Sequence[Array]) -> Noise:
    """Draws made elsewhere: one array per noise block, float32 [draws of the whole audio, attention windows filled]."""
    return lambda block, frame, n: arrays[block][frame * n : (frame + 1) * n]
