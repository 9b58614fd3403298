"""Operators that lower differently per target: one function each.

`portable` is ai.onnx only; `cpu` may use onnxruntime's com.microsoft operators, emitted while tracing. Outside of a
trace every function computes the same values in plain torch, so a net is checked against goldens as it is written.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from voxport_exporters.nets.taps import tap

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {  # by transformers' names
    **dict.fromkeys(("silu", "swish"), F.silu),
    **dict.fromkeys(("gelu_pytorch_tanh", "gelu_new", "gelu_fast"), partial(F.gelu, approximate="tanh")),
    "gelu": F.gelu,
    "relu": F.relu,
}

_target: ContextVar[str] = ContextVar("target", default="portable")


@contextmanager
def lowering(target: str) -> Iterator[None]:
    """Within: ops emit what `target` ("cpu" or "portable") may use."""
    token = _target.set(target)
    try:
        yield
    finally:
        _target.reset(token)


def emits_contrib() -> bool:
    """True in a trace for a target that may use onnxruntime's own operators."""
    return _target.get() == "cpu" and torch.compiler.is_exporting()


def attention(q: Tensor, k: Tensor, v: Tensor, heads: int, name: str, bias: Tensor | None = None) -> Tensor:
    """softmax(q k^T / sqrt(head size) + bias) v without mask. q [batch, queries, width]; k and v [batch, keys, width],
    or both [batch, heads, keys, head size] as caches hold them; bias [batch, heads, queries, keys].

    Taps the weights, mean over heads, as `name`.
    """
    if emits_contrib():
        return torch.onnx.ops.symbolic(
            "com.microsoft::MultiHeadAttention",
            (q, k, v) if bias is None else (q, k, v, None, None, bias),
            {"num_heads": heads},
            dtype=q.dtype,
            shape=q.shape,
            version=1,
        )
    q, k, v = (x if x.dim() == 4 else x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))
    scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
    weights = torch.softmax(scores if bias is None else scores + bias, dim=-1)
    tap(name, weights.mean(1))
    return (weights @ v).transpose(1, 2).flatten(-2)


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x / sqrt(mean(x^2) + eps) * weight over the last axis; in this form onnxruntime makes it one kernel.

    A weight of more axes (a row per head) keeps it from doing so, unless it comes after one of ones.
    """
    if weight.dim() > 1:
        return rms_norm(x, torch.ones_like(weight[0]), eps) * weight
    return x / torch.sqrt(x.square().mean(-1, keepdim=True) + eps) * weight


def add_norm(x: Tensor, other: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """(rms_norm of the sum, the sum) of x and `other` [batch, time, width]: one kernel where there is one."""
    if not emits_contrib():
        total = x + other
        return rms_norm(total, weight, eps), total
    normed, _, _, total = torch.onnx.ops.symbolic_multi_out(
        "com.microsoft::SkipSimplifiedLayerNormalization",
        (x, other, weight),
        {"epsilon": eps},
        dtypes=(x.dtype,) * 4,
        shapes=(x.shape, (1,), (1,), x.shape),
        version=1,
    )
    return normed, total


def rotary(x: Tensor, heads: int, cos: Tensor, sin: Tensor) -> Tensor:
    """Turns channel i of every head with its channel i + size / 2. x [batch, time, heads * size], cos and sin
    [batch, time, size / 2] -> the shape of x."""
    batch, time, width = x.shape
    if emits_contrib():
        flat = torch.arange(batch * time).view(batch, time)
        tables = (cos.flatten(0, 1), sin.flatten(0, 1))
        return torch.onnx.ops.symbolic(
            "com.microsoft::RotaryEmbedding",
            (x, flat, *tables),
            {"num_heads": heads, "rotary_embedding_dim": width // heads},
            dtype=x.dtype,
            shape=x.shape,
            version=1,
        )
    cos, sin = cos[:, :, None], sin[:, :, None]
    low, high = x.unflatten(-1, (heads, -1)).chunk(2, dim=-1)
    return torch.cat((low * cos - high * sin, high * cos + low * sin), dim=-1).flatten(-2)


def rotary_pairs(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turns channels 2 i and 2 i + 1 of x [batch, time, width] by the angles cos, sin [time, turned / 2]; channels from
    `turned` on stay as they are."""
    turned = 2 * cos.shape[-1]
    if emits_contrib():
        return torch.onnx.ops.symbolic(
            "com.microsoft::RotaryEmbedding",
            (x, torch.zeros(1, dtype=torch.int64), cos, sin),
            {"num_heads": 1, "rotary_embedding_dim": turned, "interleaved": 1},
            dtype=x.dtype,
            shape=x.shape,
            version=1,
        )
    even, odd = x[..., :turned].unflatten(-1, (-1, 2)).unbind(-1)
    pairs = torch.stack((even * cos - odd * sin, odd * cos + even * sin), dim=-1).flatten(-2)
    return torch.cat((pairs, x[..., turned:]), dim=-1)


