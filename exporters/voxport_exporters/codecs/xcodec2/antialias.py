"""Snake at twice the rate, so that the harmonics it makes do not fold back (docs/systems/t5gemma.md 6.3).

Upstream puts zeros between the steps, filters, applies Snake, filters again and drops every second step. Here the
doubled sequence is two rows, its even and its odd steps: half of the products of the first filter would be with the
zeros, and half of the second filter's results would be dropped.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from voxport_exporters.checkpoints.weights import Weights
from voxport_exporters.nets.dense import frozen

Taps = dict[int, float]  # step, counted from the one that is computed -> its factor
Rows = tuple[Taps, Taps]  # of the even and of the odd steps


class Snake(nn.Module):
    """x + sin(a x)^2 / b at twice the rate, [1, channels, steps] -> same shape; a and b are stored as logarithms.

    Sin and not the polynomial of nets/ops.py: here activations reach 50 and become codes, and a voice is read once.
    """

    def __init__(self, w: Weights, channels: int) -> None:
        super().__init__()
        second = "beta" if w.has("act.beta") else "bias"  # upstream's class calls it so, the release does not
        alpha, beta = (torch.exp(w.take(f"act.{name}", channels)) for name in ("alpha", second))
        self.alpha, self.gain = frozen(alpha[:, None, None]), frozen(1 / (beta[:, None, None] + 1e-9))
        self.up = Filter(doubling(_taps(w, "upsample.filter")), channels, rows_in=1)
        self.down = Filter(halving(_taps(w, "downsample.lowpass.filter")), channels, rows_in=2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.up(x[:, :, None])
        sine = torch.sin(x * self.alpha)
        y: Tensor = self.down(x + sine * sine * self.gain)
        return y.squeeze(2)


class Filter(nn.Module):
    """A filter over time, the same for every channel, that makes two rows of one, or one of the sum of two.

    [1, channels, rows_in, steps] -> [1, channels, 3 - rows_in, steps]. Edges go on as they are: the even steps begin
    and the odd ones end the sequence. Along the last of two axes, and not the only one, onnxruntime's convolution of
    single channels is 2 to 4 times as fast.
    """

    def __init__(self, rows: Rows, channels: int, rows_in: int) -> None:
        super().__init__()
        self.rows_in = rows_in
        steps = [step for row in rows for step in row]
        self.before, self.after = max(0, -min(steps)), max(0, *steps)
        table = [[row.get(step, 0.0) for step in range(-self.before, self.after + 1)] for row in rows]
        # Of one row with zeros above and below, the first result is the lower row of the kernel's.
        kernel = torch.tensor(table if rows_in == 2 else table[::-1])
        self.weight = frozen(kernel.repeat(channels, 1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        if self.rows_in == 1:
            x = F.pad(x, (self.before, self.after, 0, 0), mode="replicate")
        else:
            first = x[:, :, :1, :1].expand(-1, -1, 2, self.before)
            last = x[:, :, -1:, -1:].expand(-1, -1, 2, self.after)
            x = torch.cat((first, x, last), dim=-1)
        return F.conv2d(x, self.weight, groups=self.weight.shape[0], padding=(2 - self.rows_in, 0))


def doubling(taps: list[float]) -> Rows:
    """Of a filter over a sequence with zeros between its steps: the filters that make its even and its odd steps."""
    middle = (len(taps) - 2) // 2
    even, odd = (
        {(phase + middle - i) // 2: 2 * tap for i, tap in enumerate(taps) if (phase + middle - i) % 2 == 0}
        for phase in (0, 1)
    )
    return even, odd


def halving(taps: list[float]) -> Rows:
    """Of a filter of whose results every second is used: what it takes of the even and of the odd steps."""
    middle = (len(taps) - 1) // 2
    even, odd = (
        {(i - middle) // 2: tap for i, tap in enumerate(taps) if (i - middle) % 2 == phase} for phase in (0, 1)
    )
    return even, odd


def _taps(w: Weights, name: str) -> list[float]:
    taps: list[float] = w.take(name, 1, 1, w.shape(name)[-1]).flatten().tolist()
    return taps
