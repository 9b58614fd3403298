"""Audio files in and out, and resampling that can be fed piece by piece.

Samples are float32 ``[n]``, one channel, full scale -1..1; rates are whole numbers of samples per second (Hz).
Bad input is a ValueError of one line that starts with the file's name; only a full or failing disk is an OSError.
"""

import math
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import numpy.typing as npt
import soundfile as sf
import soxr

Samples = npt.NDArray[np.float32]
File = str | os.PathLike[str]

BLOCK = 65536  # frames read or written at once; libsndfile's Vorbis encoder overflows its stack on millions
FORMATS = {".wav": "WAV", ".flac": "FLAC", ".ogg": "OGG", ".mp3": "MP3"}  # what Writer writes, by extension
MAX_RATE = 192_000  # Hz; above 200 kHz libsndfile's Vorbis encoder crashes the process instead of failing
MAX_TABLE = 4_000_000  # sinc kernel elements (16 MB)


def sample_rate(path: File) -> int:
    """The rate of an audio file in Hz. ValueError if it is not one."""
    with _open(path) as file:
        return int(file.samplerate)


def read(path: File) -> tuple[Samples, int]:
    """A whole audio file: its samples ``[n]`` (mean of the channels) and its rate. Errors as `blocks`."""
    return np.concatenate(list(blocks(path))), sample_rate(path)


def blocks(path: File, frames: int = BLOCK) -> Iterator[Samples]:
    """An audio file as blocks of `frames` mono samples (the last may be shorter), in memory one at a time.

    Reads whatever libsndfile reads. Integer formats are divided by full scale (PCM16 / 32768), channels are averaged,
    and float values beyond -1..1 are kept as they are. ValueError: not audio, unreadable, no samples, NaN or inf.
    """
    if frames < 1:
        raise ValueError(f"a block must hold at least 1 sample, not {frames}")
    done = 0
    with _open(path) as file:
        file.seekable = lambda: False  # else soundfile seeks after every read, and MP3 loses samples at each seek
        while True:
            try:
                block = file.read(frames, dtype="float32", always_2d=True)
            except sf.SoundFileError:
                raise ValueError(f"{path}: damaged somewhere after sample {done}") from None
            if not len(block):
                break
            mono: Samples = block[:, 0] if block.shape[1] == 1 else block.mean(axis=1)
            _finite(mono, path, done)
            done += len(mono)
            yield mono
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


def _mono(samples: npt.ArrayLike) -> Samples:
    mono = np.asarray(samples, np.float32)
    if mono.ndim != 1:
        raise ValueError(f"samples must be one channel [n], not {list(mono.shape)}")
    return mono


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
        except OSError as error:
            raise ValueError(f"{self.path}: cannot be written: {error.strerror}") from None
        try:
            self._file = sf.SoundFile(self._part, "w", self.rate, 1, subtype, format=self._kind)
        except BaseException as error:
            self._part.unlink()
            if not isinstance(error, sf.SoundFileError):
                raise
            raise ValueError(f"{self.path}: {self._kind.lower()} cannot hold a rate of {self.rate} Hz") from None
        return self

    def write(self, samples: npt.ArrayLike) -> None:
        """Append samples ``[n]``; values beyond -1..1 saturate (32-bit float keeps them). ValueError: NaN or inf."""
        mono = _mono(samples)
        _finite(mono, self.path, self.written)
        for start in range(0, len(mono), BLOCK):
            piece = mono[start : start + BLOCK]
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
            held = sf.info(self._part).frames if self.written else 0
        except sf.SoundFileError:
            held = -1
        if held != self.written:
            raise self._failed()

    def _failed(self) -> OSError:
        return OSError(f"{self.path}: could not be written to the end; is the disk full?")


def write(path: File, samples: npt.ArrayLike, rate: int, float32: bool = False) -> None:
    """Write samples ``[n]`` as one audio file, as `Writer` does."""
    with Writer(path, rate, float32) as file:
        file.write(samples)


def _ratio(source: int, target: int) -> tuple[int, int, int]:
    """The rates without their common divisor, and the filter's half width in samples of the source."""
    if source <= 0 or target <= 0:
        raise ValueError(f"sample rates must be above 0 Hz, not {source} -> {target}")
    divisor = math.gcd(source, target)
    source, target = source // divisor, target // divisor
    return source, target, math.ceil(6 * source / (min(source, target) * 0.99))


