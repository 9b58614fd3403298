"""A bundle: a folder with `manifest.json`, one `<stage>.onnx` per stage, and what a system needs beside them."""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import msgspec

from voxport.session import Session

FORMAT = 1
MANIFEST = "manifest.json"

# system -> the module and class that run it; imported when a bundle of that system is opened
SYSTEMS = {"llvc": ("voxport.llvc", "Converter")}


class FileRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a file must be."""

    sha256: str
    bytes: int


class Source(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where the weights came from. `repo` and `revision` are null for a local folder that no lock entry matches."""

    files: dict[str, FileRecord]
    repo: str | None = None
    revision: str | None = None


class StageRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What export measured of one stage.

    Costs are those of one step of the schedule (llvc: one chunk): bytes of weights read, floating-point and 8-bit
    operations. `error_db`: lowest signal-to-noise ratio of a quantized layer against fp32; `speed_up`: of its most
    expensive layer. Both are null where nothing is quantized.
    """

    weight_bytes: int
    flops: int
    int8_ops: int
    error_db: float | None = None
    speed_up: float | None = None


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything about a bundle that its graphs do not say themselves."""

    format: int
    system: str
    variant: str
    sample_rate: int
    target: str
    recipe: str
    source: Source
    tools: dict[str, str]
    stages: dict[str, StageRecord]
    files: dict[str, FileRecord]
    schedule: dict[str, int] = {}
    tokens: dict[str, int] = {}
    sampling: dict[str, float] = {}


class Bundle:
    """An opened bundle. Raises FileNotFoundError or ValueError, in one line that names the file and what to do."""

    def __init__(self, path: str | os.PathLike[str], *, check: bool = True, sessions: type[Session] = Session) -> None:
        """`check`: compare every file's size and sha256 with the manifest; `sessions`: what runs the graphs."""
        self._sessions = sessions
        self.path = Path(path)
        self.manifest = _manifest(self.path)
        if check:
            for name, record in self.manifest.files.items():
                _check(self.path / name, record)

    def session(self, stage: str, threads: int = 1) -> Session:
        return self._sessions(self.path / f"{stage}.onnx", threads)

    @property
    def bytes(self) -> int:
        """Size on disk without the manifest."""
        return sum(record.bytes for record in self.manifest.files.values())


def load(path: str | os.PathLike[str], *, threads: int | None = None, check: bool = True) -> Any:
    """Opens a bundle as the Speaker or Converter of its system.

    `threads`: cores one step may use (default: what the system runs best with); `check`: verify the files' hashes.
    """
    return opened(Bundle(path, check=check), threads)


def opened(bundle: Bundle, threads: int | None = None) -> Any:
    """The Speaker or Converter of an open bundle."""
    module, name = SYSTEMS[bundle.manifest.system]
    model = getattr(import_module(module), name)
    return model(bundle) if threads is None else model(bundle, threads=threads)


def _manifest(path: Path) -> Manifest:
    file = path / MANIFEST
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
    except (msgspec.DecodeError, AttributeError) as error:
        raise ValueError(f"{file}: {error}; export the bundle again") from None
    if manifest.system not in SYSTEMS:
        raise ValueError(
            f"{file}: system {manifest.system!r} is not one of {', '.join(SYSTEMS)}; a newer voxport may know it"
        )
    return manifest


def _check(file: Path, want: FileRecord) -> None:
    if not file.is_file():
        raise FileNotFoundError(f"{file}: missing from the bundle; copy or export it again")
    got = record(file)
    if got != want:
        what = (
            f"{got.bytes} bytes, wanted {want.bytes}"
            if got.bytes != want.bytes
            else f"sha256 {got.sha256[:12]}..., wanted {want.sha256[:12]}..."
        )
        raise ValueError(f"{file}: corrupted ({what}); copy or export the bundle again")


def record(file: Path) -> FileRecord:
    """Size and sha256 of a file."""
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256")
    return FileRecord(sha256=digest.hexdigest(), bytes=file.stat().st_size)


@contextmanager
def writing(path: Path) -> Iterator[tuple[Path, Callable[[Manifest], None]]]:
    """Yields (temporary folder, write_manifest); on success the folder takes the place of `path` in one rename.

    An existing bundle at `path` stays intact until then; anything else there is refused with FileExistsError.
    """
    if path.exists() and not (path / MANIFEST).is_file() and (not path.is_dir() or any(path.iterdir())):
        raise FileExistsError(f"{path}: exists and is not a bundle; name another folder")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))

    def write(manifest: Manifest) -> None:
        raw = msgspec.json.format(msgspec.json.encode(manifest), indent=2)
        (temporary / MANIFEST).write_bytes(raw + b"\n")

    try:
        yield temporary, write
        temporary.chmod(0o755)
        if path.exists():  # a folder cannot be replaced by one rename: the old one steps aside first
            aside = Path(tempfile.mkdtemp(prefix=f".{path.name}.old.", dir=path.parent))
            path.rename(aside / "bundle")
            temporary.rename(path)
            shutil.rmtree(aside)
        else:
            temporary.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
