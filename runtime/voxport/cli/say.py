"""The verbs of `voxport` for systems that make speech from text: say, enroll, tokenize, detokenize."""

import inspect
import json
import sys
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from voxport.cli.main import BUNDLE, NO_CHECK, THREADS, BadInput, main, told

if TYPE_CHECKING:
    from voxport.graphs.ort import Array

OUT = click.option("-o", "--out", required=True, help="File to write.")
FLOAT = click.option("--float", "float32", is_flag=True, help="Write 32-bit float instead of 16-bit PCM (wav only).")
SEED = click.option("--seed", type=int, default=0, show_default=True, help="Same seed, same tokens, same audio.")


@main.command()
@BUNDLE
@click.argument("text")
@OUT
@click.option("--voice", help="A name (a free text prefix for most checkpoints), or the file of an enrolled voice.")
@click.option("--language", help="Of the text, for systems that ask.")
@click.option("--instruct", help="How to say it, for systems that listen.")
@click.option("--ref-audio", help="Clone the voice of this recording.")
@click.option("--ref-text", help="What is said in the recording.")
@SEED
@click.option("--greedy", is_flag=True, help="The best token at every choice; no draws, no runaway guard.")
@click.option("--stream", is_flag=True, help="Write audio while tokens are still made; -o - plays at once.")
@click.option("--set", "given", multiple=True, metavar="NAME=VALUE", help="Any further setting, by upstream's name.")
@click.option("--save-tokens", "tokens", metavar="T.npy", help="Also write the generated tokens.")
@FLOAT
@THREADS
@click.option("--json", "as_json", is_flag=True, help="Print what happened as one JSON object.")
@NO_CHECK
def say(
    bundle: Path,
    text: str,
    out: str,
    seed: int,
    greedy: bool,
    stream: bool,
    given: tuple[str, ...],
    tokens: str | None,
    float32: bool,
    threads: int | None,
    as_json: bool,
    no_check: bool,
    **options: str | None,
) -> None:
    """Say a text (`-` reads it from stdin). OUT `-` is raw 16-bit mono on stdout.

    A generation that does not end by itself is cut; what was made is written, and the result says so ("stopped").

    \b
    Examples:
      voxport say BUNDLE "Hey there." -o hey.wav --voice zoe --seed 7
      voxport say BUNDLE "Hey there." -o hey.wav --ref-audio me.wav --ref-text "What I say in it."
      voxport say BUNDLE - -o - --stream < story.txt | aplay -t raw -f S16_LE -r 24000
      voxport say BUNDLE "Hey there." -o hey.wav --greedy --set dialect=classic --set max_new_tokens=200
    """
    from voxport.audio.pipe import PIPE
    from voxport.cli.output import Progress, save_tokens

    if out == PIPE and (as_json or float32):
        raise BadInput(f"{'--json' if as_json else '--float'}: stdout carries raw 16-bit audio; name a file")
    if text == PIPE:
        text = sys.stdin.read().removesuffix("\n")
    if any("\ud800" <= char <= "\udfff" for char in text):  # how Python hands on bytes that are none
        raise BadInput("the text is not UTF-8")
    if tokens is not None and not Path(tokens).absolute().parent.is_dir():
        raise BadInput(f"{tokens}: there is no such folder to write to")
    speaker = _speaker(bundle, threads, no_check, "say")
    settings: dict[str, Any] = {name: value for name, value in options.items() if value is not None}
    unknown = settings.keys() - inspect.signature(speaker.say).parameters.keys()
    if unknown:
        raise BadInput(f"{speaker.bundle.manifest.system} takes no --{min(unknown).replace('_', '-')}")
    if "stream" in inspect.signature(speaker.say).parameters:
        settings["stream"] = stream
    for pair in given:
        name, equals, value = pair.partition("=")
        if not equals or name in inspect.signature(speaker.say).parameters:
            raise BadInput(f"--set {pair}: wanted NAME=VALUE" + (f"; {name} has an option of its own" * bool(equals)))
        settings[name] = value
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they are printed below, once
        speech = speaker.say(text, seed=seed, greedy=greedy, **settings)
        progress = Progress(speech)
        try:
            _write(out, progress if stream else list(progress), speaker.sample_rate, float32)
        finally:
            for warning in speech.warnings:
                click.echo(f"warning: {warning}", err=True)
            if tokens is not None:
                save_tokens(tokens, speech.tokens)
    if as_json:
        click.echo(json.dumps({"out": out, "seed": seed} | progress.result(), indent=2))
    elif out != PIPE:
        click.echo(out)


