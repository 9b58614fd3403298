"""A system's goldens, told apart by the part of its model that each tensor belongs to."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from voxport.bounds import Bound


class Part(Protocol):
    """What the module of one part has: as `Feeds`, for its own tensors."""

    def bound(self, name: str, /) -> Bound: ...
    def rounded(self, name: str, /) -> Bound | None: ...
    def stage(self, name: str, /) -> str: ...
    def input_reason(self, name: str, /) -> str | None: ...


@dataclass(frozen=True)
class Parts:
    """The same for all of them. `of`: a tensor's name -> its part."""

    of: Callable[[str], Part]

    def bound(self, name: str) -> Bound:
        """See `Feeds`."""
        return self.of(name).bound(name)

    def rounded(self, name: str) -> Bound | None:
        """See `Feeds`."""
        return self.of(name).rounded(name)

    def stage(self, name: str) -> str:
        """See `Feeds`."""
        return self.of(name).stage(name)

    def input_reason(self, name: str) -> str | None:
        """See `Feeds`."""
        return self.of(name).input_reason(name)
