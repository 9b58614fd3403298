"""Goldens of the fixtures with other names, and parts of them: parity knows no fixture by its names."""

from collections.abc import Callable
from typing import Any

from voxport_parity.compare import Diff, compare
from voxport_parity.systems import Feeds
from voxport_parity.trace import Golden, Trace


def renamed(golden: Golden, rename: Callable[[str], str], runs: Callable[[Any], Any] = lambda notes: notes) -> Golden:
    """Every tensor and its note under `rename` of its name; `runs` renames what else the notes hold."""
    tensors = {rename(name): array for name, array in golden.tensors.items()}
    about = {rename(name): note for name, note in golden.notes["tensors"].items()}
    return Golden(tensors, runs(dict(golden.notes)) | {"tensors": about}, golden.folder)


def groups(golden: Golden) -> list[str]:
    """What the names of tensors begin with, up to the first dot."""
    return sorted({_group(name) for name in golden.tensors})


def only(golden: Golden, group: str) -> Golden:
    """Of the tensors one group; the notes stay whole."""
    return Golden({n: a for n, a in golden.tensors.items() if _group(n) == group}, golden.notes, golden.folder)


def without(golden: Golden, group: str) -> Golden:
    """Of the tensors all but one group; the notes stay whole."""
    return Golden({n: a for n, a in golden.tensors.items() if _group(n) != group}, golden.notes, golden.folder)


def _group(name: str) -> str:
    return name.partition(".")[0]


def compared(feeds: Feeds, trace: Trace, golden: Golden) -> list[Diff]:
    """Every tensor of the golden that is in the trace."""
    return [
        compare("", feeds.stage(n), "torch", n, trace[n], golden.tensors[n], feeds.bound(n))
        for n in golden.tensors
        if n in trace
    ]


def wrong(diffs: list[Diff]) -> list[str]:
    return [str(diff) for diff in diffs if not diff.ok]
