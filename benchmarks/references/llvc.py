"""LLVC as plain eager PyTorch: the baseline benchmarks must beat and the oracle for configs that no golden covers.

Layer for layer as upstream runs it (docs/systems/llvc.md 3): channels first, torch.nn layers, fp32, batch 1. Module
names are the released state dict's, so `load_state_dict(strict=True)` takes a release unchanged. Unlike upstream's
loader, which leaves dropout active, a net is born in eval mode; and state is handed back instead of written in place.

Sizes: L samples make one frame (1 ms in the releases); dec_chunk_size frames make one decoder chunk.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.references.llvc_layers import Decoder, Encoder, PreNet, last

LABEL_HIDDEN = 512


class State(NamedTuple):
    """What the net remembers between chunks, zeros at the start of a stream."""

    pre: tuple[Tensor, ...]  # pre-net layer i: [batch, channels in, (kernel - 1) * dilation] samples
    enc: tuple[Tensor, ...]  # encoder layer i: [batch, enc_dim, 2 * 2**i] frames
    dec: tuple[Tensor, ...]  # decoder memory, then the input of each layer: [batch, dec_buf_len, dec_dim] frames
    out: Tensor  # [batch, enc_dim, out_buf_len] masked frames


class MaskNet(nn.Module):
    """Frames to the mask laid over them: x [B, enc_dim, F], label [B, enc_dim] -> [B, enc_dim, F] (3.5 to 3.8)."""

    def __init__(self, enc_dim: int, dec_dim: int, enc_layers: int, decoder: Decoder, skip: bool, proj: bool) -> None:
        super().__init__()
        self.skip, self.proj = skip, proj
        self.encoder = Encoder(enc_dim, enc_layers)
        # The three projections are in the state dict even when proj = false leaves them unused.
        self.proj_e2d_e = nn.Sequential(nn.Conv1d(enc_dim, dec_dim, 1, groups=dec_dim), nn.ReLU())
        self.proj_e2d_l = nn.Sequential(nn.Conv1d(enc_dim, dec_dim, 1, groups=dec_dim), nn.ReLU())
        self.proj_d2e = nn.Sequential(nn.Conv1d(dec_dim, enc_dim, 1, groups=dec_dim), nn.ReLU())
        self.decoder = decoder

    def forward(self, x: Tensor, label: Tensor, state: State) -> tuple[Tensor, State]:
        e, enc = self.encoder(x, state.enc)
        labelled = label[:, :, None] * e
        if self.proj:
            m, dec = self.decoder(self.proj_e2d_l(labelled), self.proj_e2d_e(e), state.dec)
            m = self.proj_d2e(m)
        else:
            m, dec = self.decoder(labelled, e, state.dec)
        return labelled + m if self.skip else m, state._replace(enc=enc, dec=dec)


class LlvcReference(nn.Module):
    """The generator, from a config's model_params: LlvcReference(**model_params).

    Keys and defaults are upstream's (docs/systems/llvc.md 1); label_len is required and ignored there too.
    `front` is the pre-net, `body` everything after it; `forward` is both.
    """

    def __init__(
        self,
        *,
        label_len: int,  # noqa: ARG002
        convnet_config: Mapping[str, Any],
        L: int = 8,  # noqa: N803
        enc_dim: int = 512,
        num_enc_layers: int = 10,
        dec_dim: int = 256,
        dec_buf_len: int = 100,
        num_dec_layers: int = 2,
        dec_chunk_size: int = 72,
        out_buf_len: int = 2,
        use_pos_enc: bool = True,
        skip_connection: bool = True,
        proj: bool = True,
        lookahead: bool = True,
        decoder_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.hop = L
        self.chunk = dec_chunk_size * L
        self.lookahead = L if lookahead else 0  # samples a frame sees on either side of its own
        self.convnet_pre = PreNet(convnet_config) if convnet_config["convnet_prenet"] else None
        # None, and any word but add and multiply, replaces the signal by the pre-net's output.
        self.skip = convnet_config["skip_connection"] if self.convnet_pre else None
        self.in_conv = nn.Sequential(nn.Conv1d(1, enc_dim, L + 2 * self.lookahead, L, bias=False), nn.ReLU())
        self.label_embedding = nn.Sequential(
            nn.Linear(1, LABEL_HIDDEN),
            nn.LayerNorm(LABEL_HIDDEN),
            nn.ReLU(),
            nn.Linear(LABEL_HIDDEN, enc_dim),
            nn.LayerNorm(enc_dim),
            nn.ReLU(),
        )
        decoder = Decoder(dec_dim, dec_buf_len, dec_chunk_size, num_dec_layers, use_pos_enc, decoder_dropout)
        self.mask_gen = MaskNet(enc_dim, dec_dim, num_enc_layers, decoder, skip_connection, proj)
        self.out_conv = nn.Sequential(
            nn.ConvTranspose1d(enc_dim, 1, (out_buf_len + 1) * L, L, padding=out_buf_len * L, bias=False), nn.Tanh()
        )
        pre = self.convnet_pre
        self.zeros = State(
            pre=tuple(torch.zeros(1, *shape) for shape in zip(pre.channels, pre.context, strict=True)) if pre else (),
            enc=tuple(torch.zeros(1, enc_dim, 2 * 2**i) for i in range(num_enc_layers)),
            dec=tuple(torch.zeros(1, dec_buf_len, dec_dim) for _ in range(num_dec_layers + 1)),
            out=torch.zeros(1, enc_dim, out_buf_len),
        )
        self.eval()

    def front(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """The pre-net, if any, around its skip: [1, 1, T] samples -> [1, 1, T] (3.2)."""
        if self.convnet_pre is None:
            return x, state
        y, pre = self.convnet_pre(x, state.pre)
        y = x + y if self.skip == "add" else x * y if self.skip == "multiply" else y
        return y, state._replace(pre=pre)

    def body(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """[1, 1, F * L + 2 * lookahead] pre-net samples -> audio [1, 1, F * L] (3.3 to 3.8)."""
        x = self.in_conv(x)
        label = self.label_embedding(x.new_zeros(1, 1))
        mask, state = self.mask_gen(x, label, state)
        z = torch.cat((state.out, x * mask), dim=-1)
        return self.out_conv(z), state._replace(out=last(z, state.out.shape[-1]))

    def forward(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        x, state = self.front(x, state)
        return self.body(x, state)


def load(checkpoint: Path, variant: str | None = None) -> LlvcReference:
    """The net of a release folder; `variant` is needed only where the folder holds several."""
    variants = sorted(path.name for path in (checkpoint / "models/checkpoints").iterdir())
    if variant is None and len(variants) != 1:
        raise ValueError(f"{checkpoint}: wanted one variant in models/checkpoints, found {variants}; name one")
    name = variant or variants[0]
    config = json.loads((checkpoint / "experiments" / name / "config.json").read_text())
    [path] = (checkpoint / "models/checkpoints" / name).glob("G_*.pth")
    net = LlvcReference(**config["model_params"])
    net.load_state_dict(torch.load(path, weights_only=True)["model"])
    return net


@torch.inference_mode()
def offline(net: LlvcReference, audio: Tensor) -> Tensor:
    """The whole file at once: audio [T] -> [T] (3.1)."""
    rest = -len(audio) % net.hop
    y, _ = net(F.pad(audio, (net.lookahead, rest + net.lookahead))[None, None], net.zeros)
    converted: Tensor = y[0, 0, : len(audio)]
    return converted


@torch.inference_mode()
def stream(net: LlvcReference, audio: Tensor, chunk_factor: int) -> Tensor:
    """Upstream's streaming, pre-net misalignment and lost first L samples included: audio [T] -> [T] (section 4)."""
    if not net.lookahead:
        raise ValueError("upstream's streaming is broken for lookahead = false: use aligned() or offline()")
    size, context = net.chunk * chunk_factor, 2 * net.lookahead
    whole = F.pad(audio, (0, -len(audio) % size))
    shifted = F.pad(whole[net.lookahead :], (context, net.lookahead))
    state, converted = net.zeros, [audio[:0]]
    for k in range(0, len(whole), size):
        y, state = net(shifted[None, None, k : k + context + size], state)
        converted.append(y[0, 0])
    return torch.cat(converted)[: len(audio)]


@torch.inference_mode()
def aligned(net: LlvcReference, audio: Tensor, chunk_factor: int) -> Tensor:
    """Streaming that equals offline on every full chunk: audio [T] -> [T] (end of section 4).

    The pre-net sees each sample once; its last 2L outputs stay for the input convolution.
    """
    size, ahead = net.chunk * chunk_factor, net.lookahead
    whole = F.pad(audio, (0, -len(audio) % size + ahead))
    state, converted = net.zeros, [audio[:0]]
    tail = whole.new_zeros(1, 1, 0)
    if ahead:
        tail, state = net.front(F.pad(whole[:ahead], (ahead, 0))[None, None], state)
    for k in range(ahead, len(whole), size):
        new, state = net.front(whole[None, None, k : k + size], state)
        x = torch.cat((tail, new), dim=-1)
        tail = last(x, 2 * ahead)
        y, state = net.body(x, state)
        converted.append(y[0, 0])
    return torch.cat(converted)[: len(audio)]
