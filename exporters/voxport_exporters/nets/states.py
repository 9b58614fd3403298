"""The state of a net while it runs: tensors in the order of their declaration, each replaced by its successor."""

from collections.abc import Iterable

import torch
from torch import Tensor


class States:
    """`take` the next tensor of the state, `keep` its successor; `after` is the state of the next call.

    Several may be taken before their successors are kept; the order must be that of the declaration.
    """

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        self._before = iter(tensors)
        self.after: list[Tensor] = []

    def take(self) -> Tensor:
        """The next tensor."""
        return next(self._before)

    def keep(self, tensor: Tensor) -> None:
        """The successor of a tensor that was taken."""
        self.after.append(tensor)

    def join(self, x: Tensor, axis: int = 0) -> Tensor:
        """The next tensor and `x` behind it along `axis`; of both, as many steps as before are kept."""
        past = self.take()
        x = torch.cat((past, x), dim=axis)
        self.keep(last(x, past.shape[axis], axis))
        return x


def last(x: Tensor, steps: int, axis: int = 0) -> Tensor:
    """The last `steps` of `x` along `axis`. Counted from the end, so that a trace needs no length: one Slice."""
    index = [slice(None)] * x.dim()
    index[axis] = slice(-steps, None) if steps else slice(0, 0)
    return x[tuple(index)]