def put(cache: Tensor, slots: Tensor, new: Tensor) -> Tensor:
    """cache [batch, heads, capacity, size] with `new` [batch, heads, time, size] at `slots` int64 [time].

    In place, where input and output of the graph share memory.
    """
    batch, heads = (torch.arange(n)[:, None, None] for n in cache.shape[:2])
    return cache.index_put((batch, heads[:, :, 0], slots), new)


def short_conv(x: Tensor, past: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    """Depthwise causal convolution along time. x [batch, time, width], past [batch, kernel - 1, width],
    weight [width, 1, kernel] (oldest tap first) -> same shape as x, next past."""
    kernel = weight.shape[-1]
    if emits_contrib() and kernel > 1:
        feed = (x, weight, bias, past)
        y, past = torch.onnx.ops.symbolic_multi_out(
            "com.microsoft::CausalConvWithState",
            feed,
            {"channels_last": 1},
            dtypes=(x.dtype, past.dtype),
            shapes=(x.shape, past.shape),
            version=1,
        )
        return y, past
    time = x.shape[1]
    whole = torch.cat((past, x), dim=1)
    y = sum((whole[:, j : j + time] * weight[:, 0, j] for j in range(kernel)), torch.zeros(()))
    return y if bias is None else y + bias, whole[:, time:]


# sin(pi r)^2 over one period as p^2 (c0 + c1 p + ..), p = r (r - 1): minimax. The largest errors are 7e-7 (-123 dB) of
# four terms, and 1.6e-3 (-56 dB; int8 leaves 16 to 30) of two.
_SINE_SQUARED = (9.86779478068855, -19.790862385947833, 16.374928694560623, -10.306920413954686)
_SINE_SQUARED_COARSE = (9.1215333021590, -27.409844918885)


def snake(x: Tensor, alpha: Tensor, beta: Tensor | None = None, exact: bool = True) -> Tensor:
    """x + sin(alpha x)^2 / (beta + 1e-9); beta is alpha by default. x [batch, channels, time], they [channels, 1].

    onnxruntime computes Sin on one thread however many there are, so `cpu` gets a polynomial instead. Where not `exact`
    every target gets a shorter one, within 1.6e-3 / beta: ten passes over memory, not fourteen, which is a tenth of an
    int8 decoder step less.
    """
    gain = 1 / ((alpha if beta is None else beta) + 1e-9)
    if exact and not emits_contrib():
        sine = torch.sin(x * alpha)
        return x + sine * sine * gain
    turns = x * (alpha / math.pi)
    r = turns - torch.floor(turns)
    p = r * (r - 1)
    *lower, sine = (c * gain for c in (_SINE_SQUARED if exact else _SINE_SQUARED_COARSE))
    for term in reversed(lower):
        sine = p * sine + term
    return x + sine * (p * p)
