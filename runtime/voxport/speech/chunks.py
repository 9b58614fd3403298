"""When to hand out what: sizes of chunks. No arrays."""

from typing import Generic, TypeVar

T = TypeVar("T")


class Grouping(Generic[T]):
    """Groups of items as they come: `first`, then a third of what has gone out, at least `least` and at most `most`.

    A player that started never runs dry while the items are made faster than they are played, and most of them go out
    in groups of the size that is cheap to work on.
    """

    def __init__(self, first: int, most: int, least: int = 1) -> None:
        self._first, self._most, self._least = first, most, least
        self._group: list[T] = []
        self._gone = 0

    def add(self, item: T) -> list[T]:
        """One more item. Returns the group that it completes, else nothing."""
        self._group.append(item)
        size = min(self._most, max(self._least, self._gone // 3)) if self._gone else self._first
        return self.rest() if len(self._group) >= size else []

    def rest(self) -> list[T]:
        """The group as far as it has come, maybe nothing."""
        group, self._group = self._group, []
        self._gone += len(group)
        return group
