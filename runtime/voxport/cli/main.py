"""The `voxport` command: verbs of the runtime, and those the upper floors attach through entry points.

Results go to stdout, progress and logs to stderr. Exit codes: 0 fine, 1 a check failed, 2 bad usage or bad input.
"""

import json
import signal
import sys
import threading
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Literal

import click
import msgspec
from safetensors import SafetensorError

EXTRAS = {"parity": "parity"}  # verb -> the extra it needs; `export` when not named


class BadInput(click.ClickException):
    """One line on stderr, exit code 2. (A plain ClickException, a check that failed, exits with 1.)"""

    exit_code = 2


def one_line(error: BaseException) -> str:
    """What an exception says, as one line that starts with the file where it knows one."""
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    if isinstance(error, OSError) and error.strerror:
        text = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    if isinstance(error, MemoryError):
        text = f"out of memory. {text}"
    return " ".join(text.split()) or type(error).__name__


def _misused(error: click.UsageError) -> BadInput:
    """Click's four lines as one."""
    verb = error.ctx.command_path if error.ctx else "voxport"
    return BadInput(f"{one_line(BadInput(error.format_message())).rstrip('.')}; see `{verb} --help`")


class Commands(click.Group):
    """The verbs; turns what they raise into one line, so that bad input never shows a traceback."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args:
            return super().parse_args(ctx, args)  # `voxport` alone prints the help
        try:
            return super().parse_args(ctx, args)
        except click.UsageError as error:
            raise _misused(error) from error

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({*super().list_commands(ctx), *(e.name for e in entry_points(group="voxport.commands"))})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        own = super().get_command(ctx, cmd_name)
        if own is not None:
            return own
        for entry in entry_points(group="voxport.commands", name=cmd_name):
            return entry.load()  # type: ignore[no-any-return]
        return None

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except click.UsageError as error:
            raise _misused(error) from error
        except ModuleNotFoundError as error:
            extra = EXTRAS.get(ctx.invoked_subcommand or "", "export")
            raise BadInput(
                f"voxport {ctx.invoked_subcommand} needs {error.name}: pip install 'voxport[{extra}]'"
            ) from error
        except BrokenPipeError:
            raise  # whoever read our output has gone: no error of ours
        except (ValueError, KeyError, OSError, MemoryError, SafetensorError) as error:
            raise BadInput(one_line(error)) from error


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(package_name="voxport")
def main() -> None:
    """Speech models from PyTorch to small ONNX bundles: export, run without torch, prove parity.

    \b
    voxport export llvc CHECKPOINT -o BUNDLE --recipe int8    make a bundle (needs the export extra)
    voxport convert BUNDLE in.wav out.wav                     run it
    voxport verify BUNDLE                                     prove it on this machine
    voxport bench BUNDLE                                      how fast, how close to the machine's limit
    """
    if threading.current_thread() is threading.main_thread():  # temporary files go, as after Ctrl-C
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))


FACTOR = click.IntRange(1, 10_000)  # a step of two minutes: with more, memory is the limit
BUNDLE = click.argument("bundle", type=click.Path(path_type=Path))
THREADS = click.option(
    "--threads", type=click.IntRange(1, 256), help="Cores one step may use. [what the system runs best with]"
)
NO_CHECK = click.option("--no-check", is_flag=True, help="Skip comparing the bundle's files with their hashes.")


@main.command()
@BUNDLE
@click.argument("source", metavar="IN")
@click.argument("target", metavar="OUT")
@click.option("--mode", type=click.Choice(["exact", "upstream", "offline"]), default="exact", show_default=True)
@click.option("--chunk-factor", type=FACTOR, default=1, show_default=True, help="Chunks per step.")
@click.option("--rate", type=click.IntRange(1, 1_000_000), help="Sample rate of raw stdin in Hz. [the bundle's]")
@click.option("--float", "float32", is_flag=True, help="Write 32-bit float instead of 16-bit PCM (wav only).")
@THREADS
@NO_CHECK
def convert(
    bundle: Path,
    source: str,
    target: str,
    mode: Literal["exact", "upstream", "offline"],
    chunk_factor: int,
    rate: int | None,
    float32: bool,
    threads: int | None,
    no_check: bool,
) -> None:
    """Convert the voice of a file, of every audio file in a folder, or of raw 16-bit mono on stdin (`-`).

    Any sample rate and channel count goes in; out comes mono at the bundle's rate, as long as the input.

    \b
    exact     sample-aligned streaming, equal to offline on every full chunk
    upstream  what upstream's streaming makes of it at this chunk factor, quirks included
    offline   upstream's whole-file result; ignores --chunk-factor

    \b
    Examples:
      voxport convert BUNDLE in.flac out.wav
      voxport convert BUNDLE recordings/ converted/ --mode offline
      arecord -t raw -f S16_LE -r 16000 | voxport convert BUNDLE - - | aplay -t raw -f S16_LE -r 16000
    """
    from voxport import Converter, load
    from voxport.audio.files import READABLE
    from voxport.cli import convert as job
    from voxport.cli.folder import each

    if rate is not None and source != "-":
        raise BadInput(f"--rate {rate}: only raw stdin (-) needs it; {source} says its own rate")
    if float32 and target == "-":
        raise BadInput("--float: raw stdout is 16-bit; name a .wav file")
    converter = load(bundle, threads=threads, check=not no_check)
    if not isinstance(converter, Converter):
        raise BadInput(f"{bundle}: {converter.bundle.manifest.system} makes speech from text; use voxport say")
    options = job.Options(mode, chunk_factor, rate, float32)
    if source != "-" and Path(source).is_dir():
        kinds = READABLE, ".wav", "audio"
        told(each(Path(source), target, *kinds, lambda a, b: job.one(converter, str(a), str(b), options)), target)
    else:
        job.one(converter, source, target, options)
    if target != "-":
        click.echo(target)


def told(failed: list[str], target: str) -> None:
    """Says which files of a folder failed; exit code 1 if any did."""
    for line in failed:
        click.echo(f"not converted: {line}", err=True)
    if failed:
        raise click.ClickException(f"{len(failed)} file(s) could not be converted; the rest is in {target}")


@main.command()
@BUNDLE
@click.option("--json", "as_json", is_flag=True, help="Print the manifest and the graphs' tensors as JSON.")
@NO_CHECK
def info(bundle: Path, as_json: bool, no_check: bool) -> None:
    """Say what a bundle is: system, source, recipe, sizes, and every graph's inputs, outputs and state."""
    from voxport.bundle import Bundle

    opened = Bundle(bundle, check=not no_check)
    manifest = opened.manifest
    stages = {name: opened.session(name).stage for name in manifest.stages}
    if as_json:
        tensors = {
            name: {kind: [str(t) for t in getattr(s, kind)] for kind in ("inputs", "outputs", "state")}
            for name, s in stages.items()
        }
        click.echo(json.dumps({"manifest": msgspec.to_builtins(manifest), "graphs": tensors}, indent=2))
        return
    click.echo(f"{manifest.system} ({manifest.variant}), {manifest.sample_rate} Hz, {opened.bytes / 1e6:.2f} MB")
    click.echo(f"recipe {manifest.recipe}, target {manifest.target}, made with {_listed(manifest.tools)}")
    source = manifest.source
    where = _listed(source.repos, " at ") if source.repos else "a local checkpoint"
    click.echo(f"from {where}: {', '.join(source.files)}")
    for name, stage in stages.items():
        record = manifest.stages[name]
        quantized = "" if record.error_db is None else f", quantized: {record.error_db:.1f} dB, x{record.speed_up:.2f}"
        click.echo(f"\n{name}: {record.weight_bytes / 1e6:.2f} MB of weights{quantized}")
        for kind in ("inputs", "outputs", "state"):
            for tensor in getattr(stage, kind):
                click.echo(f"  {kind.rstrip('s'):7} {tensor}")


