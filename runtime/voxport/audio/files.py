"""Audio files in and out.

Samples are float32 ``[n]``, one channel, full scale -1..1; rates are whole numbers of samples per second (Hz).
Bad input is a ValueError of one line that starts with the file's name; only a full or failing disk is an OSError.
"""

import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import numpy.typing as npt
import soundfile as sf

Samples = npt.NDArray[np.float32]
File = str | os.PathLike[str]

VALUES = 1 << 22  # frames times channels read at once: a header may claim 1024 channels
BLOCK = 65536  # frames read or written at once; libsndfile's Vorbis encoder overflows its stack on millions
FORMATS = {".wav": "WAV", ".flac": "FLAC", ".ogg": "OGG", ".mp3": "MP3"}  # what Writer writes, by extension
# Extensions that a folder is searched for.
READABLE = {
    ".wav",
    ".flac",
    ".ogg",
    ".oga",
    ".opus",
    ".mp3",
    ".aif",
    ".aiff",
    ".au",
    ".caf",
    ".w64",
    ".rf64",
    ".snd",
}
MAX_RATE = 192_000  # Hz; above 200 kHz libsndfile's Vorbis encoder crashes the process instead of failing


def sample_rate(path: File) -> int:
    """The rate of an audio file in Hz. ValueError if it is not one."""
    with _open(path) as file:
        return int(file.samplerate)


def duration(path: File) -> float:
    """The length of an audio file in seconds as its header says it. ValueError if it is not one."""
    with _open(path) as file:
        return float(file.frames / file.samplerate)


def read(path: File) -> tuple[Samples, int]:
    """A whole audio file: its samples ``[n]`` (mean of the channels) and its rate. Errors as `blocks`."""
    return np.concatenate(list(blocks(path))), sample_rate(path)