@main.command()
@BUNDLE
@click.argument("ref")
@OUT
@click.option("--ref-text", help="What is said in the recording.")
@THREADS
@NO_CHECK
def enroll(bundle: Path, ref: str, out: str, ref_text: str | None, threads: int | None, no_check: bool) -> None:
    """Compute a cloned voice once: REF.wav to VOICE.safetensors, for `say --voice`.

    \b
    Example:
      voxport enroll BUNDLE me.wav --ref-text "What I say in it." -o me.safetensors
    """
    _speaker(bundle, threads, no_check, "enroll").enroll(ref, ref_text).save(out)
    click.echo(out)


@main.command()
@BUNDLE
@click.argument("source", metavar="IN")
@OUT
@THREADS
@NO_CHECK
def tokenize(bundle: Path, source: str, out: str, threads: int | None, no_check: bool) -> None:
    """Audio to the codec's tokens: a file to a .npy file, or a folder of them to a folder."""
    from voxport.audio import files as audio
    from voxport.audio.files import READABLE
    from voxport.cli.folder import each
    from voxport.cli.output import save_tokens

    codec = _speaker(bundle, threads, no_check, "tokenize")

    def one(file: str | Path, to: str | Path) -> None:
        save_tokens(str(to), codec.tokenize(*audio.read(file)))

    if Path(source).is_dir():
        told(each(Path(source), out, READABLE, ".npy", "audio", one), out)
    else:
        one(source, out)
    click.echo(out)


@main.command()
@BUNDLE
@click.argument("tokens")
@OUT
@SEED
@FLOAT
@THREADS
@NO_CHECK
def detokenize(
    bundle: Path, tokens: str, out: str, seed: int, float32: bool, threads: int | None, no_check: bool
) -> None:
    """The codec's tokens to audio: what `tokenize` or `say --save-tokens` wrote, or a folder of it."""
    from voxport.audio.pipe import PIPE
    from voxport.cli.folder import each
    from voxport.cli.output import load_tokens, write

    codec = _speaker(bundle, threads, no_check, "detokenize")

    def pieces(file: str | Path) -> "list[Array]":
        try:
            return list(codec.detokenize(load_tokens(str(file)), seed=seed))
        except ValueError as error:
            raise ValueError(f"{file}: {error}") from error

    if Path(tokens).is_dir():
        make = lambda file, to: write(str(to), pieces(file), codec.sample_rate, float32)  # noqa: E731
        told(each(Path(tokens), out, {".npy"}, ".wav", "token", make), out)
    else:
        _write(out, pieces(tokens), codec.sample_rate, float32)
    if out != PIPE:
        click.echo(out)


def _speaker(bundle: Path, threads: int | None, no_check: bool, verb: str) -> Any:
    from voxport import load

    speaker = load(bundle, threads=threads, check=not no_check)
    if not hasattr(speaker, verb):
        does = "converts voices; use voxport convert" if hasattr(speaker, "convert") else f"cannot {verb}"
        raise BadInput(f"{bundle}: {speaker.bundle.manifest.system} {does}")
    return speaker


def _write(out: str, chunks: "Iterable[Array]", rate: int, float32: bool) -> None:
    from voxport.cli.output import SilentError, write

    try:
        write(out, chunks, rate, float32)
    except SilentError as error:
        raise click.ClickException(str(error)) from error
