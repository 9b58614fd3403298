"""Whole folders: every file below one to a file at the same place below another."""

import sys
from collections.abc import Callable, Collection
from pathlib import Path

from tqdm import tqdm

from voxport.audio.pipe import PIPE


def each(
    source: Path, target: str, kinds: Collection[str], suffix: str, what: str, make: Callable[[Path, Path], None]
) -> list[str]:
    """`make(file, out)` for every file below `source` whose name ends in one of `kinds`; `out` ends in `suffix`.

    `what`: the kind of file, for messages. Returns one line per file that failed. Raises ValueError when there is
    nothing to do.
    """
    if target == PIPE:
        raise ValueError(f"{source}: is a folder; name an output folder")
    files = sorted(p for p in source.rglob("*") if p.suffix.lower() in kinds and p.is_file())
    if not files:
        raise ValueError(f"{source}: holds no {what} files ({', '.join(sorted(kinds))})")
    if Path(target).is_file():
        raise ValueError(f"{target}: is a file; {source} is a folder and needs an output folder")
    inputs = {p.resolve() for p in files}
    failed, done = [], set[Path]()
    for file in tqdm(files, desc=source.name, unit="file", disable=not sys.stderr.isatty(), delay=1):
        out = Path(target) / file.relative_to(source).with_suffix(suffix)
        try:
            if out.resolve() in inputs:
                raise ValueError(f"{out}: is one of the inputs; name another output folder")
            if out in done:
                raise ValueError(f"{file}: would overwrite {out}, made from a file of the same name")
            done.add(out)
            out.parent.mkdir(parents=True, exist_ok=True)
            make(file, out)
        except (ValueError, OSError) as error:
            text = " ".join(str(error).split())
            failed.append(text if str(file) in text else f"{file}: {text}")
    return failed
