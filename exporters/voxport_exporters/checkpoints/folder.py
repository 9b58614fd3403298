"""Finds what a checkpoint's folder holds: its weights, the shards of an index, one model among several."""

import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath

import msgspec

from voxport_exporters.checkpoints import jsonfile

INDEX = ".safetensors.index.json"
SHARD = re.compile(r"(.+)-\d{5}-of-\d{5}\.safetensors")  # one of several files


def weights(folder: Path, *names: str) -> Path:
    """The file of weights in `folder`: the first of `names` that is there.

    Without names: the one index of shards, or the one .safetensors file.
    Raises FileNotFoundError when there is none, ValueError when there are several.
    """
    if names:
        for name in names:
            if (folder / name).is_file():
                return folder / name
        raise FileNotFoundError(f"{folder}: no {' or '.join(names)}")
    found = sorted(folder.glob(f"*{INDEX}")) or sorted(folder.glob("*.safetensors"))
    if shards := [path.name for path in found if SHARD.fullmatch(path.name)]:
        index = SHARD.sub(rf"\1{INDEX}", shards[0])
        raise FileNotFoundError(f"{folder}: lacks the index ({index}) of {', '.join(shards)}")
    if len(found) != 1:
        names = tuple(path.name for path in found)
        problem = FileNotFoundError if not found else ValueError
        raise problem(f"{folder}: wanted one .safetensors file or an index, found {', '.join(names) or 'none'}")
    return found[0]


def with_shards(path: Path) -> list[Path]:
    """A file of weights; or, of an index, the index and the shards it names."""
    if not path.name.endswith(INDEX):
        return [path]
    return [path, *sorted({path.parent / name for name in weight_map(path).values()})]


def weight_map(path: Path) -> dict[str, str]:
    """Key -> name of the shard that holds it, from a safetensors index.

    Raises ValueError when it is not an index, or when a shard's name leaves the folder of the index.
    """
    try:
        names = msgspec.convert(jsonfile.read(path)["weight_map"], dict[str, str])
    except (KeyError, msgspec.ValidationError):
        raise ValueError(f"{path}: not a safetensors index (no weight_map)") from None
    for name in names.values():
        windows, posix = PureWindowsPath(name), PurePosixPath(name)
        if not name.isprintable() or windows.drive or windows.root or posix.root or ".." in windows.parts:
            raise ValueError(f"{path}: the shard {name!r} is not in the folder of its index, where every shard lies")
    return names


def below(root: Path, mark: str) -> list[Path]:
    """The folders directly below `root` whose config.json contains the text `mark`."""
    configs = sorted(path for path in root.glob("*/config.json") if path.is_file())
    return [path.parent for path in configs if mark in path.read_text(errors="replace")]


def choose(root: Path, found: Sequence[tuple[str, Path]], variant: str | None, kind: str) -> Path:
    """The one path of `found`, pairs of a variant and a path, that is of `variant`, or the only one there is.

    Raises ValueError that lists what there is when none or several fit. `kind`: what a right folder is, with article.
    """
    fits = [path for name, path in found if variant in (None, name)]
    if len(fits) == 1:
        return fits[0]
    names = [name for name, _ in found]
    listed = [name if names.count(name) == 1 else f"{name} in {path.relative_to(root)}" for name, path in found]
    if not found:
        advice = f"is this {kind}?"
    elif fits and len({*names}) < len(names):
        advice = "several are of one variant: give the folder of one of them"
    else:
        advice = "choose one with --variant"
    raise ValueError(f"{root}: wanted {variant or 'one model'}, found {', '.join(listed) or 'none'}; {advice}")
