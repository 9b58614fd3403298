"""`voxport convert`: files and pipes through a Converter, in bounded memory."""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, get_args

import click
from tqdm import tqdm

import voxport
from voxport.audio import files, pipe
from voxport.audio.files import Samples
from voxport.audio.pipe import PIPE
from voxport.bundle import Check
from voxport.cli.errors import BadInput
from voxport.cli.folder import each, report_failures
from voxport.cli.options import BUNDLE, CHECK, FACTOR, FLOAT, THREADS
from voxport.cli.output import refuse_overwriting
from voxport.systems import Converter, Mode, Stream

PIECE = 1 << 20  # samples at the model's rate per step: a block of a 1 Hz file would make 4 GB of them


@click.command(short_help="Convert the voice of a file, a folder or a pipe.")
@BUNDLE
@click.argument("source", metavar="IN")
@click.argument("target", metavar="OUT")
@click.option("--mode", type=click.Choice(get_args(Mode)), default="exact", show_default=True, help="See above.")
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
    check: Check,
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
    if rate is not None and source != PIPE:
        raise BadInput(f"--rate {rate}: only raw stdin (-) needs it; {source} says its own rate")
    if float32 and target == PIPE:
        raise BadInput("--float: raw stdout is 16-bit; name a .wav file")
    converter = voxport.load(bundle, threads=threads, check=check)
    if not isinstance(converter, Converter):
        raise BadInput(f"{bundle}: {converter.bundle.manifest.system} makes speech from text; use voxport say")
    options = Options(mode, chunk_factor, rate, float32)
    if source != PIPE and Path(source).is_dir():
        job = lambda file, out: convert_file(converter, str(file), str(out), options)  # noqa: E731
        report_failures(each(Path(source), target, files.READABLE, ".wav", "audio", job), target)
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
    def write(self, samples: Samples, /) -> object: ...


def convert_file(converter: Converter, source: str, target: str, options: Options) -> None:
    """Converts one file or pipe (`-`); a file is written whole or not at all.

    Raises ValueError in one line for audio that cannot be read, or an output that is the input.
    """
    if source == PIPE:
        rate, blocks = options.rate or converter.sample_rate, pipe.read_raw(sys.stdin.buffer)
    else:
        refuse_overwriting(source, target)
        rate, blocks = files.sample_rate(source), files.blocks(source)
    stream = converter.stream(options.mode, options.chunk_factor, rate)
    blocks = _cut(blocks, max(1, PIECE * rate // converter.sample_rate))
    if target == PIPE:
        _pump(stream, blocks, pipe.Pipe(sys.stdout.buffer), source)
    else:
        with files.Writer(target, converter.sample_rate, options.float32) as writer:
            _pump(stream, blocks, writer, source)


def _cut(blocks: Iterator[Samples], size: int) -> Iterator[Samples]:
    """The same samples in blocks of at most `size`."""
    for block in blocks:
        for start in range(0, len(block), size):
            yield block[start : start + size]


def _pump(stream: Stream, blocks: Iterator[Samples], sink: _Sink, name: str) -> None:
    count = 0
    with tqdm(desc=name, unit="s", unit_scale=True, delay=1, leave=False, disable=not sys.stderr.isatty()) as bar:
        for block in blocks:
            sink.write(stream.feed(block))
            count += len(block)
            bar.update(len(block) / stream.rate)
        if not count:
            raise ValueError(f"{name}: holds no samples; nothing to convert")
        sink.write(stream.flush())
