"""The verbs for systems that make speech from text: say, enroll, tokenize, detokenize."""

import json
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import click

import voxport
from voxport.audio import files
from voxport.audio.files import Samples
from voxport.audio.pipe import PIPE
from voxport.bundle import Check
from voxport.cli.errors import BadInput
from voxport.cli.folder import each, report_failures
from voxport.cli.options import BUNDLE, CHECK, FLOAT, OUT, SEED, SET, THREADS, settings_of
from voxport.cli.output import (
    Progress,
    SilentError,
    load_tokens,
    refuse_overwriting,
    refuse_token_path,
    save_tokens,
    write,
)
from voxport.speech.voices import check_target
from voxport.systems import Codec, Speaker


@click.command(short_help="Say a text.")
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
@SET
@click.option("--save-tokens", "tokens", metavar="T.npy", help="Also write the generated tokens.")
@FLOAT
@THREADS
@click.option("--json", "as_json", is_flag=True, help="Print what happened as one JSON object.")
@CHECK
def say(
    bundle: Path,
    text: str,
    out: str,
    voice: str | None,
    language: str | None,
    instruct: str | None,
    ref_audio: str | None,
    ref_text: str | None,
    seed: int,
    greedy: bool,
    stream: bool,
    pairs: tuple[str, ...],
    tokens: str | None,
    float32: bool,
    threads: int | None,
    as_json: bool,
    check: Check,
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
    if out == PIPE and (as_json or float32):
        raise BadInput(f"{'--json' if as_json else '--float'}: stdout carries raw 16-bit audio; name a file")
    if tokens is not None:
        refuse_token_path(tokens)
    if ref_audio is not None:
        refuse_overwriting(ref_audio, out)
    settings = settings_of(pairs)
    text = _text(text)
    speaker = _speaker(bundle, threads, check)
    silent: SilentError | None = None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they are printed below, once
        with speaker.say(
            text,
            voice=voice,
            language=language,
            instruct=instruct,
            ref_audio=ref_audio,
            ref_text=ref_text,
            seed=seed,
            greedy=greedy,
            stream=stream,
            **settings,
        ) as speech:
            progress = Progress(speech)
            try:
                write(out, progress if stream else progress.whole(), speaker.sample_rate, float32)
            except SilentError as error:
                silent = error
            finally:
                for warning in speech.warnings:
                    click.echo(f"warning: {warning}", err=True)
    if tokens is not None:
        save_tokens(tokens, speech.tokens)
    if silent is not None:
        raise click.ClickException(str(silent)) from silent
    if as_json:
        click.echo(json.dumps({"out": out, "seed": seed} | progress.result(), indent=2))
    elif out != PIPE:
        click.echo(out)


def _text(argument: str) -> str:
    """The text to say, which `-` reads from stdin."""
    try:
        text = sys.stdin.read().removesuffix("\n") if argument == PIPE else argument
    except UnicodeDecodeError:
        raise BadInput("the text is not UTF-8") from None
    if any("\ud800" <= char <= "\udfff" for char in text):  # how Python passes on bytes that are not UTF-8
        raise BadInput("the text is not UTF-8")
    return text


@click.command(short_help="Compute a cloned voice once.")
@BUNDLE
@click.argument("ref")
@OUT
@click.option("--ref-text", help="What is said in the recording.")
@THREADS
@CHECK
def enroll(bundle: Path, ref: str, out: str, ref_text: str | None, threads: int | None, check: Check) -> None:
    """Compute a cloned voice once: REF.wav to VOICE.safetensors, for `say --voice`.

    \b
    Example:
      voxport enroll BUNDLE me.wav --ref-text "What I say in it." -o me.safetensors
    """
    check_target(out)
    _speaker(bundle, threads, check).enroll(ref, ref_text).save(out)
    click.echo(out)


@click.command(short_help="Audio to the codec's tokens.")
@BUNDLE
@click.argument("source", metavar="IN")
@OUT
@THREADS
@CHECK
def tokenize(bundle: Path, source: str, out: str, threads: int | None, check: Check) -> None:
    """Audio to the codec's tokens: a file to a .npy file, or a folder of them to a folder.

    \b
    Examples:
      voxport tokenize BUNDLE me.wav -o me.npy
      voxport tokenize BUNDLE recordings/ -o tokens/
    """
    is_folder = Path(source).is_dir()
    if not is_folder:
        refuse_token_path(out)
        refuse_overwriting(source, out)
    codec = _codec(bundle, threads, check)

    def tokenize_file(file: str | Path, target: str | Path) -> None:
        save_tokens(target, codec.tokenize(*files.read(file)))

    if is_folder:
        report_failures(each(Path(source), out, files.READABLE, ".npy", "audio", tokenize_file), out)
    else:
        tokenize_file(source, out)
    click.echo(out)


@click.command(short_help="The codec's tokens to audio.")
@BUNDLE
@click.argument("tokens")
@OUT
@SEED
@FLOAT
@THREADS
@CHECK
def detokenize(
    bundle: Path, tokens: str, out: str, seed: int, float32: bool, threads: int | None, check: Check
) -> None:
    """The codec's tokens to audio: what `tokenize` or `say --save-tokens` wrote, or a folder of it.

    \b
    Examples:
      voxport detokenize BUNDLE me.npy -o me.wav
      voxport detokenize BUNDLE tokens/ -o recordings/
    """
    if float32 and out == PIPE:
        raise BadInput("--float: stdout carries raw 16-bit audio; name a file")
    codec = _codec(bundle, threads, check)

    def chunks(file: str | Path) -> Iterator[Samples]:
        try:
            yield from codec.detokenize(load_tokens(file), seed=seed)
        except ValueError as error:
            raise ValueError(f"{file}: {error}") from error

    def detokenize_file(file: str | Path, target: str | Path) -> None:
        write(str(target), chunks(file), codec.sample_rate, float32)

    if Path(tokens).is_dir():
        report_failures(each(Path(tokens), out, {".npy"}, ".wav", "token", detokenize_file), out)
    else:
        try:
            detokenize_file(tokens, out)
        except SilentError as error:
            raise click.ClickException(str(error)) from error
    if out != PIPE:
        click.echo(out)


def _speaker(bundle: Path, threads: int | None, check: Check) -> Speaker:
    """The Speaker of a bundle. Raises BadInput when its system does not speak."""
    model = voxport.load(bundle, threads=threads, check=check)
    if not isinstance(model, Speaker):
        raise BadInput(f"{bundle}: {model.bundle.manifest.system} converts voices; use voxport convert")
    return model


def _codec(bundle: Path, threads: int | None, check: Check) -> Codec:
    """The codec of a bundle. Raises BadInput when it has none."""
    model = voxport.load(bundle, threads=threads, check=check)
    if not isinstance(model, Codec):
        raise BadInput(f"{bundle}: {model.bundle.manifest.system} has no codec; use voxport convert")
    return model
