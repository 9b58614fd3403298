"""Resampling that can be fed piece by piece, as torchaudio's Resample does it.

Samples are float32 ``[n]``, one channel; rates are whole numbers of samples per second (Hz).
"""

import math

import numpy as np
import numpy.typing as npt
import soxr

from voxport.audio.files import Samples, mono

MAX_TABLE = 4_000_000  # sinc kernel elements (16 MB)


def _ratio(source: int, target: int) -> tuple[int, int, int]:
    """The rates without their common divisor, and the filter's half width in samples of the source."""
    if source <= 0 or target <= 0:
        raise ValueError(f"sample rates must be above 0 Hz, not {source} -> {target}")
    divisor = math.gcd(source, target)
    source, target = source // divisor, target // divisor
    return source, target, math.ceil(6 * source / (min(source, target) * 0.99))


def sinc_kernel(source: int, target: int) -> tuple[Samples, int]:
    """The kernel ``[target', 2 * width + source']`` and width of torchaudio's Resample defaults (primes: rates / gcd).

    Hann-windowed sinc, 6 zero crossings to either side, roll-off 0.99: what upstream's load_audio resamples with.
    Row p makes output sample p of every target'. Raises ValueError for rates of 0 Hz and below.
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
    Besides what it returns, a call needs less than 300 MB at any rates. Samples must be finite.
    Raises ValueError for rates of 0 Hz and below.
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
        self._count_in = self._count_out = 0  # samples in, samples out
        if not self._direct:
            self._soxr = soxr.ResampleStream(self.source, self.target, 1, dtype="float32", quality="VHQ")
        self._pending = np.zeros(self._width, np.float32)  # from the first sample the unfinished block can see

    def feed(self, samples: npt.ArrayLike) -> Samples:
        """Takes the next samples ``[n]``, any n, and returns the samples ``[m]`` that they complete."""
        whole = mono(samples)
        self._count_in += len(whole)
        if self.source == self.target:
            return whole.copy()
        if not self._direct:
            output: Samples = self._soxr.resample_chunk(np.ascontiguousarray(whole))
            self._count_out += len(output)
            return output
        # Output m sees the samples within `width` of m * step / phases; beyond them its row is exactly zero.
        last = self._count_in - self._width
        return self._convolve(whole, last * self._phases // self._step + 1 if last >= 0 else 0)

    def flush(self) -> Samples:
        """The samples ``[m]`` that the end of the input completes; after it the resampler is as new."""
        total = -(-self._count_in * self._phases // self._step)
        if self.source == self.target:
            rest = np.empty(0, np.float32)
        elif self._direct:
            rest = self._convolve(np.empty(0, np.float32), total)
        else:  # soxr rounds the length to nearest: silence brings the sample that may be missing
            silence = np.zeros(self._step // self._phases + 2, np.float32)
            rest = self._soxr.resample_chunk(silence, last=True)[: total - self._count_out]
        self._start()
        return rest

    def _convolve(self, samples: Samples, until: int) -> Samples:
        """Output samples from where the last call stopped up to `until`; input that has not come yet counts as zero."""
        pending = np.concatenate([self._pending, samples])
        size, start, pieces = self._rows * self._phases, 0, [np.empty(0, np.float32)]
        while self._count_out < until:
            first = self._count_out % size
            last = min(size, first + until - self._count_out)
            present = pending[start : start + len(self._signal)]
            self._signal[: len(present)], self._signal[len(present) :] = present, 0
            np.copyto(self._matrix, self._windows)
            pieces.append((self._matrix @ self._kernel).reshape(-1)[first:last])
            self._count_out += last - first
            if last == size:
                start += self._rows * self._step
        self._pending = pending[start:]
        return np.concatenate(pieces)


def resample(samples: npt.ArrayLike, source: int, target: int) -> Samples:
    """Samples ``[n]`` at rate `source` as ``[ceil(target * n / source)]`` at rate `target`, as `Resampler` does."""
    resampler = Resampler(source, target)
    return np.concatenate([resampler.feed(samples), resampler.flush()])


def resample_reference(samples: npt.ArrayLike, source: int, target: int) -> Samples:
    """A recording to clone ``[n]`` as ``[ceil(n * target / source)]``, as upstream's librosa resamples it: soxr HQ."""
    whole = mono(samples)
    if source == target:
        return whole
    length = math.ceil(len(whole) * (target / source))  # librosa's arithmetic, in float64
    resampled: Samples = soxr.resample(whole, source, target, quality="HQ")[:length]
    return np.pad(resampled, (0, length - len(resampled)))
