"""How much more, or less, a call costs than the one that export counted for its stage."""

import math
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from voxport.graphs.session import Array
from voxport.graphs.stage import CAPACITY, TensorSpec
from voxport.manifest import StageRecord


class Scale(NamedTuple):
    """How many times the record's floating-point operations and 8-bit operations a call takes."""

    flops: float
    int8_ops: float


def sizes_of(declared: Iterable[TensorSpec], inputs: Mapping[str, Array]) -> dict[str, int]:
    """The free axes of a call's inputs.

    `capacity` is not one of them: a longer cache is read to where it is filled.
    """
    return {
        name: size
        for spec in declared
        if spec.name in inputs
        for name, size in zip(spec.shape, inputs[spec.name].shape, strict=True)
        if isinstance(name, str) and name != CAPACITY
    }


def scale_of(record: StageRecord, sizes: Mapping[str, int]) -> Scale:
    """The product of what each axis does to the costs: they grow with it, or as `record.growth` has counted."""
    flops, int8_ops = [], []
    for axis in sizes.keys() & record.axes.keys():
        ratio = sizes[axis] / record.axes[axis]
        costs = record.growth.get(axis, ())
        flops.append(_growth(ratio, record.flops, [cost.flops for cost in costs]))
        int8_ops.append(_growth(ratio, record.int8_ops, [cost.int8_ops for cost in costs]))
    return Scale(math.prod(flops), math.prod(int8_ops))


def _growth(ratio: float, once: int, larger: list[int]) -> float:
    """`ratio`: an axis' size over the one where a call costs `once`; `larger`: the costs at two and three times that.

    Attention costs as much as the square of what it compares, and nothing grows faster: a parabola meets all counts.
    """
    if not larger or not once:
        return ratio
    twice, thrice = (cost / once for cost in larger)
    near = (ratio - 2) * (ratio - 3) / 2 - twice * (ratio - 1) * (ratio - 3)
    return near + thrice * (ratio - 1) * (ratio - 2) / 2
