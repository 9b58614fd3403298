"""Embeddings as stages of their own: onnxruntime maps their file, and only the rows that are read enter memory."""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from voxport.graphs.stage import Stage, TensorSpec
from voxport_exporters.checkpoints.later import later


class Table(nn.Module):
    """The rows of an embedding, looked up by id."""

    def __init__(self, rows: Callable[[], Tensor]) -> None:
        """`rows()` [ids, width], from Weights; it may be deferred (checkpoints/later.py)."""
        super().__init__()
        self.table = later(rows)

    def forward(self, ids: Tensor) -> tuple[Tensor, ...]:
        """ids int64 [tokens] -> embeds [tokens, width]."""
        return (F.embedding(ids, self.table),)


def table_stage(name: str, width: int) -> Stage:
    return Stage(
        name,
        inputs=(TensorSpec("ids", "int64", ("tokens",)),),
        outputs=(TensorSpec("embeds", "float32", ("tokens", width)),),
    )
