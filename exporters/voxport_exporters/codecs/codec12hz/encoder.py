"""The Qwen3-TTS 12 Hz codec encoder (MimiModel of transformers as upstream uses it; docs/systems/qwen3tts.md 8).

Two graphs. `Analysis`, the convolutions from the waveform to one vector per 40 ms, looks only left and carries its
state, so that a reference of any length is read in pieces; `Encoder`, a transformer with full causal attention (the
config's sliding window is ignored upstream) and the quantizer, sees the whole of it at once.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from voxport_exporters.checkpoints.weights import Weights
from voxport_exporters.codecs.codec12hz.attention import attend, attention_weights, frequencies, split_heads
from voxport_exporters.codecs.codec12hz.config import EncoderConfig
from voxport_exporters.codecs.codec12hz.decoder import codebook
from voxport_exporters.nets import ops
from voxport_exporters.nets.conv import Conv, causal
from voxport_exporters.nets.dense import LayerNorm, Linear, frozen
from voxport_exporters.nets.rotary import cos_sin, turn
from voxport_exporters.nets.states import States
from voxport_exporters.nets.taps import tap


class Unit(nn.Module):
    """x + conv1(ELU(conv(ELU(x))))."""

    def __init__(self, w: Weights, config: EncoderConfig, width: int, dilation: int) -> None:
        super().__init__()
        narrow = width // config.compress
        self.conv = Conv.of(w.at("block.1.conv"), width, narrow, config.residual_kernel_size, dilation=dilation)
        self.project = Conv.of(w.at("block.3.conv"), narrow, width, 1)
        self.shortcut = Conv.of(w.at("shortcut.conv"), width, width, 1) if config.use_conv_shortcut else None

    def forward(self, x: Tensor, states: States) -> Tensor:
        y: Tensor = self.project(F.elu(causal(self.conv, F.elu(x), states)))
        return y + (x if self.shortcut is None else self.shortcut(x))


class Block(nn.Module):
    """Residual units, ELU, and a convolution that makes one step of `ratio`."""

    def __init__(self, layers: Weights, config: EncoderConfig, index: int, width: int, ratio: int) -> None:
        """`index`: of the first layer in upstream's list, where the ELU has a place of its own."""
        super().__init__()
        count, growth = config.num_residual_layers, config.dilation_growth_rate
        self.units = nn.ModuleList(Unit(layers.at(str(index + j)), config, width, growth**j) for j in range(count))
        self.down = Conv.of(layers.at(f"{index + count + 1}.conv"), width, 2 * width, 2 * ratio, stride=ratio)

    def forward(self, x: Tensor, real: Tensor, states: States) -> tuple[Tensor, Tensor]:
        """x [1, width, steps], of which `real` int64 [1] are -> [1, 2 width, steps / ratio], how many of those are."""
        for unit in self.units:
            x = unit(x, states)
        inside = torch.arange(x.shape[-1], device=x.device) < real
        x = causal(self.down, F.elu(x) * inside.to(x.dtype), states)
        ratio = self.down.stride
        return x, torch.div(real + ratio - 1, ratio, rounding_mode="trunc")


