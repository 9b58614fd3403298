"""A folder takes another's place: whoever looks finds the old one or the new one, whole, also after a kill.

    with replacement(path) as folder:      # an empty folder beside `path`
        ...                                # write into it; an exception removes it and leaves `path` as it is
                                           # here it has taken the place of `path`

Where the system can (renameat2 of Linux), the two folders are exchanged in one step. Elsewhere it takes two renames,
and a process that is killed between them leaves nothing at `path`: `recover` puts the old folder back. The name of a
temporary folder says which process made it, so that the next `replacement` beside it removes what dead ones left.
"""

import ctypes
import errno
import hashlib
import os
import platform
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

NEW, OLD = "new", "old"
TEMPORARY = re.compile(
    r"\.(?P<name>.+)\.(?P<kind>new|old)\.(?P<host>[0-9a-f]{8})-(?P<pid>\d+)-(?P<start>\d+)-[0-9a-f]{8}"
)
TRIES = 100  # another process may take the same place between two steps
WAIT_SECONDS = 1.0  # for a living process between its two renames
FOREIGN_SECONDS = 86_400.0  # a folder of another machine that nothing was written to for so long is abandoned

AT_FDCWD, RENAME_EXCHANGE = -100, 2  # of Linux
UNSUPPORTED = (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP)  # by the kernel, or by this file system


@contextmanager
def replacement(path: Path) -> Iterator[Path]:
    """Yields an empty folder that takes the place of the folder `path`, which need not exist, when the block ends.

    `path` must be resolved. Raises OSError when the folder cannot be made or moved.
    """
    new = _temporary(path, NEW)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        recover(path)
        sweep(path.parent)
        new.mkdir(mode=0o700)
    except OSError as error:
        raise OSError(f"{path}: cannot be written: {error.strerror}") from None
    try:
        yield new
        new.chmod(0o755)
        _take_place(new, path)
    finally:
        shutil.rmtree(new, ignore_errors=True)


def recover(path: Path) -> None:
    """Puts the old folder back where a process died between its two renames and left nothing at `path`."""
    if path.exists():
        return
    for old in _temporaries(path.parent, path.name, OLD):
        deadline = time.monotonic() + WAIT_SECONDS
        while not path.exists() and not _abandoned(old) and time.monotonic() < deadline:
            time.sleep(0.01)
        _settle(old, path)


def sweep(parent: Path) -> None:
    """Removes the temporary folders in `parent` whose processes are dead, after recovering what they left behind."""
    for folder in _temporaries(parent):
        if _abandoned(folder):
            name = _parsed(folder)
            if name["kind"] == OLD:
                _settle(folder, parent / name["name"])
            else:
                shutil.rmtree(folder, ignore_errors=True)


def _take_place(new: Path, path: Path) -> None:
    for left in reversed(range(TRIES)):
        try:
            if not path.exists():
                new.rename(path)
            elif not _exchange(new, path):
                _rename_twice(new, path)
        except OSError as error:  # another process was faster: the place is taken, or free again
            if not left or error.errno not in (errno.ENOENT, errno.ENOTEMPTY, errno.EEXIST):
                raise
        else:
            return


def _rename_twice(new: Path, path: Path) -> None:
    old = _temporary(path, OLD)
    try:
        path.rename(old)
        new.rename(path)
    finally:
        if old.exists():
            _settle(old, path)


def _settle(old: Path, path: Path) -> None:
    """Removes a folder that stepped aside, or puts it back where nothing has taken its place."""
    if not path.exists():
        with suppress(OSError):  # another process was faster
            old.rename(path)
    if path.exists():
        shutil.rmtree(old, ignore_errors=True)


def _exchange(first: Path, second: Path) -> bool:
    """Swaps two existing folders in one step; False where the system cannot. Raises OSError as a rename does."""
    if platform.system() != "Linux":
        return False
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError):  # an older C library
        return False
    if not renameat2(AT_FDCWD, os.fsencode(first), AT_FDCWD, os.fsencode(second), RENAME_EXCHANGE):
        return True
    number = ctypes.get_errno()
    if number in UNSUPPORTED:
        return False
    raise OSError(number, os.strerror(number), str(first), None, str(second))


# ---------------------------------------------------------------------------------------------- temporary folders


def _temporary(path: Path, kind: str) -> Path:
    """A free name beside `path` that says which process uses it."""
    pid = os.getpid()
    return path.parent / f".{path.name}.{kind}.{_host()}-{pid}-{_start(pid)}-{os.urandom(4).hex()}"


def _temporaries(parent: Path, name: str | None = None, kind: str | None = None) -> list[Path]:
    """The temporary folders in `parent`, of one folder or of all."""
    found = []
    try:
        folders = sorted(parent.iterdir())
    except OSError:  # not for us to read
        return []
    for folder in folders:
        match = TEMPORARY.fullmatch(folder.name)
        if match and name in (None, match["name"]) and kind in (None, match["kind"]):
            found.append(folder)
    return found


def _parsed(folder: Path) -> dict[str, str]:
    match = TEMPORARY.fullmatch(folder.name)
    assert match is not None
    return match.groupdict()


def _abandoned(folder: Path) -> bool:
    """Whether the process that made a temporary folder is dead; of another machine's the folder's age tells."""
    maker = _parsed(folder)
    pid = int(maker["pid"])
    if maker["host"] == _host() and Path("/proc/self/stat").exists():
        return _start(pid) != int(maker["start"])
    if maker["host"] == _host() and os.name == "posix":
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        except OSError:
            return False
        return False
    try:
        latest = max(p.stat().st_mtime for p in (folder, *folder.rglob("*")))
    except OSError:  # it is going right now
        return False
    return time.time() - latest > FOREIGN_SECONDS


def _host() -> str:
    """Process ids mean something on one machine, or in one container, only."""
    return hashlib.blake2b(platform.node().encode(), digest_size=4).hexdigest()


def _start(pid: int) -> int:
    """When a process began, in clock ticks after boot, so that a reused id is not taken for it; 0: dead, or unknown."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return 0
    return 0 if status[0] in "ZX" else int(status[19])
