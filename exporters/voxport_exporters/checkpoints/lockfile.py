"""models.lock: which files each model is made of, read strictly, edited line by line. Its head explains the format."""

import json
import tomllib
from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal

import msgspec

Confidence = Literal["A", "A+V", "B", "B+V", "C", "?", "confirmed"]
Commit = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{40}$")]
Sha256 = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]

WEIGHTS = (".safetensors", ".bin", ".pth", ".pt")  # what makes a checkpoint that one and no other


class File(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """One file of a repository, pinned by its sha256, or one pattern of files nobody has pinned yet."""

    path: str
    save: str | None = None
    bytes: int | None = None
    sha256: Sha256 | None = None
    confidence: Confidence

    def __post_init__(self) -> None:
        """Holds the rule of the confidence column; raises ValueError naming the file."""
        _inside(self.path, self.save or "")
        _rule(self.path, self.confidence, self.sha256)
        if self.sha256 is None and self.bytes is not None:
            raise ValueError(f"{self.path}: bytes without sha256")
        if "*" in self.path and (self.sha256 or self.save):
            raise ValueError(f"{self.path}: a pattern has neither sha256 nor save")


class Repo(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """One repository of the hub, at one commit, and what is wanted of it."""

    id: str
    into: str = ""
    revision: Commit | None = None
    confidence: Confidence
    files: tuple[File, ...]

    def __post_init__(self) -> None:
        """Raises ValueError when the confidence column and the revision disagree."""
        _inside(self.into)
        _rule(self.id, self.confidence, self.revision)

    def claims(self, row: File, path: str) -> bool:
        """Whether a row means that file: a * never crosses a folder and leaves out what has a row of its own."""
        if "*" not in row.path or any(path == file.path for file in self.files):
            return row.path == path
        want, got = PurePosixPath(row.path), PurePosixPath(path)
        return want.parent == got.parent and fnmatchcase(got.name, want.name)


class Model(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """One name of `voxport fetch`."""

    name: str
    system: Annotated[
        str, msgspec.Meta(pattern="^[a-z0-9]+$")
    ]  # a test holds the names in models.lock to the known ones
    licence: str
    packaged: Mapping[str, str] = {}
    repo: tuple[Repo, ...]

    def __post_init__(self) -> None:
        """Raises ValueError when a path leaves the checkpoint."""
        _inside(*self.packaged, *self.packaged.values())

    @property
    def files(self) -> list[File]:
        """The files of all its repositories."""
        return [file for repo in self.repo for file in repo.files]


def _rule(name: str, confidence: Confidence, pin: str | None) -> None:
    if (confidence in ("C", "?")) != (pin is None):
        raise ValueError(f"{name}: confidence {confidence} {'pins nothing' if pin else 'needs a pin'}")


def _inside(*paths: str) -> None:
    for path in paths:
        if path.startswith("/") or "\\" in path or ".." in path.split("/"):
            raise ValueError(f"{path}: wanted a path inside the checkpoint")


class _Lock(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    model: tuple[Model, ...]


def default_path() -> Path:
    """The lock beside the installed package, else the one at the root of the source tree."""
    here = Path(__file__).resolve()
    packaged = here.parents[1] / "models.lock"
    return packaged if packaged.exists() else here.parents[3] / "models.lock"


def parse(text: str, where: str = "models.lock") -> dict[str, Model]:
    """The models by name. Raises ValueError, naming `where` and the place, for anything the format does not know."""
    try:
        models = msgspec.convert(tomllib.loads(text), _Lock).model
    except (tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise ValueError(f"{where}: {error}") from error
    named = {model.name: model for model in models}
    if len(named) != len(models):
        raise ValueError(f"{where}: two models have the same name")
    return named


def read(path: Path | None = None) -> dict[str, Model]:
    """The models of a lock file. Raises FileNotFoundError, and ValueError as `parse` does."""
    path = path or default_path()
    return parse(path.read_text("utf-8"), str(path))


def edit(text: str, model: Model) -> str:
    """`text` with the facts of `model` written into its entry: comments, order and all other entries stay as they are.

    Raises ValueError when the entry is not laid out one file per line: the result would not say what `model` says.
    """
    lines: list[str] = []
    name, old, new = "", None, None
    pairs = iter(zip(parse(text)[model.name].repo, model.repo, strict=True))
    left: list[File] = []
    for line in text.splitlines():
        key = line.partition("=")[0].strip()
        if key == "[[model]]":
            name, old, new = "", None, None
        elif key == "name" and old is None:
            name = tomllib.loads(line)["name"]
        elif key == "[[model.repo]]" and name == model.name:
            old, new = next(pairs)
            left = list(new.files)
        elif old and new and key == "confidence":
            if old.revision is None and new.revision is not None:
                lines.append(f"revision = {json.dumps(new.revision)}")
            comment = line.partition("#")[2]
            line = f"confidence = {json.dumps(new.confidence)}" + (f"  #{comment}" if comment else "")
        elif old and key.startswith("{"):
            fields, _, rest = line.rpartition("}")
            row = msgspec.convert(tomllib.loads(f"row = {fields}}}")["row"], File)
            found = [file for file in left if old.claims(row, file.path)]
            left = [file for file in left if file not in found]
            lines += [line if file == row else f"  {_row(file)}{rest}" for file in found]
            continue
        lines.append(line)
    result = "\n".join(lines) + "\n"
    if parse(result).get(model.name) != model:
        raise ValueError(f"models.lock: cannot edit {model.name}: write every file on one line of its own")
    return result


def _row(file: File) -> str:
    facts = msgspec.to_builtins(file)
    return "{ " + ", ".join(f"{key} = {json.dumps(value)}" for key, value in facts.items()) + " }"


def holding(hashes: set[str], lock_file: Path | None = None) -> dict[str, str]:
    """id -> revision of the repositories that hold a file of weights of one of these sha256.

    Configs do not count: many checkpoints that were trained further have those of the model they began as.
    """
    repos = [repo for model in read(lock_file).values() for repo in model.repo]
    weights = ((r, {f.sha256 for f in r.files if f.path.endswith(WEIGHTS)}) for r in repos)
    return {r.id: r.revision for r, pinned in weights if r.revision and hashes & pinned}
