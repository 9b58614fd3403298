"""What the verbs write: audio to a file or to stdout, tokens to .npy files; and the progress of a Speech."""

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


def save_tokens(path: str, tokens: Tokens) -> None:
    """Writes a .npy file."""
    with Path(path).open("wb") as file:
        np.save(file, tokens, allow_pickle=False)


def load_tokens(path: str) -> Tokens:
    """Reads a .npy file. Raises ValueError when it is none."""
    try:
        array: Tokens = np.load(path, allow_pickle=False)
    except (ValueError, EOFError):
        raise ValueError("not a .npy file of tokens") from None
    return array