def sinc_kernel(source: int, target: int) -> tuple[Samples, int]:
    """The kernel ``[target', 2 * width + source']`` and width of torchaudio's Resample defaults (primes: rates / gcd).

    Hann-windowed sinc, 6 zero crossings to either side, roll-off 0.99: what upstream's load_audio hears through.
    Row p makes output sample p of every target'. ValueError for rates of 0 Hz and below.
    """
    source, target, width = _ratio(source, target)
    base = min(source, target) * 0.99
    taps = np.arange(-width, width + source) / source
    # torch divides whole numbers in float32: in float64 the 44.1 kHz kernel would be off by 2e-6.
    phase = np.arange(0, -target, -1, dtype=np.float32) / np.float32(target)
    t = np.clip((phase.astype(np.float64)[:, None] + taps) * base, -6, 6)
    window = np.cos(t * math.pi / 12) ** 2
    return (np.sinc(t) * window * (base / source)).astype(np.float32), width


class Resampler:
    """A stream of samples at rate `source` as a stream at rate `target`, equal bit for bit however it is split.

    n samples in make ceil(target * n / source) out, the last of them in `flush`; equal rates pass through.
    The filter is torchaudio's (`sinc_kernel`), and looks `width` samples ahead (0.4 ms at 44.1 kHz).
    Rates with next to no common divisor (44101 -> 16000: a table of 2.8 GB) go through soxr, quality VHQ, instead:
    upstream would build the table; soxr's filter is longer and cuts steeper, so those samples are not upstream's.
    Samples must be finite. ValueError for rates of 0 Hz and below.
    """

    def __init__(self, source: int, target: int) -> None:
        self.source, self.target = source, target
        self._step, self._phases, self._width = _ratio(source, target)
        self._taps = 2 * self._width + self._step
        self._direct = self._phases * self._taps <= MAX_TABLE
        if self._direct and source != target:
            kernel, _ = sinc_kernel(source, target)
            self._kernel = np.ascontiguousarray(kernel.T)
            # Windows are multiplied in blocks of fixed shape on a fixed grid, a half-filled block again when more has
            # come: BLAS sums a row in an order that depends on the block's shape and the row's place in it.
            self._rows = max(8, min(1024, 2**20 // kernel.size))
            self._signal = np.zeros((self._rows - 1) * self._step + self._taps, np.float32)
            self._windows = np.lib.stride_tricks.sliding_window_view(self._signal, self._taps)[:: self._step]
            self._matrix = np.empty(self._windows.shape, np.float32)
        self._start()

    def _start(self) -> None:
        self._received = self._made = 0
        if not self._direct:
            self._soxr = soxr.ResampleStream(self.source, self.target, 1, dtype="float32", quality="VHQ")
        self._pending = np.zeros(self._width, np.float32)  # from the first sample the unfinished block can see

    def feed(self, samples: npt.ArrayLike) -> Samples:
        """The next samples in ``[n]``, any n; the samples out ``[m]`` that they settle."""
        mono = _mono(samples)
        self._received += len(mono)
        if self.source == self.target:
            return mono.copy()
        if not self._direct:
            made: Samples = self._soxr.resample_chunk(np.ascontiguousarray(mono))
            self._made += len(made)
            return made
        # Output m sees the samples within `width` of m * step / phases; beyond them its row is exactly zero.
        seen = self._received - self._width
        return self._convolve(mono, seen * self._phases // self._step + 1 if seen >= 0 else 0)

    def flush(self) -> Samples:
        """The samples still owed at the end of the input ``[m]``; after it the resampler is as new."""
        total = -(-self._received * self._phases // self._step)
        if self.source == self.target:
            rest = np.empty(0, np.float32)
        elif self._direct:
            rest = self._convolve(np.empty(0, np.float32), total)
        else:  # soxr rounds the length to nearest: silence brings the sample that may be missing
            silence = np.zeros(self._step // self._phases + 2, np.float32)
            rest = self._soxr.resample_chunk(silence, last=True)[: total - self._made]
        self._start()
        return rest

    def _convolve(self, samples: Samples, until: int) -> Samples:
        """Output samples ``[made:until]``; what has not come yet counts as zero."""
        pending = np.concatenate([self._pending, samples])
        size, start, pieces = self._rows * self._phases, 0, [np.empty(0, np.float32)]
        while self._made < until:
            first = self._made % size
            last = min(size, first + until - self._made)
            known = pending[start : start + len(self._signal)]
            self._signal[: len(known)], self._signal[len(known) :] = known, 0
            np.copyto(self._matrix, self._windows)
            pieces.append((self._matrix @ self._kernel).reshape(-1)[first:last])
            self._made += last - first
            if last == size:
                start += self._rows * self._step
        self._pending = pending[start:]
        return np.concatenate(pieces)


def resample(samples: npt.ArrayLike, source: int, target: int) -> Samples:
    """Samples ``[n]`` at rate `source` as ``[ceil(target * n / source)]`` at rate `target`, as `Resampler` does."""
    resampler = Resampler(source, target)
    return np.concatenate([resampler.feed(samples), resampler.flush()])
