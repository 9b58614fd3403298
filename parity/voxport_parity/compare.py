"""Compares two arrays under a Bound and says where they differ most."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from voxport.bounds import Bound


@dataclass(frozen=True)
class Diff:
    """One tensor of one link. `excess` is the largest error over what its bound allows there: ok means <= 1."""

    system: str
    stage: str
    link: str
    tensor: str
    shape: tuple[int, ...]
    max_abs: float
    bound: Bound | None  # None: reported, never judged
    excess: float
    where: tuple[int, ...] = ()
    got: float = 0.0
    wanted: float = 0.0
    got_shape: tuple[int, ...] | None = None  # where it is not `shape`

    @property
    def ok(self) -> bool:
        return self.bound is None or self.excess <= 1  # NaN is not <= 1

    def as_dict(self) -> dict[str, Any]:
        """The keys of `voxport parity --json`."""
        return {
            "system": self.system,
            "stage": self.stage,
            "link": self.link,
            "tensor": self.tensor,
            "shape": list(self.shape),
            "max_abs": self.max_abs if np.isfinite(self.max_abs) else None,  # JSON has no infinity
            "bound": None if self.bound is None else self.bound.absolute,
            "ok": self.ok,
        }

    def __str__(self) -> str:
        if self.got_shape is not None:
            has = f"has shape {list(self.got_shape)}, wanted {list(self.shape)}"
            return f"{self.link} link, stage {self.stage}: {self.tensor} {has}"
        at = ", ".join(map(str, self.where))
        return f"{self.link} link, stage {self.stage}: {self.tensor}[{at}] is {self.got!r}, wanted {self.wanted!r}"


def compare(
    system: str, stage: str, link: str, tensor: str, got: np.ndarray, wanted: np.ndarray, bound: Bound | None
) -> Diff:
    """A shape that differs, or a NaN, is infinitely wrong; scores of -inf that meet are equal."""
    if got.shape != wanted.shape:
        return Diff(system, stage, link, tensor, wanted.shape, np.inf, bound, np.inf, got_shape=got.shape)
    if not wanted.size:
        return Diff(system, stage, link, tensor, wanted.shape, 0.0, bound, 0.0)
    g, w = got.astype(np.float64), wanted.astype(np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        error = np.where(g == w, 0.0, np.nan_to_num(np.abs(g - w), nan=np.inf, posinf=np.inf))
        limit = np.zeros_like(error)
        if bound is not None:
            size = np.abs(w)
            peak = size.max(where=np.isfinite(size), initial=0)
            limit = np.maximum(max(bound.absolute, bound.of_peak * peak), bound.relative * size)
        excess = np.where(error == 0, 0.0, error / limit)
    where = np.unravel_index(int(np.argmax(excess if bound is not None else error)), error.shape)
    return Diff(
        system,
        stage,
        link,
        tensor,
        wanted.shape,
        float(error.max()),
        bound,
        float(excess.max()) if bound is not None else 0.0,
        tuple(int(i) for i in where),
        float(g[where]),
        float(w[where]),
    )
