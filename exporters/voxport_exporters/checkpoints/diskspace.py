"""Whether what is about to be written fits on its disk: told before an hour of work, not after it."""

import shutil
from pathlib import Path


def require(path: Path, needed: int) -> None:
    """Raises OSError in one line when the disk of `path`, which need not exist yet, has less than `needed` bytes."""
    folder = next(place for place in (path.absolute(), *path.absolute().parents) if place.exists())
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise OSError(f"{path}: takes about {_size(needed)}, and its disk has {_size(free)} free; make room")


def _size(count: int) -> str:
    power, unit, digits = (9, "GB", 1) if count >= 1e8 else (6, "MB", 1) if count >= 1e5 else (3, "kB", 0)
    return f"{count / 10**power:.{digits}f} {unit}"
