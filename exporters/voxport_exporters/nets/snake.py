"""The Snake activation of vocoders in either layout."""

from torch import Tensor, nn

from voxport_exporters.nets import ops
from voxport_exporters.nets.dense import frozen

MIN_ROW_VALUES = 1024  # below this, what onnxruntime spends on every row shows


class Snake(nn.Module):
    """x + sin(a x)^2 / b per channel. x [1, channels, steps] or [steps, channels].

    Where the channels are last, onnxruntime starts anew for every row, so several rows are joined to one: as many as
    reach MIN_ROW_VALUES together and divide the `steps` of a frame.
    """

    def __init__(self, alpha: Tensor, beta: Tensor, steps: int, exact: bool = True) -> None:
        """alpha, beta [channels]. Where not `exact` and channels are last, which is beside int8, it is the coarser of
        ops.snake."""
        super().__init__()
        self.alpha, self.beta = frozen(alpha), frozen(beta)
        channels = len(alpha)
        self.rows = max(n for n in range(1, max(1, MIN_ROW_VALUES // channels) + 1) if steps % n == 0)
        self.exact = exact

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() == 3:
            return ops.snake(x, self.alpha[:, None], self.beta[:, None])
        wide = x.reshape(-1, self.rows * x.shape[1])
        alpha, beta = self.alpha.tile(self.rows), self.beta.tile(self.rows)
        return ops.snake(wide, alpha, beta, self.exact).reshape(x.shape)
