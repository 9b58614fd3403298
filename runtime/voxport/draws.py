"""Random numbers by address: (seed, stream, step) names the draws, so nothing depends on what was drawn before.

Philox counts instead of remembering: the seed and the stream make its key, the step its counter. The same address gives
the same numbers in any order, chunking and thread count; only Philox's raw bits are used, which numpy promises to keep
(its own distributions may change with a release). A longer draw starts with the shorter one (C order).
One stream word per use: uniforms and normals of one address come from the same bits.
"""

import hashlib
import math

import numpy as np
import numpy.typing as npt

Shape = int | tuple[int, ...]


def uniforms(seed: int, stream: str, step: int, shape: Shape) -> npt.NDArray[np.float32]:
    """Float32 of `shape`, even over [0, 1): multiples of 2**-24, never 1."""
    bits = _bits(seed, stream, step, _count(shape))
    return ((bits >> np.uint64(40)).astype(np.float32) * np.float32(2**-24)).reshape(shape)


def exponentials(seed: int, stream: str, step: int, shape: Shape) -> npt.NDArray[np.float32]:
    """Float32 of `shape`, exponential with mean 1, above 0, at most 36.8: argmax(p / them) picks i with chance p[i]."""
    return (-np.log(_inside(_bits(seed, stream, step, _count(shape))))).astype(np.float32).reshape(shape)


def exponentials_at(seed: int, stream: str, step: int, places: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    """The numbers that `exponentials` has at `places` int64 [n], one or more, in C order: float32 [n]. Of many ids only
    a few can be drawn, and a logarithm costs more than its bits."""
    bits = _bits(seed, stream, step, int(places.max()) + 1)
    return (-np.log(_inside(bits[places]))).astype(np.float32)


def normals(seed: int, stream: str, step: int, shape: Shape) -> npt.NDArray[np.float32]:
    """Float32 of `shape`, normal with mean 0 and variance 1 (Box-Muller), within -8.6..8.6."""
    count = _count(shape)
    even = _inside(_bits(seed, stream, step, count + count % 2)).reshape(-1, 2)
    radius, angle = np.sqrt(-2 * np.log(even[:, 0])), 2 * np.pi * even[:, 1]
    pairs = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)
    return pairs.reshape(-1)[:count].astype(np.float32).reshape(shape)


def _count(shape: Shape) -> int:
    return shape if isinstance(shape, int) else math.prod(shape)


def _bits(seed: int, stream: str, step: int, count: int) -> npt.NDArray[np.uint64]:
    if step < 0:
        raise ValueError(f"step must be 0 or more, not {step}")
    word = int.from_bytes(hashlib.blake2b(stream.encode(), digest_size=8).digest(), "little")
    key = np.array([seed % 2**64, word], np.uint64)  # % so that negative seeds work too
    counter = np.array([0, 0, step, 0], np.uint64)  # 2**128 blocks of four numbers lie between two steps
    bits: npt.NDArray[np.uint64] = np.random.Philox(key=key, counter=counter).random_raw(count)
    return bits


def _inside(bits: npt.NDArray[np.uint64]) -> npt.NDArray[np.float64]:
    """Float64 inside (0, 1), both ends out, so that the logarithm is finite and not zero."""
    return ((bits >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52
