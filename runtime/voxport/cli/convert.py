"""`voxport convert`: files and pipes through a Converter, in bounded memory; files through a Revoicer."""

import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
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
from voxport.cli.options import BUNDLE, CHECK, FACTOR, FLOAT, SET, THREADS, settings_of
from voxport.cli.output import Progress, refuse_overwriting, write
from voxport.speech.settings import Value
from voxport.systems import Converter, Mode, Revoicer, Stream

PIECE = 1 << 20  # samples at the model's rate per step: a block of a 1 Hz file would make 4 GB of them


@click.command(short_help="Convert the voice of a file, a folder or a pipe.")
@BUNDLE
@click.argument("source", metavar="IN")
@click.argument("target", metavar="OUT")
@click.option("--mode", type=click.Choice(get_args(Mode)), help="See above. [exact]")
@click.option("--chunk-factor", type=FACTOR, help="Chunks per step. [1]")
@click.option("--rate", type=click.IntRange(1, 1_000_000), help="Sample rate of raw stdin in Hz. [the bundle's]")
@click.option(
    "--voice", help="Whose voice comes out, where a model knows several: a name, or an enrolled voice's file."
)
@click.option("--ref-audio", help="The same: the voice of this recording.")
@SET
@FLOAT
@THREADS
@CHECK
def convert(
    bundle: Path,
    source: str,
    target: str,
    mode: Mode | None,
    chunk_factor: int | None,
    rate: int | None,
    voice: str | None,
    ref_audio: str | None,
    pairs: tuple[str, ...],
    float32: bool,
    threads: int | None,
    check: Check,
) -> None:
    """Convert the voice of a file, of every audio file in a folder, or of raw 16-bit mono on stdin (`-`).

    Any sample rate and channel count goes in; out comes mono at the bundle's rate, as long as the input. A model that
    clones voices wants to know whose: --voice or --ref-audio. It takes files and folders, and has no modes.

    \b
    exact     sample-aligned streaming, equal to offline on every full chunk
    upstream  what upstream's streaming makes of it at this chunk factor, quirks included
    offline   upstream's whole-file result; ignores --chunk-factor

    \b
    Examples:
      voxport convert BUNDLE in.flac out.wav
      voxport convert BUNDLE recordings/ converted/ --mode offline
      voxport convert BUNDLE in.flac out.wav --voice me.safetensors
      arecord -t raw -f S16_LE -r 16000 | voxport convert BUNDLE - - | aplay -t raw -f S16_LE -r 16000
    """
    if rate is not None and source != PIPE:
        raise BadInput(f"--rate {rate}: only raw stdin (-) needs it; {source} says its own rate")
    if float32 and target == PIPE:
        raise BadInput("--float: raw stdout is 16-bit; name a .wav file")
    model = voxport.load(bundle, threads=threads, check=check)
    name = f"{bundle}: {model.bundle.manifest.system}"
    job: Callable[[str | Path, str | Path], None]
    if isinstance(model, Revoicer):
        if mode is not None or chunk_factor is not None or source == PIPE:
            raise BadInput(f"{name} converts whole files: it takes no --mode, no --chunk-factor and no stdin")
        job = partial(revoice_file, model, Whose(voice, ref_audio, settings_of(pairs)), float32)
    elif isinstance(model, Converter):
        if voice is not None or ref_audio is not None or pairs:
            raise BadInput(f"{name} has one voice and no settings: it takes no --voice, --ref-audio or --set")
        job = partial(convert_file, model, options=Options(mode or "exact", chunk_factor or 1, rate, float32))
    else:
        raise BadInput(f"{name} makes speech from text; use voxport say")
    if source != PIPE and Path(source).is_dir():
        report_failures(each(Path(source), target, files.READABLE, ".wav", "audio", job), target)
    else:
        job(source, target)
    if target != PIPE:
        click.echo(target)


@dataclass(frozen=True)
class Options:
    """How to convert; see `voxport convert --help`."""

    mode: Mode = "exact"
    chunk_factor: int = 1
    rate: int | None = None  # of raw stdin, in Hz
    float32: bool = False


@dataclass(frozen=True)
class Whose:
    """Whose voice comes out of a Revoicer, and how it is made."""

    voice: str | None
    ref_audio: str | None
    settings: Mapping[str, Value]


def revoice_file(model: Revoicer, whose: Whose, float32: bool, source: str | Path, target: str | Path) -> None:
    """Says what a file says in another voice; a file is written whole or not at all.

    Raises ValueError in one line for audio that cannot be read, or an output that is the input.
    """
    refuse_overwriting(str(source), str(target))
    samples, rate = files.read(source)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they are printed below, once
        try:
            speech = model.revoice(
                samples,
                rate,
                voice=whose.voice,
                ref_audio=whose.ref_audio,
                stream=str(target) == PIPE,
                **whose.settings,
            )
        except ValueError as error:
            raise ValueError(f"{source}: {error}") from error
        with speech:
            write(str(target), Progress(speech), model.sample_rate, float32)
    for warning in speech.warnings:
        click.echo(f"warning: {source}: {warning}", err=True)


class _Sink(Protocol):
    def write(self, samples: Samples, /) -> object: ...


def convert_file(converter: Converter, source: str | Path, target: str | Path, options: Options) -> None:
    """Converts one file or pipe (`-`); a file is written whole or not at all.

    Raises ValueError in one line for audio that cannot be read, or an output that is the input.
    """
    source, target = str(source), str(target)
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
