"""The DiT of Fun-CosyVoice3: noise and conditions -> where the mel moves (docs/systems/cosyvoice3.md 4).

One net, run in two ways: `FullDit` takes a whole utterance, whose frames all see each other; `StreamDit` takes block
after block, whose frames see each other and all before them. Classifier-free guidance is a batch of two, made inside:
the second row is told nothing but the noise. What the time does to the net comes in as rows (modulation.py).
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from voxport_exporters.checkpoints.weights import Weights
from voxport_exporters.nets import ops
from voxport_exporters.nets.conv import Conv
from voxport_exporters.nets.dense import Linear, frozen
from voxport_exporters.nets.states import States
from voxport_exporters.nets.taps import tap
from voxport_exporters.systems.cosyvoice3.config import DitConfig
from voxport_exporters.systems.cosyvoice3.modulation import LAST, PER_BLOCK

# Hard-coded upstream (flow/DiT/modules.py):
KERNEL, GROUPS = 31, 16  # of the convolutions that tell frames their place
EPS = 1e-6
LARGE = 20.0  # from here on mish is x, in float32

Angles = tuple[Tensor, Tensor]  # cosine and sine [frames, turned channels / 2]
Remember = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]  # new keys and values -> all that a frame sees


class Block(nn.Module):
    """Attention, then feed-forward; each adds to x what it makes of the normed x, times a gate."""

    def __init__(self, w: Weights, config: DitConfig, name: str) -> None:
        """`w`: the weights of the block; `name`: what its taps begin with."""
        super().__init__()
        dim, inner, hidden = config.dim, config.inner, config.dim * config.ff_mult
        self.name, self.heads = name, config.heads
        attention, feed_forward = w.at("attn"), w.at("ff.ff")
        # Three products read one activation, which int8 quantizes once. One product of all three would be no faster,
        # and its result had to be cut in three. Weights of an attention add up to 1, so the bias of what it mixes may
        # as well be added afterwards.
        self.q, self.k, self.v = (Linear.joined(attention, dim, {f"to_{n}": inner}, bias=n != "v") for n in "qkv")
        self.out = Linear.joined(attention, inner, {"to_out.0": dim}, bias=True)
        mixed = attention.take("to_out.0.weight", dim, inner) @ attention.take("to_v.bias", inner)
        self.out.bias = frozen(attention.take("to_out.0.bias", dim) + mixed)
        self.up = Linear.joined(feed_forward, dim, {"0.0": hidden}, bias=True)
        self.down = Linear.joined(feed_forward, hidden, {"2": dim}, bias=True)

    def forward(self, x: Tensor, rows: Tensor, angles: Angles, remember: Remember) -> Tensor:
        """x [2, frames, dim], rows [PER_BLOCK, dim] -> x."""
        shift, scale, gate, shift_ff, scale_ff, gate_ff = (rows[i] for i in range(PER_BLOCK))
        h = norm(x, scale, shift)
        # Upstream turns queries and keys before it cuts them into heads: the first head alone knows where it is.
        q, k = (ops.rotary_pairs(project(h), *angles) for project in (self.q, self.k))
        keys, values = remember(k, self.v(h))
        attended = self.out(ops.attention(q, keys, values, self.heads, f"{self.name}_weights"))
        tap(f"{self.name}_attn", attended)
        x = x + gate * attended
        h = norm(x, scale_ff, shift_ff)
        x = x + gate_ff * self.down(F.gelu(self.up(h), approximate="tanh"))
        tap(self.name, x)
        return x


class Dit(nn.Module):
    """The weights, and what both ways of running them share."""

    def __init__(self, w: Weights, config: DitConfig) -> None:
        """`w`: the weights below `decoder.estimator.`"""
        super().__init__()
        self.config, dim = config, config.dim
        self.enter = Linear.of(w.at("input_embed.proj"), 2 * config.mel_dim + config.mu + config.speaker, dim)
        places = [w.at(f"input_embed.conv_pos_embed.conv{i}.0") for i in (1, 2)]
        self.places = nn.ModuleList(grouped(place, dim) for place in places)
        self.frequencies = frozen(w.take("rotary_embed.inv_freq", (config.dim_head + 1) // 2))
        self.blocks = nn.ModuleList(
            Block(w.at(f"transformer_blocks.{i}"), config, f"block{i}") for i in range(config.depth)
        )
        self.skip = Linear.joined(w, 2 * dim, {"long_skip_connection": dim}) if config.long_skip_connection else None
        self.leave = Linear.of(w.at("proj_out"), dim, config.mel_dim)

    def embed(self, x: Tensor, mu: Tensor, cond: Tensor, spks: Tensor | None, before: States) -> Tensor:
        """x [frames, mel], mu [frames, mu], cond [frames, mel], spks [speaker] -> h [2, frames, dim]."""
        speaker = [] if spks is None else [spks.expand(x.shape[0], -1)]
        conditions = torch.cat((cond, mu, *speaker), dim=-1)
        both = (torch.cat((x, row), dim=-1) for row in (conditions, torch.zeros_like(conditions)))
        h: Tensor = self.enter(torch.stack(tuple(both)))
        c = h.transpose(1, 2)
        for place in self.places:
            c = mish(place(before.join(c, axis=2)))
        h = c.transpose(1, 2) + h
        tap("input_embed", h)
        return h

    def angles(self, positions: Tensor) -> Angles:
        """positions int64 [frames] -> cosine and sine [frames, turned channels / 2]."""
        radians = positions.to(torch.float32)[:, None] * self.frequencies
        return radians.cos(), radians.sin()

    def velocity(self, x: Tensor, modulation: Tensor, angles: Angles, remember: list[Remember]) -> Tensor:
        """x [2, frames, dim], modulation [rows, dim] -> [2, frames, mel]."""
        embedded = x
        for i, (block, known) in enumerate(zip(self.blocks, remember, strict=True)):
            x = block(x, modulation[PER_BLOCK * i : PER_BLOCK * (i + 1)], angles, known)
        if self.skip is not None:
            x = self.skip(torch.cat((x, embedded), dim=-1))
        scale, shift = (modulation[PER_BLOCK * len(self.blocks) + i] for i in range(LAST))
        x = norm(x, scale, shift)
        tap("norm_out", x)
        y: Tensor = self.leave(x)
        return y


class FullDit(Dit):
    """A whole utterance at once."""

    def forward(self, x: Tensor, mu: Tensor, cond: Tensor, modulation: Tensor, *spks: Tensor) -> Tensor:
        """As flow_stage declares it; velocity [2, frames, mel]."""
        silence = torch.zeros(2, self.config.dim, KERNEL - 1)
        h = self.embed(x, mu, cond, next(iter(spks), None), States((silence, silence)))
        angles = self.angles(torch.arange(x.shape[0]))
        return self.velocity(h, modulation, angles, [lambda k, v: (k, v)] * len(self.blocks))


class StreamDit(Dit):
    """One block at a time, with the keys and values of those before it: the reference's are inputs, which stay as they
    are and may serve many streams; those of the stream are its state, in slots that may be used again."""

    def forward(
        self,
        x: Tensor,
        mu: Tensor,
        cond: Tensor,
        modulation: Tensor,
        start: Tensor,
        slots: Tensor,
        filled: Tensor,
        *rest: Tensor,
    ) -> tuple[Tensor, ...]:
        """As flow_stream_stage declares it; velocity [2, frames, mel], next state."""
        c, total = self.config, _count(filled)
        spks, rest = (rest[0], rest[1:]) if c.speaker else (None, rest)
        reference, states = rest[: 2 * c.depth], States(rest[2 * c.depth :])
        h = self.embed(x, mu, cond, spks, states)
        angles = self.angles(start + torch.arange(x.shape[0]))

        def remember(layer: int) -> Remember:
            def both(*new: Tensor) -> tuple[Tensor, Tensor]:
                found = []
                for fixed, fresh in zip(reference[2 * layer : 2 * layer + 2], new, strict=True):
                    cache = ops.put(states.take(), slots, fresh.unflatten(-1, (c.heads, -1)).transpose(1, 2))
                    states.keep(cache)
                    found.append(torch.cat((fixed, cache[:, :, :total]), dim=2))
                keys, values = found
                return keys, values

            return both

        velocity = self.velocity(h, modulation, angles, [remember(i) for i in range(c.depth)])
        return velocity, *states.after


def mish(x: Tensor) -> Tensor:
    """x tanh(log(1 + e^x)), written without the logarithm: onnxruntime computes Softplus on one thread, and slowly."""
    e = x.clamp(max=LARGE).exp()
    n = e * (e + 2)
    return x * (n / (n + 2))


def norm(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Layer norm over the last axis; scale and shift [dim]."""
    return F.layer_norm(x, (x.shape[-1],), scale, shift, EPS)


def grouped(w: Weights, dim: int) -> Conv:
    """A convolution in groups, from `weight` and `bias` below `w`."""
    return Conv(w.take("weight", dim, dim // GROUPS, KERNEL), w.take("bias", dim), groups=GROUPS)


def _count(filled: Tensor) -> int:
    """The number in a tensor of one, as a trace can follow it."""
    total: int = filled.item()  # type: ignore[assignment]
    torch._check(total >= 0)
    return total