@main.command()
@BUNDLE
@THREADS
@click.option("--json", "as_json", is_flag=True)
def verify(bundle: Path, threads: int | None, as_json: bool) -> None:
    """Prove a bundle on this machine, without torch: hashes, then the outputs recorded at export. Exit 1 on drift."""
    from voxport.bundle import Bundle
    from voxport.verify import BrokenError
    from voxport.verify import verify as run

    Bundle(bundle, check=False)  # no bundle at all is bad input; anything wrong with one is a check that failed
    try:
        rows = run(bundle, threads)
    except BrokenError as error:
        raise click.ClickException(one_line(error)) from error
    if as_json:
        click.echo(json.dumps([row.as_dict() for row in rows], indent=2))
    else:
        for row in rows:
            click.echo(f"{row.name:16} max {row.max_abs:.1e}  bound {row.bound:.0e}  {'ok' if row.ok else 'DRIFTED'}")
    if not all(row.ok for row in rows):
        raise click.ClickException(f"{bundle}: this machine computes something else than the one that exported it")


@main.command()
@BUNDLE
@click.option("--seconds", type=click.FloatRange(0.1), default=10.0, show_default=True, help="Audio to make.")
@click.option("--chunk-factor", type=FACTOR, default=1, show_default=True, help="llvc: chunks per step.")
@THREADS
@click.option("--json", "as_json", is_flag=True)
def bench(bundle: Path, seconds: float, chunk_factor: int, threads: int | None, as_json: bool) -> None:
    """Measure a bundle against this machine's own limits, in the same run.

    rtf is compute seconds per second of audio; "of limit" is the time the weights and operations would take at the
    memory bandwidth and matmul rate just measured, over the time they took.
    """
    from voxport.bench import run as job

    result = job.bench(bundle, seconds, threads, chunk_factor)
    click.echo(json.dumps(result, indent=2) if as_json else job.table(result))


def _listed(pairs: dict[str, str], between: str = " ") -> str:
    return ", ".join(f"{name}{between}{value}" for name, value in pairs.items())
