"""Checkpoints from the hub: exactly the files models.lock pins, resumable, every byte verified.

`hf_hub_download` of huggingface_hub 2 throws a partial file away, so its smaller pieces are used here: one listing per
repository (commit, sizes, hashes: a changed file is refused before a byte of it is loaded) and one ranged GET per file.
"""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import msgspec
from msgspec.structs import replace
from tqdm import tqdm

from voxport_exporters.checkpoints.lockfile import File, Model, Repo, default_path, edit, read

RECEIPT = "checkpoint.json"  # what fetch leaves beside the files: the lock entry with everything filled in


class ChangedError(ValueError):
    """A file, or a repository, is not what its pin says."""


class Remote(NamedTuple):
    """What the hub says of a repository: its commit, and each file's size and id (sha256 for LFS, else git blob)."""

    commit: str
    files: dict[str, tuple[int, str]]


def find(name: str, lock_file: Path | None = None) -> Model:
    """One entry of the lock. Raises ValueError that lists the names there are."""
    models = read(lock_file)
    if name not in models:
        raise ValueError(f"no model {name!r}; there are: {', '.join(models)}")
    return models[name]


def fetch(name: str, out: Path, lock_file: Path | None = None) -> Model:
    """Downloads a model into `out`, or verifies what is there; returns its entry with everything filled in.

    Raises ChangedError for a file that is not the pinned one, ConnectionError without network (a partial file stays
    and is resumed), PermissionError for a gated repository, FileNotFoundError for a file the hub does not have.
    """
    model = _recalled(find(name, lock_file), out)
    for index, repo in enumerate(model.repo):
        folder = out / repo.into
        complete = repo.revision and all(file.sha256 and _target(folder, file).exists() for file in repo.files)
        remote = None if complete else _listing(repo)
        if remote:
            # The receipt names the commit before the first download, so an interrupted fetch never mixes two commits.
            repo = _stated(repo, remote)
            model = _with(model, index, repo, out)
        repo = replace(repo, files=tuple(_get(repo, file, _target(folder, file), remote) for file in repo.files))
        model = _with(model, index, repo, out)
    for path, source in model.packaged.items():
        _copy(Path(__file__).parents[1] / source, out / path)
    return model


def lock(name: str, lock_file: Path | None = None) -> Model:
    """Compares an entry of the lock with the hub, fills in what it lacks, marks it confirmed, and rewrites it.

    Only files the hub knows no sha256 of, the small ones, are downloaded. Raises as `fetch` does; a pin that differs is
    a ChangedError and leaves the lock file untouched.
    """
    lock_file = lock_file or default_path()
    model, repos = find(name, lock_file), []
    with TemporaryDirectory() as folder:
        for number, repo in enumerate(model.repo):
            remote = _listing(repo)
            repo = _stated(repo, remote)
            files = [
                file
                if _is_sha256(remote.files[file.path][1])
                else _get(repo, file, Path(folder, str(number), file.path), remote)
                for file in repo.files
            ]
            repos.append(replace(repo, files=tuple(files)))
    model = replace(model, repo=tuple(repos))
    _write(lock_file, edit(lock_file.read_text("utf-8"), model).encode())
    return model


def _with(model: Model, index: int, repo: Repo, out: Path) -> Model:
    """`model` with one repository replaced, and so written to the receipt."""
    model = replace(model, repo=(*model.repo[:index], repo, *model.repo[index + 1 :]))
    _write(out / RECEIPT, msgspec.json.format(msgspec.json.encode(model), indent=1) + b"\n")
    return model


def _recalled(model: Model, out: Path) -> Model:
    """`model` with what an earlier fetch into `out` learned of its unpinned files, wherever no pin says otherwise."""
    if not (out / RECEIPT).exists():
        return model
    try:
        had = msgspec.json.decode((out / RECEIPT).read_bytes(), type=Model)
    except msgspec.DecodeError as error:  # a ValidationError is one, too
        raise ValueError(f"{out / RECEIPT}: {error}; delete it and fetch again") from error
    learned = {(repo.id, repo.into): repo for repo in had.repo}
    pairs = [(repo, learned.get((repo.id, repo.into))) for repo in model.repo]
    return replace(model, repo=tuple(old if old and _agree(repo, old) else repo for repo, old in pairs))


def _agree(pin: Repo, old: Repo) -> bool:
    """Whether `old` is `pin` with nothing changed, only filled in."""
    if pin.revision not in (None, old.revision):
        return False
    pairs = [(row, file) for row in pin.files for file in old.files if pin.claims(row, file.path)]
    same = [(row, file) for row, file in pairs if row.save == file.save and row.sha256 in (None, file.sha256)]
    return all(row in [pair[0] for pair in same] for row in pin.files) and all(
        file in [pair[1] for pair in same] for file in old.files
    )


def _stated(repo: Repo, remote: Remote) -> Repo:
    """`repo` with what the hub states filled in, patterns written out; refuses what differs from a pin."""
    if repo.revision not in (None, remote.commit):
        raise ChangedError(f"{repo.id}: wanted revision {repo.revision}, got {remote.commit}")
    files: dict[str, File] = {}
    for row in repo.files:
        found = [path for path in sorted(remote.files) if repo.claims(row, path)]
        if not found:
            raise FileNotFoundError(f"{repo.id} at {remote.commit}: the hub has no file {row.path}")
        for path in found:
            size, oid = remote.files[path]
            _compare(f"{repo.id}/{path}", row, size, oid if _is_sha256(oid) else row.sha256)
            known = replace(row, path=path)
            if _is_sha256(oid):
                known = replace(known, bytes=size, sha256=oid, confidence="confirmed")
            files.setdefault(path, known)
    return replace(repo, revision=remote.commit, confidence="confirmed", files=tuple(files.values()))


