"""Attention with a cache of keys and values, and attention whose query heads share theirs."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from voxport_exporters.nets.ops import emits_contrib, rotary

HIDDEN = -1e30  # added to a score it leaves no weight; finite, so softmax yields no NaN
GQA_MULTIPLE = 8  # onnxruntime's GroupQueryAttention refuses other head sizes
TURN_MULTIPLE = 16  # .. and other ones where it is to turn heads, too


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
        positions = past[:, None] + torch.arange(time, device=past.device)  # [batch, time]
        angles = positions.to(torch.float32)[..., None] * frequencies
        return cls.turned(past, angles.cos(), angles.sin(), windows)

    @classmethod
    def turned(cls, past: Tensor, cos: Tensor, sin: Tensor, windows: set[int]) -> "Places":
        """As `of`, where the caller knows how far each new token turns: cos and sin [batch, time, head size / 2]."""
        time = cos.shape[1]
        longest = past.amax(0)
        total: int = longest.item() + time  # type: ignore[assignment]
        torch._check(total >= time)
        positions = past[:, None] + torch.arange(time, device=past.device)  # [batch, time]
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
            cos,
            sin,
            {window: mask(positions, every, window)[:, None] for window in windows},
        )


def mask(positions: Tensor, columns: Tensor, window: int) -> Tensor:
    """positions int64 [..., time], columns int64 [total] -> [..., time, total], added to scores: 0 or HIDDEN.

    `window`: how many tokens a token sees, itself included; 0: all up to itself.
    """
    behind = positions[..., None] - columns
    visible = (behind >= 0) & (behind < window) if window else behind >= 0
    return torch.where(visible, 0.0, HIDDEN)


def grouped_attention(
    q: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None = None, softcap: float = 0.0, divisor: float = 1.0
) -> Tensor:
    """softmax(cap(q keys / divisor) + mask) values, where several query heads share each head of keys and values.

    q [batch, time, heads * size], keys and values [batch, kv heads, total, size], mask of [batch, 1, time, total] or of
    axes of size 1 -> the shape of q. `softcap` c: cap(s) = c tanh(s / c); 0: none.
    """
    shared, size = keys.shape[1], keys.shape[3]
    # Heads that share keys have an axis of their own, over which the product repeats keys without a copy. One query a
    # product: of several side by side onnxruntime packs the keys first, which takes as long again (docs/performance.md
    # 5.2).
    q = q.unflatten(2, (shared, -1, size)).permute(0, 2, 3, 1, 4)  # [batch, kv heads, group, time, size]
    scores = q @ keys[:, :, None].transpose(-1, -2)
    if divisor != 1:
        scores = scores / divisor
    if softcap:
        scores = torch.tanh(scores / softcap) * softcap
    if mask is not None:
        scores = scores + mask[:, :, None]
    mixed: Tensor = torch.softmax(scores, dim=-1) @ values[:, :, None]
    return mixed.permute(0, 3, 1, 2, 4).flatten(2)


def turned_attention(
    qkv: Tensor,
    heads: tuple[int, int],
    keys: Tensor,
    values: Tensor,
    places: Places,
    window: int = 0,
    softcap: float = 0.0,
) -> tuple[Tensor, Tensor, Tensor]:
    """`cached_attention` of queries and keys that are yet to be turned, side by side with the values.

    qkv [batch, time, (heads + 2 kv heads) * size], `heads`: how many of queries, and of keys. On the cpu target one
    operator turns, splits and attends.
    """
    count, shared = heads
    size = keys.shape[3]
    wide, narrow = count * size, shared * size
    if not emits_contrib() or size % TURN_MULTIPLE:
        qk, v = qkv.split((wide + narrow, narrow), dim=-1)
        q, k = rotary(qk, count + shared, places.cos, places.sin).split((wide, narrow), dim=-1)
        return cached_attention(q, k, v, keys, values, places, window, softcap)
    batch, time = qkv.shape[:2]
    # The operator wants as many rows in its tables as there are columns in the caches, though it looks up none of them.
    cos, sin = (torch.cat((t.flatten(0, 1), t.new_zeros(places.total, size // 2))) for t in (places.cos, places.sin))
    rows = torch.arange(batch * time).view(batch, time)
    mixed, keys, values = torch.onnx.ops.symbolic_multi_out(
        "com.microsoft::GroupQueryAttention",
        (qkv, None, None, keys, values, places.last, places.end, cos, sin, rows),
        {
            "num_heads": count,
            "kv_num_heads": shared,
            "local_window_size": window or -1,
            "softcap": softcap,
            "do_rotary": 1,
        },
        dtypes=(qkv.dtype, keys.dtype, values.dtype),
        shapes=((batch, time, wide), keys.shape, values.shape),
        version=1,
    )
    return mixed, keys, values


def cached_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    keys: Tensor,
    values: Tensor,
    places: Places,
    window: int = 0,
    softcap: float = 0.0,
) -> tuple[Tensor, Tensor, Tensor]:
    """Causal attention of new tokens to themselves and all before them.

    q [batch, time, heads * size], k and v [batch, time, kv heads * size]; keys and values [batch, kv heads, capacity,
    size] hold the tokens before and get the new ones, in place where input and output share memory; what columns beyond
    hold has no effect. `window`: tokens that a token sees, itself included; 0: all. `softcap`: see `grouped_attention`.
    Returns the shape of q, next keys, next values.

    onnxruntime's operator masks by itself, so the cpu target computes no mask. It takes several new tokens into caches
    that hold some already from a batch of one row only.
    """
    width = q.shape[2]
    shared, size = keys.shape[1], keys.shape[3]
    heads = width // size
    if emits_contrib() and size % GQA_MULTIPLE == 0:
        out, keys, values = torch.onnx.ops.symbolic_multi_out(
            "com.microsoft::GroupQueryAttention",
            (q, k, v, keys, values, places.last, places.end),
            {"num_heads": heads, "kv_num_heads": shared, "local_window_size": window or -1, "softcap": softcap},
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
    mixed = grouped_attention(q, visible_keys, visible_values, places.masks[window], softcap, math.sqrt(size))
    return mixed, keys, values