def blocks(path: File, frames: int = BLOCK) -> Iterator[Samples]:
    """An audio file as blocks of `frames` mono samples, in memory one at a time.

    The last block may be shorter, as are those of a file with more than VALUES / frames channels. Reads whatever
    libsndfile reads. Integer formats are divided by full scale (PCM16 / 32768), channels are averaged, and float values
    beyond -1..1 are kept as they are. Raises ValueError when the file is not audio, cannot be read, or holds no samples
    or NaN or inf.
    """
    if frames < 1:
        raise ValueError(f"a block must hold at least 1 sample, not {frames}")
    done = 0
    with _open(path) as file:
        size = max(1, min(frames, VALUES // file.channels))
        file.seekable = lambda: False  # else soundfile seeks after every read, and MP3 loses samples at each seek
        while True:
            try:
                block = file.read(size, dtype="float32", always_2d=True)
            except sf.SoundFileError:
                raise ValueError(f"{path}: damaged somewhere after sample {done}") from None
            if not len(block):
                break
            samples: Samples = block[:, 0] if block.shape[1] == 1 else block.mean(axis=1)
            _finite(samples, path, done)
            done += len(samples)
            yield samples
    if not done:
        raise ValueError(f"{path}: holds no samples")


def _open(path: File) -> sf.SoundFile:
    try:
        Path(path).open("rb").close()  # libsndfile calls a missing file a "System error"
        return sf.SoundFile(path)
    except OSError as error:
        raise ValueError(f"{path}: cannot be read: {error.strerror}") from None
    except (sf.SoundFileError, TypeError):  # TypeError: the extension .raw, whatever is inside
        raise ValueError(f"{path}: not an audio file (wav, flac, ogg, mp3 and others are)") from None


def _finite(samples: Samples, path: File, start: int) -> None:
    if not np.isfinite(samples).all():
        bad = int(np.argmin(np.isfinite(samples)))
        raise ValueError(f"{path}: sample {start + bad} is {samples[bad]}, not a number between -1 and 1")


def mono(samples: npt.ArrayLike) -> Samples:
    """Samples as float32 [n]. ValueError for another number of axes."""
    one = np.asarray(samples, np.float32)
    if one.ndim != 1:
        raise ValueError(f"samples must be one channel [n], not {list(one.shape)}")
    return one


def pcm16(samples: Samples) -> npt.NDArray[np.int16]:
    """Samples as 16-bit integers, rounded to nearest and saturated; undoes ``int16 / 32768`` exactly."""
    scaled: Samples = np.rint(samples * np.float32(32768))
    return np.clip(scaled, -32768, 32767).astype(np.int16)


class Writer:
    """A mono audio file written piece by piece: it appears whole when the ``with`` block ends, or not at all.

    16-bit PCM (32-bit float with `float32`; ogg and mp3 code the 16-bit samples), format by the extension, no dither,
    normalisation or trimming. Until the end a hidden ``.part`` file in the same folder holds the data; any exception
    removes it and leaves an older `path` untouched. ValueError: the path, the rate or the samples are no good;
    OSError: the disk is full. `written` counts samples.
    """

    def __init__(self, path: File, rate: int, float32: bool = False) -> None:
        kind = FORMATS.get(Path(path).suffix.lower())
        if kind is None:
            raise ValueError(f"{path}: unknown audio extension; use one of {', '.join(FORMATS)}")
        if float32 and kind != "WAV":
            raise ValueError(f"{path}: {kind.lower()} cannot hold 32-bit float; write .wav")
        if not 1 <= rate <= MAX_RATE:
            raise ValueError(f"{path}: the sample rate must be 1 to {MAX_RATE} Hz, not {rate}")
        if Path(path).is_dir():
            raise ValueError(f"{path}: cannot be written: it is a folder")
        self.path, self.rate, self.written = path, rate, 0
        self._kind, self._float = kind, float32
        self._target = Path(os.path.realpath(path))  # through a link, not over it
        self._part = self._target.with_name(f".{secrets.token_hex(8)}.part")

    def __enter__(self) -> Self:
        subtype = "FLOAT" if self._float else "PCM_16" if self._kind in ("WAV", "FLAC") else None
        try:
            self._part.touch(exist_ok=False)  # says why it cannot be written, which libsndfile does not
            self._file = sf.SoundFile(self._part, "w", self.rate, 1, subtype, format=self._kind)
        except BaseException as error:  # an interrupt, too, leaves nothing
            self._part.unlink(missing_ok=True)
            if isinstance(error, sf.SoundFileError):
                raise ValueError(f"{self.path}: {self._kind.lower()} cannot hold a rate of {self.rate} Hz") from None
            if isinstance(error, OSError):
                raise ValueError(f"{self.path}: cannot be written: {error.strerror}") from None
            raise
        return self

    def write(self, samples: npt.ArrayLike) -> None:
        """Append samples ``[n]``; values beyond -1..1 saturate (32-bit float keeps them). ValueError: NaN or inf."""
        whole = mono(samples)
        _finite(whole, self.path, self.written)
        for start in range(0, len(whole), BLOCK):
            piece = whole[start : start + BLOCK]
            try:
                self._file.write(piece if self._float else pcm16(piece))
            except (sf.SoundFileError, AssertionError):  # soundfile asserts that every sample was taken
                raise self._failed() from None
            self.written += len(piece)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            try:
                self._file.close()
            except sf.SoundFileError:
                if kind is None:
                    raise self._failed() from None
            if kind is None:
                self._check()
                self._part.replace(self._target)
        finally:
            self._part.unlink(missing_ok=True)

    def _check(self) -> None:
        # close() is silent when the encoder's last bytes find no room: only the finished file tells.
        try:
            frames = sf.info(self._part).frames if self.written else 0
        except sf.SoundFileError:
            frames = -1
        if frames != self.written:
            raise self._failed()

    def _failed(self) -> OSError:
        return OSError(f"{self.path}: could not be written to the end; is the disk full?")


def write(path: File, samples: npt.ArrayLike, rate: int, float32: bool = False) -> None:
    """Write samples ``[n]`` as one audio file, as `Writer` does."""
    with Writer(path, rate, float32) as file:
        file.write(samples)
