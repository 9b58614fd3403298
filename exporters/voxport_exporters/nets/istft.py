"""STFT and ISTFT without complex numbers: one convolution each, for any n_fft, hop and window.

A spectrum is [1, 2 * bins, frames]: the real parts of the n_fft / 2 + 1 bins, then their imaginary parts. Frame k is
about the samples hop * k - n_fft / 2 .. hop * k + n_fft / 2, as torch's centred transforms have it.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from voxport_exporters.nets.dense import frozen
from voxport_exporters.nets.states import States

LEAST_COVER = 1e-11  # torch.istft refuses samples whose windows add up to less; here they are divided by it


def hann(n_fft: int) -> Tensor:
    """The periodic Hann window, float64 [n_fft]."""
    return torch.hann_window(n_fft, periodic=True, dtype=torch.float64)


class Stft(nn.Module):
    """Samples [1, 1, n_fft + hop * (frames - 1)] -> spectrum of as many frames; whoever calls it pads."""

    def __init__(self, window: Tensor, hop: int) -> None:
        """window float64 [n_fft], n_fft even."""
        super().__init__()
        cosines, sines = _waves(len(window))
        self.hop = hop
        self.weight = frozen((torch.cat((cosines, -sines)) * window)[:, None].to(torch.float32))

    def forward(self, x: Tensor) -> Tensor:
        return F.conv1d(x, self.weight, stride=self.hop)


class Istft(nn.Module):
    """Overlap-add as a causal convolution over frames: [1, 2 * bins, frames] -> samples [frames * hop].

    Of frame k come the `hop` samples from hop * k - n_fft / 2 on, which no later frame reaches. So of a whole signal
    the first n_fft / 2 samples are before its start, and its last n_fft / 2 come with the frames after its last one,
    which are not there. The windows that cover a sample are summed up beside it, from one more channel that says which
    frames are there, and it is divided by their sum: at both ends fewer frames cover it.
    """

    def __init__(self, window: Tensor, hop: int) -> None:
        """window float64 [n_fft], n_fft even."""
        super().__init__()
        n_fft = len(window)
        self.hop, self.reach = hop, -(-n_fft // hop)
        cosines, sines = _waves(n_fft)
        twice = torch.full((len(cosines), 1), 2.0, dtype=torch.float64)
        twice[0] = twice[-1] = 1  # the first and the last bin are their own mirror images
        frames = torch.cat((cosines * twice, -sines * twice)) * (window / n_fft)
        signal = torch.cat((frames, torch.zeros_like(frames[:1])))
        cover = torch.cat((torch.zeros_like(frames), window.square()[None]))
        both = torch.stack((signal, cover))  # [2, channels, n_fft]
        both = F.pad(both, (0, self.reach * hop - n_fft)).unflatten(-1, (self.reach, hop))
        self.weight = frozen(both.permute(0, 3, 1, 2).flatten(0, 1).flip(-1).to(torch.float32))

    @property
    def state(self) -> tuple[int, int]:
        """Shape of the state: the frames before, with the channel that says that they are there."""
        return self.weight.shape[1], self.reach - 1

    def forward(self, spectrum: Tensor, present: Tensor, states: States) -> Tensor:
        """`present` [frames]: 1 for a frame that is there, 0 for one that is not, whatever the spectrum says."""
        x = torch.cat((spectrum[0] * present, present[None]))
        return self._added(states.join(x, axis=1) if self.reach > 1 else x)

    def whole(self, spectrum: Tensor) -> Tensor:
        """All frames of a signal -> [(frames + reach - 1) * hop]: the first starts where the first window does."""
        x = F.pad(spectrum[0], (0, 0, 0, 1), value=1.0)
        return self._added(F.pad(x, (self.reach - 1, self.reach - 1)))

    def _added(self, frames: Tensor) -> Tensor:
        """[2 * bins + 1, reach - 1 + frames] -> samples [frames * hop]."""
        signal, cover = F.conv1d(frames[None], self.weight).squeeze(0).chunk(2)
        return (signal / cover.clamp(min=LEAST_COVER)).T.flatten()


def _waves(n_fft: int) -> tuple[Tensor, Tensor]:
    """cos and sin of every bin, float64 [n_fft / 2 + 1, n_fft]; the sines of the first and the last bin are 0."""
    bins, time = torch.arange(n_fft // 2 + 1), torch.arange(n_fft)
    angles = (bins[:, None] * time % n_fft).to(torch.float64) * (2 * math.pi / n_fft)
    sines = angles.sin()
    sines[0] = sines[-1] = 0
    return angles.cos(), sines
