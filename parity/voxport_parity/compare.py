"""Compares two arrays under a Bound and says where they differ most."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from voxport.bounds import Bound

NOT_COMPARED = "not compared"  # the link of a golden tensor that no stage produced
STAND_IN = 1e8  # from this size on a score is upstream's stand-in for one that cannot be, and no tensor's peak


@dataclass(frozen=True)
class Diff:
    """One tensor of one link.

    `excess` is the largest error over the limit at that element: ok means <= 1. `limit` is the error that `bound`
    allows at the worst element, the one that `where` names: the largest of its absolute, relative and of-peak limits.
    `nearer` is the distance to the rounding reference over the distance to the fp32 net (`nearness`), and
    `nearer_limit` what it may be; both are None where that is not judged.
    """

    system: str
    stage: str
    link: str
    tensor: str
    shape: tuple[int, ...]
    max_abs: float  # NaN: not compared
    bound: Bound | None  # None: reported, never judged
    excess: float = 0.0
    where: tuple[int, ...] = ()
    got: float = 0.0
    expected: float = 0.0
    limit: float | None = None
    got_shape: tuple[int, ...] | None = None  # where it is not `shape`
    nearer: float | None = None
    nearer_limit: float | None = None

    @property
    def ok(self) -> bool:
        """True when every element is within the bound and, where that is judged, the nearness within its limit."""
        if self.nearer is not None and self.nearer_limit is not None and not self.nearer <= self.nearer_limit:
            return False
        return self.bound is None or self.excess <= 1  # NaN is not <= 1

    def as_dict(self) -> dict[str, Any]:
        """The keys of `voxport parity --json`. `bound` is the limit at the worst element, null for what is not judged;
        `max_abs` is null where it is infinite (JSON has no infinity) and for a tensor that was not compared."""
        return {
            "system": self.system,
            "stage": self.stage,
            "link": self.link,
            "tensor": self.tensor,
            "shape": list(self.shape),
            "max_abs": _finite(self.max_abs),
            "bound": _finite(self.limit),
            "ok": self.ok,
        }

    def __str__(self) -> str:
        head = f"{self.link} link, stage {self.stage}: {self.tensor}"
        if self.got_shape is not None:
            return f"{head} has shape {list(self.got_shape)}, wanted {list(self.shape)}"
        if self.excess <= 1 and self.nearer is not None:
            return (
                f"{head} is {self.nearer:.2f} times as far from the net that rounds as it does as from the fp32 net, "
                f"wanted {self.nearer_limit} or less"
            )
        at = ", ".join(map(str, self.where))
        return f"{head}[{at}] is {self.got!r}, wanted {self.expected!r}"


def _finite(number: float | None) -> float | None:
    return number if number is not None and np.isfinite(number) else None


def compare(
    system: str, stage: str, link: str, tensor: str, got: np.ndarray, expected: np.ndarray, bound: Bound | None
) -> Diff:
    """A shape that differs, or a NaN, is infinitely wrong; scores of -inf that meet are equal."""
    if got.shape != expected.shape:
        limit = None if bound is None else bound.absolute
        shapes = {"limit": limit, "got_shape": got.shape}
        return Diff(system, stage, link, tensor, expected.shape, np.inf, bound, np.inf, **shapes)  # type: ignore[arg-type]
    if not expected.size:
        limit = None if bound is None else bound.absolute
        return Diff(system, stage, link, tensor, expected.shape, 0.0, bound, limit=limit)
    g, w = got.astype(np.float64), expected.astype(np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        error = np.where(g == w, 0.0, np.nan_to_num(np.abs(g - w), nan=np.inf, posinf=np.inf))
        limits = np.zeros_like(error)
        if bound is not None:
            size = np.abs(w)
            peak = size.max(where=size < STAND_IN, initial=0)
            limits = np.maximum(max(bound.absolute, bound.of_peak * peak), bound.relative * size)
        excess = np.where(error == 0, 0.0, error / limits)
    where = np.unravel_index(int(np.argmax(excess if bound is not None else error)), error.shape)
    return Diff(
        system,
        stage,
        link,
        tensor,
        expected.shape,
        float(error.max()),
        bound,
        float(excess.max()) if bound is not None else 0.0,
        tuple(int(i) for i in where),
        float(g[where]),
        float(w[where]),
        float(limits[where]) if bound is not None else None,
    )


def nearness(got: np.ndarray, rounding: np.ndarray, fp32: np.ndarray) -> float:
    """Distance of a quantized graph's tensor to the net that rounds as it does, over its distance to the fp32 net.

    Distances are root mean squares, to which scores of -inf that meet add nothing. 1 or more: that net is no better an
    account of the graph than the fp32 net is.
    """
    wide = got.astype(np.float64)
    with np.errstate(invalid="ignore"):
        errors = [np.where(wide == x, 0.0, wide - x) for x in (rounding, fp32)]
    near, far = (float(np.sqrt(np.mean(np.square(error)))) for error in errors)
    return 0.0 if near == 0 else near / far if far else np.inf
