"""When to hand out what: sizes of chunks. No arrays."""

from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")


def growing(items: Iterable[T], first: int, most: int, least: int = 1) -> Iterator[list[T]]:
    """Groups of items as they come: `first`, then a third of what has gone out, at least `least` and at most `most`.

    A player that started never runs dry while the items are made faster than they are played, and most of them go out
    in groups of the size that is cheap to work on. The last group is what is left, maybe nothing.
    """
    group: list[T] = []
    gone = 0
    for item in items:
        group.append(item)
        if len(group) >= (min(most, max(least, gone // 3)) if gone else first):
            gone += len(group)
            yield group
            group = []
    yield group