class Analysis(nn.Module):
    """audio [frames, samples per frame] -> features [frames, steps per frame, hidden].

    `samples` int64 [1]: how many are real. Upstream pads every strided convolution's own input with zeros up to a whole
    window; here the audio is padded to whole frames, and what grows out of the padding is set to zero instead.
    """

    def __init__(self, w: Weights, config: EncoderConfig) -> None:
        super().__init__()
        self.config = c = config
        layers, width, index = w.at("encoder.layers"), c.num_filters, 1
        self.enter = Conv.of(layers.at("0.conv"), 1, width, c.kernel_size)
        self.blocks = nn.ModuleList()
        for ratio in c.ratios:
            self.blocks.append(Block(layers, c, index, width, ratio))
            width, index = 2 * width, index + c.num_residual_layers + 2
        self.leave = Conv.of(layers.at(f"{index + 1}.conv"), width, c.hidden_size, c.last_kernel_size)

    def forward(self, audio: Tensor, samples: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        frames, states = audio.shape[0], States(state)
        x = causal(self.enter, audio.reshape(1, 1, -1), states)
        real = samples
        for block in self.blocks:
            x, real = block(x, real, states)
        x = causal(self.leave, F.elu(x), states)
        tap("enc.conv_out", x)
        return x.squeeze(0).T.reshape(frames, self.config.stride, self.config.hidden_size), *states.after


class Layer(nn.Module):
    """Pre-norm transformer layer with rotary attention; layer scales are folded into weights."""

    def __init__(self, w: Weights, config: EncoderConfig) -> None:
        super().__init__()
        hidden, wide = config.hidden_size, config.intermediate_size
        self.heads, self.shared = config.num_attention_heads, config.num_key_value_heads
        self.act = ops.ACTIVATIONS[config.hidden_act]
        self.norm1 = LayerNorm(w.at("input_layernorm"), hidden, config.norm_eps)
        self.norm2 = LayerNorm(w.at("post_attention_layernorm"), hidden, config.norm_eps)
        scales = [w.take(f"{part}_layer_scale.scale", hidden) for part in ("self_attn", "mlp")]
        self.qkv, self.out = attention_weights(w.at("self_attn"), config, scales[0])
        self.wide = Linear.of(w.at("mlp.fc1"), hidden, wide, bias=False)
        self.narrow = Linear.of(w.at("mlp.fc2"), wide, hidden, bias=False, gain=scales[1])

    def forward(self, x: Tensor, angles: tuple[Tensor, Tensor], mask: Tensor) -> Tensor:
        """x [steps, hidden] -> same shape; `angles`: cosine and sine of their positions."""
        q, k, v = split_heads(self.qkv(self.norm1(x)), self.heads, self.shared)
        x = x + self.out(attend(turn(q, *angles), turn(k, *angles).transpose(1, 2), v, mask))
        out: Tensor = x + self.narrow(self.act(self.wide(self.norm2(x))))
        return out


class Quantizer(nn.Module):
    """Residual vector quantizer: each level takes the nearest row of its codebook from what the levels before left."""

    def __init__(self, w: Weights, config: EncoderConfig, levels: int, stored: int) -> None:
        """`levels` of the `stored` ones are in use."""
        super().__init__()
        width = config.vector_quantization_hidden_dimension
        self.project = Linear(w.take("input_proj.weight", width, config.hidden_size, 1)[..., 0].T)
        books = [w.at(f"layers.{i}.codebook") for i in range(levels)]
        self.tables = nn.ParameterList(frozen(codebook(b, config.codebook_size, width, "embed_sum")) for b in books)
        self.scores = nn.ModuleList(Linear(-2 * t.T, t.square().sum(1)) for t in self.tables)
        for i in range(levels, stored):
            w.drop(f"layers.{i}.codebook.*", "a level beyond encoder_valid_num_quantizers")
        w.drop("layers.*.codebook.initialized", "training only")
        w.drop("output_proj.weight", "dequantizes; the encoder does not")

    def forward(self, x: Tensor) -> list[Tensor]:
        """x [frames, hidden] -> codes [frames] of each level."""
        left, codes = self.project(x), []
        for table, score in zip(self.tables, self.scores, strict=True):
            codes.append(score(left).argmin(-1))  # |c|^2 - 2 x c: the distance less |x|^2
            left = left - F.embedding(codes[-1], table)
        return codes


class Encoder(nn.Module):
    """features [frames, steps per frame, hidden], of which `steps` int64 [1] are real -> codes [frames, books]."""

    def __init__(self, w: Weights, config: EncoderConfig, books: int) -> None:
        super().__init__()
        self.config = c = config
        self.layers = nn.ModuleList(
            Layer(w.at(f"encoder_transformer.layers.{i}"), c) for i in range(c.num_hidden_layers)
        )
        self.frequencies = frequencies(c)
        if c.stride > 1:
            self.down = frozen(w.take("downsample.conv.weight", c.hidden_size, c.hidden_size, c.reach))
        q, semantic = w.at("quantizer"), min(c.num_semantic_quantizers, books)
        first, rest = (q.at(f"{kind}_residual_vector_quantizer") for kind in ("semantic", "acoustic"))
        self.first = Quantizer(first, c, semantic, c.num_semantic_quantizers)
        self.rest = Quantizer(rest, c, books - semantic, c.num_quantizers - c.num_semantic_quantizers)
        w.drop("upsample.*", "the decoder's; upstream never builds it")

    def forward(self, features: Tensor, steps: Tensor) -> Tensor:
        frames = features.shape[0]
        x = features.flatten(0, 1)
        at = torch.arange(x.shape[0], device=x.device)
        angles = cos_sin(at, self.frequencies)
        mask = torch.zeros(x.shape[0], x.shape[0], device=x.device).masked_fill(at[:, None] < at, -torch.inf)
        for layer in self.layers:
            x = layer(x, angles, mask)
        tap("enc.transformer_out", x.T[None])
        if self.config.stride > 1:
            # Both ends are continued by their last real value, so the last frame is whole.
            x = F.embedding(torch.minimum(at, (steps - 1).clamp(min=0)), x)
            x = torch.cat((*[x[:1]] * (self.config.reach - self.config.stride), x))
            x = F.conv1d(x.T[None], self.down, stride=self.config.stride).squeeze(0).T
        tap("enc.latent", x.T[None])
        codes = torch.stack(self.first(x) + self.rest(x), dim=1)
        return codes.view(frames, len(self.first.tables) + len(self.rest.tables))
