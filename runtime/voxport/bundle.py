"""A bundle: a folder with `manifest.json`, one `<stage>.onnx` per stage, and what a system needs beside them."""

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal, TypeVar

import msgspec

from voxport import atomic, checksums
from voxport.graphs.ort import OrtSession
from voxport.graphs.session import Session
from voxport.manifest import FORMAT, MANIFEST, Manifest

Check = bool | Literal["always"]
Sessions = Callable[[Path, int], Session]  # (file of a graph, threads) -> what runs it
Section = TypeVar("Section", bound=msgspec.Struct)

LISTED = ("**/*.onnx", "**/*.data", "tokenizer.json", "golden/*")  # no file of these may be in a bundle unlisted


class Bundle:
    """An opened bundle. Raises FileNotFoundError or ValueError, in one line that names the file and what to do."""

    def __init__(self, path: str | os.PathLike[str], *, check: Check = True, sessions: Sessions = OrtSession) -> None:
        """`sessions`: what runs the graphs.

        `check`: compare every file's size and sha256 with the manifest. True does not read files again that were right
        before and have not changed since, "always" reads every file, False none.
        """
        self._sessions = sessions
        self.path = Path(path)
        self.manifest = read_manifest(self.path)
        _check_listing(self.path, self.manifest)
        if check:
            checksums.check(self.path, self.manifest.files, remember=check != "always")

    def session(self, stage: str, threads: int = 1) -> Session:
        return self._sessions(self.path / f"{stage}.onnx", threads)

    def once(self, stage: str, threads: int = 1) -> Session:
        """As `session`, for a graph that is loaded for a call or two: it is there sooner, and takes less memory."""
        if self._sessions is not OrtSession:
            return self.session(stage, threads)
        return OrtSession(self.path / f"{stage}.onnx", threads, once=True)

    def section(self, kind: type[Section]) -> Section:
        """The system's own section of the manifest. ValueError when it is not of this kind."""
        try:
            return msgspec.convert(self.manifest.section, kind)
        except msgspec.ValidationError as error:
            raise ValueError(f"{self.path / MANIFEST}: section: {error}; export the bundle again") from None

    @property
    def bytes(self) -> int:
        """Size on disk without the manifest."""
        return sum(record.bytes for record in self.manifest.files.values())


def read_manifest(path: Path) -> Manifest:
    """The manifest of the bundle at `path`, none of whose other files is looked at. Errors as opening it."""
    file = path / MANIFEST
    if not path.is_dir():
        with suppress(RuntimeError, ValueError):  # links in a circle, a name that no file can have
            atomic.recover(path.resolve())
    if not path.is_dir():
        raise FileNotFoundError(f"{path}: no such bundle folder; make one with `voxport export`")
    if not file.is_file():
        raise FileNotFoundError(f"{path}: not a bundle (no {MANIFEST}); make one with `voxport export`")
    raw = file.read_bytes()
    try:
        version = msgspec.json.decode(raw).get("format")
        if version != FORMAT:
            raise ValueError(
                f"{file}: format {version}, this voxport reads format {FORMAT}; "
                "export the bundle again, or install the voxport that made it"
            )
        manifest = msgspec.json.decode(raw, type=Manifest)
    except (msgspec.DecodeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{file}: {error}; export the bundle again") from None
    return manifest


def _check_listing(path: Path, manifest: Manifest) -> None:
    """Raises ValueError or FileNotFoundError unless the files that matter are those the manifest lists.

    Every stage has its graph, no listed name leaves the folder, none is missing, and no graph, data file, tokenizer or
    golden lies there unlisted. Enrolled voices, for instance, may.
    """
    for name in manifest.files:
        if not _inside(name):
            raise ValueError(f"{path / MANIFEST}: {name!r} leaves the bundle's folder; export the bundle again")
        if not (path / name).is_file():
            raise FileNotFoundError(f"{path / name}: missing from the bundle; copy or export it again")
    for stage in manifest.stages:
        if f"{stage}.onnx" not in manifest.files:
            raise ValueError(f"{path / MANIFEST}: does not list {stage}.onnx; export the bundle again")
    for pattern in LISTED:
        for file in sorted(path.glob(pattern)):
            if file.relative_to(path).as_posix() not in manifest.files:
                raise ValueError(f"{file}: {MANIFEST} does not list it; remove it or export the bundle again")


def _inside(name: str) -> bool:
    """Whether a file name of the manifest, with forward slashes, stays inside the folder on every system."""
    parts = name.split("/")
    return not any(part in ("", ".", "..") or "\\" in part or ":" in part or "\0" in part for part in parts)


@contextmanager
def writing(path: Path) -> Iterator[tuple[Path, Callable[[Manifest], None]]]:
    """Yields (temporary folder, write_manifest); at the end the folder takes the place of `path` at once.

    An existing bundle at `path` stays intact until then. Raises FileExistsError when anything else is there, OSError
    when there is no room, or no permission.
    """
    atomic.recover(path.resolve())
    _replaceable(path)
    path = path.resolve()
    try:
        with atomic.replacement(path) as folder:

            def write(manifest: Manifest) -> None:
                raw = msgspec.json.format(msgspec.json.encode(manifest), indent=2)
                (folder / MANIFEST).write_bytes(raw + b"\n")

            yield folder, write
            _replaceable(path)  # still
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        raise OSError(f"{path}: could not be written to the end ({error.strerror}); is the disk full?") from error


def _replaceable(path: Path) -> None:
    """Raises FileExistsError unless `path` is free, or a folder that holds nothing but a bundle's own files."""
    if not path.exists():
        return
    found = {p.relative_to(path).as_posix() for p in path.rglob("*") if not p.is_dir()}
    if path.is_dir() and not found:
        return
    try:
        manifest = msgspec.json.decode((path / MANIFEST).read_bytes())
        own = {MANIFEST, *manifest["files"]} if {"format", "system"} <= manifest.keys() else set()
    except (OSError, msgspec.DecodeError, KeyError, TypeError, AttributeError):
        own = set()
    if not own:
        raise FileExistsError(f"{path}: exists and is not a bundle; name another folder")
    if found - own:
        first = path / sorted(found - own)[0]
        raise FileExistsError(f"{first}: is not part of the bundle and would be lost; move it or name another folder")
