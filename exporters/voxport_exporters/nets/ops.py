"""Operators that lower differently per target: one function each.

`portable` is ai.onnx only; `cpu` may use onnxruntime's com.microsoft operators, emitted while tracing. Outside of a
trace every function computes the same values in plain torch, so a net is checked against goldens as it is written.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from voxport_exporters.nets.taps import tap

HIDDEN = -1e30  # added to a score it leaves no weight; finite, so softmax yields no NaN
GQA_MULTIPLE = 8  # onnxruntime's GroupQueryAttention refuses other head sizes

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


def _emits_contrib() -> bool:
    return _target.get() == "cpu" and torch.compiler.is_exporting()


def attention(q: Tensor, k: Tensor, v: Tensor, heads: int, name: str) -> Tensor:
    """softmax(q k^T / sqrt(head size)) v without mask. q [batch, queries, width]; k and v [batch, keys, width], or both
    [batch, heads, keys, head size] as caches hold them.

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
    q, k, v = (x if x.dim() == 4 else x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))
    weights = torch.softmax(q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1]), dim=-1)
    tap(name, weights.mean(1))
    return (weights @ v).transpose(1, 2).flatten(-2)


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x / sqrt(mean(x^2) + eps) * weight over the last axis; in this form onnxruntime makes it one kernel.

    A weight of more axes (a row per head) keeps it from doing so, unless it comes after one of ones.
    """
    if weight.dim() > 1:
        return rms_norm(x, torch.ones_like(weight[0]), eps) * weight
    return x / torch.sqrt(x.square().mean(-1, keepdim=True) + eps) * weight


# ------------------------------------------------------------------------------------ attention with a cache


@dataclass(frozen=True)
class Places:
    """Where the tokens of one call stand: worked out once, used by every layer. Every row has its own position."""

    columns: Tensor  # int64 [batch, time + ragged]: where in the caches the new tokens go, then blanks
    blank: Tensor | None  # bool [batch, ragged]: True where such a column becomes zeros; None: the rows are even
    total: int  # columns of the caches that are read: the tokens of the longest row, new ones too; symbolic in a trace
    last: Tensor  # int32 [batch]: position of each row's last new token
    end: Tensor  # int32 scalar: `total` as a tensor
    cos: Tensor  # [batch, time, head size / 2]
    sin: Tensor
    masks: dict[int, Tensor]  # window -> [batch, 1, time, total], 0 where visible and HIDDEN elsewhere; 0: no window

    @classmethod
    def of(cls, past: Tensor, time: int, frequencies: Tensor, windows: set[int]) -> "Places":
        """past int64 [batch]: tokens in the caches of each row, to which `time` are added.

        A row that is shorter than the longest by n reads n columns that none of its tokens has written. They get no
        weight, but what they hold may be no number, so they are written as zeros along with the new tokens. Of rows of
        one length, or a single one, there are no such columns. What a longer row has none of, it writes as its last
        token once more.
        """
        longest = past.amax(0)
        total: int = longest.item() + time  # type: ignore[assignment]
        torch._check(total >= time)
        positions = past[:, None] + torch.arange(time, device=past.device)  # [batch, time]
        angles = positions.to(torch.float32)[..., None] * frequencies
        ragged: int = (longest - past.amin(0)).item()  # type: ignore[assignment]
        torch._check(ragged >= 0)
        beyond = (past + time)[:, None] + torch.arange(ragged, device=past.device)  # [batch, ragged]
        blank = beyond < longest + time
        every = torch.arange(total, device=past.device)
        return cls(
            torch.cat((positions, torch.where(blank, beyond, (past + (time - 1))[:, None])), dim=1),
            blank,
            total,
            (past + (time - 1)).to(torch.int32),
            (longest + time).to(torch.int32),
            angles.cos(),
            angles.sin(),
            {window: mask(positions, every, window)[:, None] for window in windows},
        )


def mask(positions: Tensor, columns: Tensor, window: int) -> Tensor:
    """positions int64 [..., time], columns int64 [total] -> [..., time, total], added to scores: 0 or HIDDEN.

    `window`: how many tokens a token sees, itself included; 0: all up to itself.
    """
    behind = positions[..., None] - columns
    visible = (behind >= 0) & (behind < window) if window else behind >= 0
    return torch.where(visible, 0.0, HIDDEN)


def rotary(x: Tensor, heads: int, places: Places) -> Tensor:
    """Turns channel i of every head with its channel i + size / 2. x [batch, time, heads * size] -> same shape."""
    batch, time, width = x.shape
    if _emits_contrib():
        flat = torch.arange(batch * time).view(batch, time)
        tables = (places.cos.flatten(0, 1), places.sin.flatten(0, 1))
        return torch.onnx.ops.symbolic(
            "com.microsoft::RotaryEmbedding",
            (x, flat, *tables),
            {"num_heads": heads, "rotary_embedding_dim": width // heads},
            dtype=x.dtype,
            shape=x.shape,
            version=1,
        )
    cos, sin = places.cos[:, :, None], places.sin[:, :, None]
    low, high = x.unflatten(-1, (heads, -1)).chunk(2, dim=-1)
    return torch.cat((low * cos - high * sin, high * cos + low * sin), dim=-1).flatten(-2)


def rotary_pairs(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turns channels 2 i and 2 i + 1 of x [batch, time, width] by the angles cos, sin [time, turned / 2]; channels from
    `turned` on stay as they are."""
    turned = 2 * cos.shape[-1]
    if _emits_contrib():
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


