"""Upstream's noise (docs/systems/cosyvoice3.md 6): the same in every run, drawn when it is needed.

Upstream seeds torch's generator with 0 while it builds the flow, and keeps what it draws then: 4.8 MB that the flow
starts from, and 288 MB for the vocoder's source. torch's generator is MT19937, which numpy has too, so the same numbers
are drawn here as they are asked for.
"""

from functools import cache
from typing import Protocol, Self

import numpy as np

from voxport.graphs.session import Array

FRAMES = 15000  # upstream's buffer for the flow: 300 s of 50 frames (flow_matching.py, CausalConditionalCFM)
BLOCK = 16  # torch draws normals in blocks of this size: half of them radii, half of them angles


@cache
def _flow_block(bands: int) -> Array:
    """What torch.randn(1, bands, FRAMES) gives right after manual_seed(0): float32 [bands, FRAMES]."""
    generator = _seeded()
    size = bands * FRAMES
    uniforms = _uniforms(generator, size)
    blocks = _normals(uniforms[: size - size % BLOCK])
    block: Array = np.empty(size, np.float32)
    block[: len(blocks)] = blocks
    if size % BLOCK:  # the last values of a size that is no multiple come from a block of their own
        block[-BLOCK:] = _normals(_uniforms(generator, BLOCK))
    block = block.reshape(bands, FRAMES)
    block.flags.writeable = False
    return block


def flow_noise(bands: int, frames: int) -> Array:
    """The noise the flow starts from: float32 [bands, frames], read-only.

    ValueError when there are more frames than upstream has noise for (300 s).
    """
    if frames > FRAMES:
        raise ValueError(f"{frames} mel frames of prompt and speech: there is noise for {FRAMES}; split the text")
    return _flow_block(bands)[:, :frames]


class SourceNoise(Protocol):
    """The noise of one utterance's source. It only goes forward; a copy goes on from where the original stands."""

    def take(self, samples: int, harmonics: int) -> Array:
        """Of the next samples: float32 [samples, harmonics], even over [0, 1)."""
        ...

    def copy(self) -> Self: ...


class SineNoise:
    """Upstream's: what torch.rand(1, samples, harmonics) gives once `skip` numbers have been drawn (VocoderSection)."""

    def __init__(self, skip: int) -> None:
        self._generator = _copy(_skipped(skip))

    def take(self, samples: int, harmonics: int) -> Array:
        """See `SourceNoise`."""
        return _uniforms(self._generator, samples * harmonics).reshape(samples, harmonics)

    def copy(self) -> Self:
        """See `SourceNoise`."""
        other = object.__new__(type(self))
        other._generator = _copy(self._generator)
        return other


def _seeded() -> np.random.MT19937:
    """As torch.manual_seed(0) leaves torch's generator."""
    generator = np.random.MT19937()
    generator.state = np.random.RandomState(0).get_state(legacy=False)  # type: ignore[assignment]
    return generator


@cache
def _skipped(skip: int) -> np.random.MT19937:
    """MT19937 cannot jump: 5 million numbers take 20 ms, once."""
    generator = _seeded()
    generator.random_raw(skip, output=False)
    return generator


def _copy(generator: np.random.MT19937) -> np.random.MT19937:
    other = np.random.MT19937()
    other.state = generator.state
    return other


def _uniforms(generator: np.random.MT19937, count: int) -> Array:
    """torch's float32 in [0, 1): the lower 24 bits of every number."""
    bits = generator.random_raw(count).astype(np.uint32) & np.uint32(0xFFFFFF)
    return bits.astype(np.float32) * np.float32(2**-24)


def _normals(uniforms: Array) -> Array:
    """Box and Muller's, over blocks of BLOCK uniforms. Radius and angle are rounded to float32, as torch has them."""
    radii, angles = uniforms.reshape(-1, 2, BLOCK // 2).transpose(1, 0, 2)
    radius = np.sqrt(-2 * np.log((1 - radii).astype(np.float64))).astype(np.float32)
    angle = (np.float32(2 * np.pi) * angles).astype(np.float64)
    normals: Array = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1).astype(np.float32)
    return normals.reshape(-1)
