"""What the verbs write: audio to a file or to stdout, tokens to .npy files; and the progress of a Speech."""

import secrets
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from voxport.audio import files
from voxport.audio.files import Samples
from voxport.audio.pipe import PIPE, Pipe
from voxport.speech.speech import Speech

Tokens = npt.NDArray[np.generic]


class SilentError(ValueError):
    """There was no audio to write."""


class Progress:
    """Iterates a Speech's samples, shows progress and times it."""

    def __init__(self, speech: Speech) -> None:
        self.speech = speech
        self.start, self.first, self.seconds, self.samples = time.perf_counter(), 0.0, 0.0, 0

    def __iter__(self) -> Iterator[Samples]:
        rate = self.speech.sample_rate
        with tqdm(desc="say", unit="s", unit_scale=True, delay=1, leave=False, disable=not sys.stderr.isatty()) as bar:
            for chunk in self.speech:
                self.seconds = time.perf_counter() - self.start
                self.first = self.first or self.seconds
                self.samples += len(chunk.samples)
                bar.update(len(chunk.samples) / rate)
                yield chunk.samples
        self.seconds = time.perf_counter() - self.start

    def whole(self) -> Iterator[Samples]:
        """The same chunks, after the last of them has been made."""
        yield from list(self)

    def result(self) -> dict[str, Any]:
        """For `--json`: seconds of audio and of work, and why the generation stopped."""
        audio = self.samples / self.speech.sample_rate
        return {
            "sample_rate": self.speech.sample_rate,
            "samples": self.samples,
            "audio_s": round(audio, 4),
            "wall_s": round(self.seconds, 4),
            "rtf": round(self.seconds / audio, 4) if audio else None,
            "first_audio_s": round(self.first, 4),
            "tokens": len(self.speech.tokens),
            "stopped": self.speech.stopped,
            "warnings": self.speech.warnings,
        }


def refuse_overwriting(source: str, target: str) -> None:
    """Raises ValueError when `target` is the file `source`, be it by a link."""
    if PIPE in (source, target) or not Path(target).exists() or not Path(source).exists():
        return
    if Path(target).samefile(source):
        raise ValueError(f"{target}: is the input; name another output")


def write(out: str, chunks: Iterable[Samples], rate: int, float32: bool = False) -> None:
    """Writes chunks of float32 [n] to an audio file, or to stdout as raw 16-bit mono as they come when `out` is "-".

    Raises SilentError when there are no samples; an audio file is written whole or not at all.
    """
    if out == PIPE:
        _write_all(out, chunks, Pipe(sys.stdout.buffer))
    else:
        with files.Writer(out, rate, float32) as writer:
            _write_all(out, chunks, writer)


def _write_all(out: str, chunks: Iterable[Samples], sink: files.Writer | Pipe) -> None:
    count = 0
    for samples in chunks:
        sink.write(samples)
        count += len(samples)
    if not count:
        raise SilentError(f"{out}: no audio was made; nothing was written")


def refuse_token_path(path: str) -> None:
    """Raises ValueError where `save_tokens` could not write, so that nothing is computed in vain."""
    if path == PIPE:
        raise ValueError(f"{path}: tokens go into a .npy file; name one")
    if not Path(path).absolute().parent.is_dir():
        raise ValueError(f"{path}: there is no such folder to write to")
    if Path(path).is_dir():
        raise ValueError(f"{path}: is a folder; name a .npy file")


def save_tokens(path: str | Path, tokens: Tokens) -> None:
    """Writes a .npy file, whole or not at all."""
    target = Path(path).resolve()  # through a link, not over it
    part = target.with_name(f".{secrets.token_hex(8)}.part")
    try:
        with part.open("wb") as file:
            np.save(file, tokens, allow_pickle=False)
        part.replace(target)
    except OSError as error:
        raise OSError(f"{path}: cannot be written: {error.strerror or error}") from error
    finally:
        part.unlink(missing_ok=True)


def load_tokens(path: str | Path) -> Tokens:
    """Reads a .npy file that holds an array [n, ...]. Raises ValueError when it does not; OSError as `open`."""
    with Path(path).open("rb") as file:
        try:
            tokens: Tokens = np.lib.format.read_array(file, allow_pickle=False)
        except (ValueError, EOFError, MemoryError):  # MemoryError: a damaged header that claims petabytes
            raise ValueError("not a .npy file of tokens") from None
    if tokens.ndim == 0:
        raise ValueError("holds a single number; wanted an array of tokens")
    return tokens
