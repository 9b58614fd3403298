"""`voxport fetch` and `voxport lock`: checkpoints from the hub, as models.lock pins them."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from voxport.cli.errors import needs_extra, one_line


@contextmanager
def _hub_errors(verb: str) -> Iterator[None]:
    """Turns a missing extra into one line, and a file that differs from its pin into a check that failed (exit 1)."""
    with needs_extra(verb, "export"):
        from voxport_exporters.checkpoints.hub import ChangedError

        try:
            yield
        except ChangedError as error:
            raise click.ClickException(one_line(error)) from error


LOCK_FILE = click.option(
    "--lock-file", type=click.Path(path_type=Path, dir_okay=False), help="Another models.lock than voxport's own."
)


@click.command(short_help="Download a model, pinned and verified.")
@click.argument("name", required=False)
@click.option("-o", "--out", type=click.Path(path_type=Path, file_okay=False), help="Folder to download into. [NAME]")
@click.option("--list", "listing", is_flag=True, help="Print the names, systems, sizes, pins and licences, and stop.")
@LOCK_FILE
def fetch(name: str | None, out: Path | None, listing: bool, lock_file: Path | None) -> None:
    """Download a model: exactly the files models.lock pins, each verified by its sha256.

    An interrupted download is resumed by the same command; on a complete folder it only verifies, without network.

    \b
    Example:
      voxport fetch --list
      voxport fetch qwen3tts-0.6b-base -o checkpoints/base
      voxport export qwen3tts checkpoints/base -o bundle

    HF_ENDPOINT names another hub, HF_TOKEN (or `hf auth login`) opens gated repositories.
    """
    with _hub_errors("fetch"):
        from voxport_exporters.checkpoints import hub, lockfile

        if listing:
            for model in lockfile.read(lock_file).values():
                bytes_known = sum(file.bytes or 0 for file in model.files)
                size = f"{bytes_known / 1e6:,.0f} MB" if all(file.bytes for file in model.files) else "unknown"
                pins = f"{sum(file.sha256 is not None for file in model.files)}/{len(model.files)} pinned"
                click.echo(f"{model.name:26} {model.system:11} {size:>9}  {pins:13} {model.licence}")
            return
        if name is None:
            raise ValueError("voxport fetch: give a NAME (voxport fetch --list prints them)")
        unpinned = [file.path for file in hub.find(name, lock_file).files if not file.sha256]
        out = out or Path(name)
        hub.fetch(name, out, lock_file)
        if unpinned:
            todo = f"`voxport lock {name}` pins them"
            click.echo(f"{name}: not pinned, taken as the hub has them: {', '.join(unpinned)}; {todo}", err=True)
        click.echo(out)


@click.command(short_help="Compare and fill in a model's pins in models.lock.")
@click.argument("name")
@LOCK_FILE
def lock(name: str, lock_file: Path | None) -> None:
    """Compare a model's pins with the hub, fill in the missing ones, and rewrite models.lock.

    A pin that differs is refused (exit 1) and nothing is written. Comments in the file stay.

    \b
    Example:
      voxport lock t5gemma
      voxport lock llvc_nc --lock-file models.lock
    """
    with _hub_errors("lock"):
        from voxport_exporters.checkpoints import hub

        model = hub.lock(name, lock_file)
        click.echo(f"{name}: {len(model.files)} files pinned and confirmed")