def _get(repo: Repo, file: File, target: Path, remote: Remote | None) -> File:
    """Downloads a file unless it is there, verifies it, returns it with bytes and sha256 filled in."""
    if remote is None or target.exists():
        try:
            return _verified(target, file, remote, str(target))
        except ChangedError as error:
            raise ChangedError(f"{error}; delete it and fetch again, or fetch into another folder") from None
    size, oid = remote.files[file.path]
    # The name holds the id, so a partial of another version is never continued.
    part = target.with_name(f"{target.name}.{oid[:12]}.part")
    _download(repo, file.path, part, size)
    try:
        done = _verified(part, file, remote, f"{repo.id}/{file.path}")
    except ChangedError:
        part.unlink()  # whole but wrong: there is nothing to resume
        raise
    part.replace(target)
    return done


def _verified(data: Path, file: File, remote: Remote | None, name: str) -> File:
    """`file` with bytes and sha256 of `data`; raises ChangedError when they, or the hub's id, say otherwise."""
    size, sha256 = data.stat().st_size, _digest(data, hashlib.sha256())
    _compare(name, file, size, sha256)
    if remote is None:
        return file
    oid = remote.files[file.path][1]
    got = sha256 if _is_sha256(oid) else _digest(data, hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False))
    if got != oid:
        raise ChangedError(f"{name}: the hub says {oid}, got {got}")
    return replace(file, bytes=size, sha256=sha256, confidence="confirmed")


def _compare(name: str, pin: File, size: int, sha256: str | None) -> None:
    if pin.sha256 not in (None, sha256):
        raise ChangedError(f"{name}: wanted sha256 {pin.sha256}, got {sha256} ({size:,} bytes)")
    if pin.bytes not in (None, size):
        raise ChangedError(f"{name}: wanted {pin.bytes:,} bytes, got {size:,}")


def _digest(path: Path, digest: "hashlib._Hash") -> str:
    bar = tqdm(
        desc=f"verify {path.name}"[:40],
        total=path.stat().st_size,
        unit="B",
        unit_scale=True,
        disable=None,
        delay=1,
        leave=False,
    )
    with path.open("rb") as data, bar:
        while block := data.read(1 << 22):
            digest.update(block)
            bar.update(len(block))
    return digest.hexdigest()


def _target(folder: Path, file: File) -> Path:
    return folder / (file.save or file.path)


def _is_sha256(oid: str) -> bool:
    return len(oid) == 64


def _copy(source: Path, target: Path) -> None:
    """Copies a config shipped with the package; a file of the user's that says something else is not overwritten."""
    if target.exists() and target.read_bytes() != source.read_bytes():
        raise ChangedError(f"{target}: differs from {source.name} as shipped; delete it and fetch again")
    _write(target, source.read_bytes())


def _write(path: Path, data: bytes) -> None:
    """Writes at once or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_bytes(data)
    part.replace(path)


def _endpoint() -> str | None:
    return os.environ.get("HF_ENDPOINT")  # read here: the hub client reads it once, when imported


@contextmanager
def _hub(repo: Repo) -> Iterator[None]:
    """Turns the hub client's errors into one plain sentence each."""
    from huggingface_hub import errors

    where = f"{repo.id} at {repo.revision or 'main'}"
    try:
        yield
    except errors.GatedRepoError as error:
        page = f"{_endpoint() or 'https://huggingface.co'}/{repo.id}"
        raise PermissionError(
            f"{repo.id} is gated: accept its terms at {page} and log in with `hf auth login`"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise FileNotFoundError(f"{where}: the hub has no such revision") from error
    except errors.RepositoryNotFoundError as error:
        raise FileNotFoundError(
            f"{repo.id}: the hub has no such repository, or it is private (`hf auth login`)"
        ) from error
    except errors.HfHubHTTPError as error:
        code = error.response.status_code if error.response is not None else "an error"
        raise ConnectionError(
            f"{where}: the hub answered {code}; run the same command later, what was loaded is kept"
        ) from error
    except (errors.HTTPError, OSError) as error:  # type: ignore[attr-defined]  # the base of its transport's errors
        if (
            isinstance(error, OSError)
            and error.errno is not None
            and not isinstance(error, ConnectionError | TimeoutError)
        ):
            raise  # a full disk is not the network
        hub, kind = _endpoint() or "https://huggingface.co", type(error).__name__
        raise ConnectionError(
            f"no connection to {hub} ({kind}); run the same command again, what was loaded is kept"
        ) from error


def _listing(repo: Repo) -> Remote:
    """Asks the hub for the commit (of `main` where none is pinned) and its files."""
    from huggingface_hub import HfApi

    with _hub(repo):
        info = HfApi(endpoint=_endpoint()).model_info(repo.id, revision=repo.revision, files_metadata=True, timeout=30)
    files = {f.rfilename: (f.size or 0, f.lfs.sha256 if f.lfs else f.blob_id or "") for f in info.siblings or []}
    return Remote(info.sha or "", files)


def _download(repo: Repo, path: str, part: Path, size: int) -> None:
    """Continues `part` up to `size` bytes; whatever arrived stays there when the connection breaks."""
    from huggingface_hub import hf_hub_url
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]  # exported, but not in __all__

    part.parent.mkdir(parents=True, exist_ok=True)
    if part.exists() and part.stat().st_size > size:
        part.unlink()
    url = hf_hub_url(repo.id, path, revision=repo.revision, endpoint=_endpoint())
    headers = {**build_hf_headers(library_name="voxport"), "Accept-Encoding": "identity"}
    with part.open("ab") as data, _hub(repo):
        http_get(url, data, resume_size=data.tell(), headers=headers, expected_size=size, displayed_filename=path)