def cached_attention(
    q: Tensor, k: Tensor, v: Tensor, keys: Tensor, values: Tensor, places: Places, window: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    """Causal attention of new tokens to themselves and all before them.

    q [batch, time, heads * size], k and v [batch, time, kv heads * size]; keys and values [batch, kv heads, capacity,
    size] hold the tokens before and get the new ones, in place where input and output share memory; what columns beyond
    hold has no effect. `window`: tokens that a token sees, itself included; 0: all. Returns the shape of q, next keys,
    next values.

    onnxruntime's operator masks by itself, so the cpu target computes no mask. It takes several new tokens into caches
    that hold some already from a batch of one row only.
    """
    time, width = q.shape[1:]
    shared, size = keys.shape[1], keys.shape[3]
    heads = width // size
    if _emits_contrib() and size % GQA_MULTIPLE == 0:
        out, keys, values = torch.onnx.ops.symbolic_multi_out(
            "com.microsoft::GroupQueryAttention",
            (q, k, v, keys, values, places.last, places.end),
            {"num_heads": heads, "kv_num_heads": shared, "local_window_size": window or -1},
            dtypes=(q.dtype, keys.dtype, values.dtype),
            shapes=(q.shape, keys.shape, values.shape),
            version=1,
        )
        return out, keys, values
    columns = places.columns[:, None, :, None].expand(-1, shared, -1, size)
    k, v = (x.unflatten(-1, (shared, size)).transpose(1, 2) for x in (k, v))
    if places.blank is not None:
        blank = places.blank[:, None, :, None]
        k, v = (torch.cat((x, torch.where(blank, 0.0, x[:, :, -1:])), dim=2) for x in (k, v))
    keys, values = keys.scatter(2, columns, k), values.scatter(2, columns, v)
    visible_keys, visible_values = keys[:, :, : places.total], values[:, :, : places.total]
    # Heads that share keys are put side by side as further queries, so keys are never repeated.
    q = q.unflatten(2, (shared, -1, size)).permute(0, 2, 3, 1, 4).flatten(2, 3)  # [batch, kv heads, group * time, size]
    scores = (q @ visible_keys.transpose(-1, -2) / math.sqrt(size)).unflatten(2, (-1, time))
    scores = scores + places.masks[window][:, :, None]
    mixed = torch.softmax(scores, dim=-1).flatten(2, 3) @ visible_values
    mixed = mixed.unflatten(2, (-1, time)).permute(0, 3, 1, 2, 4)
    return mixed.flatten(2), keys, values


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
    if _emits_contrib() and kernel > 1:
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
    if exact and not _emits_contrib():
        sine = torch.sin(x * alpha)
        return x + sine * sine * gain
    turns = x * (alpha / math.pi)
    r = turns - torch.floor(turns)
    p = r * (r - 1)
    *lower, sine = (c * gain for c in (_SINE_SQUARED if exact else _SINE_SQUARED_COARSE))
    for term in reversed(lower):
        sine = p * sine + term
    return x + sine * (p * p)
