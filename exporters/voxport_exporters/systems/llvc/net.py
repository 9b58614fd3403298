"""LLVC (arXiv 2311.00873; KoeAI/LLVC model.py; docs/systems/llvc.md 3), written for export.

Channels last and without batch: a sequence is [frames, channels], so every dense layer is a MatMul and no Transpose,
Pad, ScatterND or ConvTranspose is left in the graph. All state is passed in and handed back, one tensor per layer.
"""

import torch
from torch import Tensor, nn

from voxport_exporters.checkpoints.weights import Weights
from voxport_exporters.nets import ops
from voxport_exporters.nets.dense import LayerNorm, Linear, frozen
from voxport_exporters.nets.states import States
from voxport_exporters.nets.taps import tap
from voxport_exporters.systems.llvc.config import ENCODER_KERNEL, HEADS, LABEL_HIDDEN, POSITIONS, LlvcConfig


class EncoderLayer(nn.Module):
    """ReLU(LN(PW(ReLU(LN(DW(h)))))): depthwise causal convolution over 3 frames `dilation` apart, then 1x1."""

    def __init__(self, w: Weights, width: int, dilation: int) -> None:
        super().__init__()
        self.dilation = dilation
        taps = w.take("layers.0.weight", width, 1, ENCODER_KERNEL)[:, 0].T  # [kernel, width]
        self.oldest, self.older, self.newest = (frozen(row) for row in taps)
        self.bias = frozen(w.take("layers.0.bias", width))
        self.norm1, self.norm2 = LayerNorm(w.at("layers.1"), width), LayerNorm(w.at("layers.4"), width)
        self.pointwise = Linear.of(w.at("layers.3"), width, width, 1)

    def forward(self, h: Tensor, states: States, name: str) -> Tensor:
        """h [frames, width] -> update of h. State: the last 2 dilation frames. Taps what it reads as `name`.in."""
        d = self.dilation
        c = states.join(h)
        tap(f"{name}.in", c)
        y = c[: -2 * d] * self.oldest + c[d:-d] * self.older + h * self.newest + self.bias
        update: Tensor = torch.relu(self.norm2(self.pointwise(torch.relu(self.norm1(y)))))
        tap(f"{name}.out", update)
        return update


class Attention(nn.Module):
    """Multi-head attention whose keys and values are projected once per frame, not once per window.

    A window adds `positions` p to its frames: (x + p) W + b = x W + (p W + b), and the bracket is a constant.
    1/sqrt(head size) is left to the operator.
    """

    def __init__(self, w: Weights, width: int, positions: Tensor | None, queries: int) -> None:
        super().__init__()
        weight, bias = w.take("in_proj_weight", 3 * width, width), w.take("in_proj_bias", 3 * width)
        self.query = Linear(weight[:width].T, bias[:width])
        self.keys = Linear(weight[width:].T)
        offset = bias[width:] if positions is None else positions @ weight[width:].T + bias[width:]
        self.offset = frozen(offset)
        self.out = Linear.of(w.at("out_proj"), width, width)
        self.queries = queries

    def forward(self, q: Tensor, frames: Tensor, windows: Tensor, name: str) -> Tensor:
        """q [windows, chunk, width] attends to frames [all, width] gathered by windows [windows, context + chunk]."""
        k, v = (self.keys(frames)[windows] + self.offset).chunk(2, dim=-1)
        mixed: Tensor = self.out(ops.attention(self.query(q), k, v, HEADS, name))
        return mixed


class DecoderLayer(nn.Module):
    """Post-norm transformer layer: each chunk of frames attends to itself and its context, then to the encoder's."""

    def __init__(self, w: Weights, config: LlvcConfig, own: Tensor | None, other: Tensor | None) -> None:
        super().__init__()
        width = config.dec_dim
        self.self_attn = Attention(w.at("self_attn"), width, own, config.dec_chunk_size)
        self.cross_attn = Attention(w.at("multihead_attn"), width, other, config.dec_chunk_size)
        self.linear1 = Linear.of(w.at("linear1"), width, 2 * width)
        self.linear2 = Linear.of(w.at("linear2"), 2 * width, width)
        self.norm1, self.norm2, self.norm3 = (LayerNorm(w.at(f"norm{i}"), width) for i in (1, 2, 3))

    def forward(self, q: Tensor, own: Tensor, other: Tensor, windows: Tensor, name: str) -> Tensor:
        q = self.norm1(q + self.self_attn(q, own, windows, f"{name}.self_attn"))
        q = self.norm2(q + self.cross_attn(q, other, windows, f"{name}.cross_attn"))
        out: Tensor = self.norm3(q + self.linear2(torch.relu(self.linear1(q))))
        return out


