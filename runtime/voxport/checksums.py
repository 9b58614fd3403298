"""Files against their sha256, with a memory: gigabytes that have not changed since are not read again.

What was found right is kept per folder in the user's cache, voxport/verified/ in XDG_CACHE_HOME or ~/.cache. A file
counts as unchanged while its size, modification time and inode are what they were. Where the cache cannot be used,
every file is hashed.
"""

import hashlib
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import msgspec

from voxport.manifest import FileRecord

# A file that was written this shortly before it was read may be written again without its time changing.
SETTLED_NS = 2_000_000_000


class Verified(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a file was when its content had this hash."""

    sha256: str
    bytes: int
    mtime_ns: int
    inode: int


def record(file: Path) -> FileRecord:
    """Size and sha256 of a file."""
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256")
    return FileRecord(sha256=digest.hexdigest(), bytes=file.stat().st_size)


def check(folder: Path, files: Mapping[str, FileRecord], *, remember: bool) -> None:
    """Raises ValueError naming the first of `files`, by name relative to `folder`, that is not as recorded.

    `remember`: files that were right before and have not changed since are not read.
    """
    memory = _memory(folder)
    before = _read(memory) if remember else {}
    after: dict[str, Verified] = {}
    for name, expected in files.items():
        status = (folder / name).stat()
        now = Verified(expected.sha256, expected.bytes, status.st_mtime_ns, status.st_ino)
        if status.st_size != expected.bytes or before.get(name) != now:
            _check(folder / name, expected)
        if time.time_ns() - status.st_mtime_ns > SETTLED_NS:
            after[name] = now
    if after != before:
        _write(memory, after)


def _check(file: Path, expected: FileRecord) -> None:
    size = file.stat().st_size
    if size != expected.bytes:
        raise ValueError(_corrupted(file, f"{size} bytes, wanted {expected.bytes}"))
    found = record(file)
    if found != expected:
        raise ValueError(_corrupted(file, f"sha256 {found.sha256[:12]}..., wanted {expected.sha256[:12]}..."))


def _corrupted(file: Path, what: str) -> str:
    return f"{file}: corrupted ({what}); copy or export the bundle again"


# ------------------------------------------------------------------------------------------------------- memory


def _memory(folder: Path) -> Path | None:
    """The file that remembers `folder`; None where there is no cache."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if not cache.is_absolute():  # as its specification says
        try:
            cache = Path.home() / ".cache"
        except RuntimeError:  # a user without a home
            return None
    name = hashlib.blake2b(os.fsencode(folder.resolve()), digest_size=16).hexdigest()
    return cache / "voxport" / "verified" / f"{name}.json"


def _read(memory: Path | None) -> dict[str, Verified]:
    if memory is not None:
        with suppress(OSError, msgspec.DecodeError):
            return msgspec.json.decode(memory.read_bytes(), type=dict[str, Verified])
    return {}


def _write(memory: Path | None, files: Mapping[str, Verified]) -> None:
    if memory is None:
        return
    with suppress(OSError):
        memory.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        temporary = memory.with_suffix(f".{os.urandom(4).hex()}")
        temporary.write_bytes(msgspec.json.encode(files))
        temporary.replace(memory)
