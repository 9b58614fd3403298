"""Whole folders: every file below one to a file at the same place below another."""

import sys
from collections.abc import Callable, Collection
from pathlib import Path

import click
from tqdm import tqdm

from voxport.audio.pipe import PIPE
from voxport.cli.errors import BAD_INPUT, one_line


def each(
    source: Path, target: str, kinds: Collection[str], suffix: str, what: str, job: Callable[[Path, Path], None]
) -> list[str]:
    """Calls `job(file, out)` for every file below `source` whose name ends in one of `kinds`; `out` ends in `suffix`.

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
    failures, outputs = [], set[Path]()
    for file in tqdm(files, desc=source.name, unit="file", disable=not sys.stderr.isatty(), delay=1):
        out = Path(target) / file.relative_to(source).with_suffix(suffix)
        try:
            if out.resolve() in inputs:
                raise ValueError(f"{out}: is one of the inputs; name another output folder")
            if out in outputs:
                raise ValueError(f"{file}: would overwrite {out}, made from a file of the same name")
            outputs.add(out)
            out.parent.mkdir(parents=True, exist_ok=True)
            job(file, out)
        except BAD_INPUT as error:
            text = one_line(error)
            failures.append(text if str(file) in text else f"{file}: {text}")
    return failures


def report_failures(failures: list[str], target: str) -> None:
    """Prints which files of a folder failed. Raises ClickException (exit code 1) if any did."""
    for line in failures:
        click.echo(f"not converted: {line}", err=True)
    if failures:
        raise click.ClickException(f"{len(failures)} file(s) could not be converted; the rest is in {target}")