class Converter(nn.Module):
    """Everything after the pre-net: audio in chunks of `chunk` samples -> converted audio, same shape."""

    def __init__(self, w: Weights, config: LlvcConfig) -> None:
        super().__init__()
        self.config = config
        E, D, L = config.enc_dim, config.dec_dim, config.L
        ratio = E // D
        kernel = config.context + L
        self.in_conv = Linear.of(w.at("in_conv.0"), 1, E, kernel, bias=False)
        self.label = frozen(_label(w.at("label_embedding"), E))
        mask = w.at("mask_gen")
        self.encoder = nn.ModuleList(
            EncoderLayer(mask.at(f"encoder.dcc_layers.dcc_{i}"), E, 2**i) for i in range(config.num_enc_layers)
        )
        self.skip, self.proj = config.skip_connection, config.proj
        if config.proj:
            # Both projections read the encoder: the label is folded into the second one's weights.
            e, m = mask.at("proj_e2d_e.0"), mask.at("proj_e2d_l.0")
            down_e = e.take("weight", D, ratio, 1)[..., 0]
            down_m = m.take("weight", D, ratio, 1)[..., 0] * self.label.view(D, ratio)
            self.down = frozen(torch.stack((down_e, down_m)).unsqueeze(1))  # [2, 1, D, ratio]
            self.down_bias = frozen(torch.stack((e.take("bias", D), m.take("bias", D))).unsqueeze(1))
            up = mask.at("proj_d2e.0")
            self.up, self.up_bias = frozen(up.take("weight", E, 1, 1).view(D, ratio)), frozen(up.take("bias", E))
        else:
            mask.drop("proj_*", "the config says proj=false")
        pe = mask.take("decoder.pos_enc.pe", 1, POSITIONS, D)[0, : config.dec_buf_len + config.dec_chunk_size]
        table = pe if config.use_pos_enc else None  # positions count from the start of a window
        self.positions = None if table is None else frozen(table[config.dec_buf_len :])
        self.decoder = nn.ModuleList(
            DecoderLayer(mask.at(f"decoder.tf_dec_layers.{j}"), config, table if j == 0 else None, table)
            for j in range(config.num_dec_layers)
        )
        self._table = table  # for the taps
        # ConvTranspose1d as one MatMul over out_buf_len + 1 frames: frame f - k contributes its tap k to block f.
        reach = config.out_buf_len + 1
        taps = w.take("out_conv.0.weight", E, 1, reach * L).view(E, reach, L)
        self.out_conv = frozen(taps.flip(1).transpose(0, 1).reshape(reach * E, L))  # oldest frame first

    def forward(self, audio: Tensor, frames: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        """audio [chunks, chunk], frames [1] -> audio [chunks, chunk], next state.

        `frames`: how many frames are real; from there on the decoder sees zero frames, as upstream's padding of a
        whole file does. State (job.py declares it): context, enc.i, dec.mem, dec.j, out.
        """
        c = self.config
        chunks = audio.shape[0]
        total = chunks * c.dec_chunk_size
        states = States(state)

        x = audio.reshape(-1)
        if c.context:
            x = states.join(x)
        tap("in_conv.in", x)
        x = x.view(-1, c.L)
        if c.context:
            x = torch.cat((x[:-2], x[1:-1], x[2:]), dim=1)
        x = torch.relu(self.in_conv(x))  # [frames, enc_dim]
        tap("in_conv.out", x)
        tap("label", self.label)

        h = x
        for i, layer in enumerate(self.encoder):
            h = h + layer(h, states, f"enc.{i}")
        tap("enc.out", h)

        masked = h * self.label
        if self.proj:
            tap("proj_e2d_l.in", masked)
            pairs = torch.relu((h.unflatten(-1, (c.dec_dim, -1)) * self.down).sum(-1) + self.down_bias)
            e, m = pairs[0], pairs[1]
            tap("proj_e2d_e.out", e)
            tap("proj_e2d_l.out", m)
        else:
            e, m = h, masked
        real = (torch.arange(total, device=audio.device) < frames).to(audio.dtype)[:, None]
        m = self._decode(m * real, e * real, chunks, states)
        tap("dec.out", m)

        if self.proj:
            m = torch.relu((m.unsqueeze(-1) * self.up).flatten(-2) + self.up_bias)
            tap("proj_d2e.out", m)
        if self.skip:
            m = masked + m
        tap("mask", m)

        z = states.join(x * m)
        tap("out_conv.in", z)
        z = torch.cat([z[k : k + total] for k in range(c.out_buf_len + 1)], dim=1)
        y = torch.tanh(z @ self.out_conv)
        tap("out_conv.out", y)
        return y.view(chunks, c.chunk), *states.after

    def _decode(self, t: Tensor, mem: Tensor, chunks: int, states: States) -> Tensor:
        """t, mem [frames, dec_dim] -> [frames, dec_dim]. Window w: frames w chunk .. w chunk + context + chunk."""
        A, C = self.config.dec_buf_len, self.config.dec_chunk_size
        starts = torch.arange(chunks, device=t.device)[:, None] * C
        windows = starts + torch.arange(A + C, device=t.device)
        mem = states.join(mem)
        for j, layer in enumerate(self.decoder):
            q = t.view(-1, C, t.shape[-1])
            own = states.join(t)
            if j == 0 and self.positions is not None:
                q = q + self.positions
            name = f"dec.{j}"
            tap(f"{name}.tgt_win", self._window(own, windows, j == 0))
            tap(f"{name}.mem_win", self._window(mem, windows, True))
            q = layer(q, own, mem, windows, name)
            tap(f"{name}.out", q)
            t = q.flatten(0, 1)
        return t

    def _window(self, frames: Tensor, windows: Tensor, positions: bool) -> Tensor:
        gathered = frames[windows]
        return gathered + self._table if positions and self._table is not None else gathered


def _label(w: Weights, width: int) -> Tensor:
    """The label MLP of the only label there is, the scalar zero: a constant [width]."""
    zero = w.take("0.weight", LABEL_HIDDEN, 1) @ torch.zeros(1) + w.take("0.bias", LABEL_HIDDEN)
    hidden = torch.relu(LayerNorm(w.at("1"), LABEL_HIDDEN)(zero))
    out: Tensor = torch.relu(LayerNorm(w.at("4"), width)(Linear.of(w.at("3"), LABEL_HIDDEN, width)(hidden)))
    return out
