"""Operators that lower differently per target: one function each.

`portable` is ai.onnx only; `cpu` may use onnxruntime's com.microsoft operators, emitted while tracing. Outside of a
trace every function computes the same values in plain torch, so a net is checked against goldens as it is written.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor

from voxport_exporters.taps import tap

_target: ContextVar[str] = ContextVar("target", default="portable")


@contextmanager
def lowering(target: str) -> Iterator[None]:
    """Within: ops emit what `target` ("cpu" or "portable") may use."""
    token = _target.set(target)
    try:
        yield
    finally:
        _target.reset(token)


def _emits_contrib() -> bool:
    return _target.get() == "cpu" and torch.compiler.is_exporting()


def attention(q: Tensor, k: Tensor, v: Tensor, heads: int, name: str) -> Tensor:
    """softmax(q k^T / sqrt(head size)) v without mask. q [batch, queries, width], k and v [batch, keys, width].

    Taps the weights, mean over heads, as `name`.
    """
    if _emits_contrib():
        return torch.onnx.ops.symbolic(
            "com.microsoft::MultiHeadAttention",
            (q, k, v),
            {"num_heads": heads},
            dtype=q.dtype,
            shape=q.shape,
            version=1,
        )
    q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))
    weights = torch.softmax(q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1]), dim=-1)
    tap(name, weights.mean(1))
    return (weights @ v).transpose(1, 2).flatten(-2)
