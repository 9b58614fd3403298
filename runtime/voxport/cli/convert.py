"""`voxport convert`: files and pipes through a Converter, in bounded memory."""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

import click

from voxport.cli.errors import BadInput
from voxport.cli.options import BUNDLE, CHECK, FACTOR, FLOAT, THREADS

if TYPE_CHECKING:  # numpy and onnxruntime are imported when the verb runs
    from voxport.audio.files import Samples
    from voxport.systems import Converter, Stream

Mode = Literal["exact", "upstream", "offline"]


@click.command(short_help="Convert the voice of a file, a folder or a pipe.")
@BUNDLE
@click.argument("source", metavar="IN")
@click.argument("target", metavar="OUT")
@click.option(
    "--mode", type=click.Choice(["exact", "upstream", "offline"]), default="exact", show_default=True, help="See above."
)
@click.option("--chunk-factor", type=FACTOR, default=1, show_default=True, help="Chunks per step.")
@click.option("--rate", type=click.IntRange(1, 1_000_000), help="Sample rate of raw stdin in Hz. [the bundle's]")
@FLOAT
@THREADS
@CHECK
def convert(
    bundle: Path,
    source: str,
    target: str,
    mode: Mode,
    chunk_factor: int,
    rate: int | None,
    float32: bool,
    threads: int | None,
    check: bool,
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
    from voxport.audio.pipe import PIPE
    from voxport.cli.folder import each, report_failures

    if rate is not None and source != PIPE:
        raise BadInput(f"--rate {rate}: only raw stdin (-) needs it; {source} says its own rate")
    if float32 and target == PIPE:
        raise BadInput("--float: raw stdout is 16-bit; name a .wav file")
    converter = load(bundle, threads=threads, check=check)
    if not isinstance(converter, Converter):
        raise BadInput(f"{bundle}: {converter.bundle.manifest.system} makes speech from text; use voxport say")
    options = Options(mode, chunk_factor, rate, float32)
    if source != PIPE and Path(source).is_dir():
        job = lambda file, out: convert_file(converter, str(file), str(out), options)  # noqa: E731
        report_failures(each(Path(source), target, READABLE, ".wav", "audio", job), target)
    else:
        convert_file(converter, source, target, options)
    if target != PIPE:
        click.echo(target)


@dataclass(frozen=True)
class Options:
    """How to convert; see `voxport convert --help`."""

    mode: Mode = "exact"
    chunk_factor: int = 1
    rate: int | None = None  # of raw stdin, in Hz
    float32: bool = False


class _Sink(Protocol):
    def write(self, samples: "Samples", /) -> object: ...


def convert_file(converter: "Converter", source: str, target: str, options: Options) -> None:
    """Converts one file or pipe (`-`); a file is written whole or not at all.

    Raises ValueError in one line for audio that cannot be read, or an output that is the input.
    """
    from voxport.audio import files, pipe

    if source == pipe.PIPE:
        rate, blocks = options.rate or converter.sample_rate, pipe.read_raw(sys.stdin.buffer)
    else:
        _refuse_overwriting(Path(source), target)
        rate, blocks = files.sample_rate(source), files.blocks(source)
    stream = converter.stream(options.mode, options.chunk_factor, rate)
    if target == pipe.PIPE:
        _pump(stream, blocks, pipe.Pipe(sys.stdout.buffer), source)
    else:
        with files.Writer(target, converter.sample_rate, options.float32) as writer:
            _pump(stream, blocks, writer, source)


def _pump(stream: "Stream", blocks: "Iterator[Samples]", sink: _Sink, name: str) -> None:
    from tqdm import tqdm

    count = 0
    with tqdm(desc=name, unit="s", unit_scale=True, delay=1, leave=False, disable=not sys.stderr.isatty()) as bar:
        for block in blocks:
            sink.write(stream.feed(block))
            count += len(block)
            bar.update(len(block) / stream.rate)
        if not count:
            raise ValueError(f"{name}: holds no samples; nothing to convert")
        sink.write(stream.flush())


def _refuse_overwriting(source: Path, target: str) -> None:
    if target != "-" and Path(target).exists() and source.exists() and Path(target).samefile(source):
        raise ValueError(f"{target}: is the input; name another output")
