"""Names, shapes and spread of the tensors of a Fun-CosyVoice3 release (docs/systems/cosyvoice3.md 3, 4 and 5)."""

import re
from collections.abc import Mapping
from typing import TypeVar

from benchmarks.fullsize.release import Shapes
from voxport_exporters.systems.cosyvoice3.config import Config, HiftConfig

T = TypeVar("T")
EMBEDDINGS, LM_HEAD = "llm.model.model.embed_tokens.weight", "llm.model.lm_head.weight"  # one tensor under two names
INV_FREQ = "decoder.estimator.rotary_embed.inv_freq"  # not random
TIME = 256  # channels of the sinusoids of the time
CONV_POSITION = (31, 16)  # kernel and groups of the DiT's convolutions over positions
# Deviation times the root of the number of inputs, 1 where nothing is said. With these a signal grows to at most five
# times its loudness through all layers, the mel is about -5 +- 2.5 and no sample is clipped.
GAINS = {
    r"self_attn\.[qk]_proj|attn\.to_[qk]": 1.4,
    r"self_attn\.o_proj|mlp\.down_proj": 0.5,
    r"llm_decoder": 2.0,
    r"attn_norm\.linear|norm_out\.linear": 1.5,
    r"input_embed\.proj": 0.5,
    r"proj_out": 1.4,
    r"source_downs": 3.0,
    r"m_source\.l_linear": 6.0,
    r"f0_predictor\.classifier": 180.0,
}
# Length of a kernel with weight norm.
LENGTHS = {r"conv_pre": 1.1, r"ups": 0.88, r"resblocks": 0.54, r"conv_post": 0.234, r"f0_predictor": 0.98}
# (mean, deviation) of a bias; others have (0, 0.05).
BIASES = {r"proj_out": (-4.9, 1.0), r"conv_post": (-1.0, 1.0), r"classifier": (55.0, 0.0), r"_proj": (0.0, 0.1)}


def llm(config: Config) -> Shapes:
    """llm.pt; LM_HEAD is EMBEDDINGS once more."""
    c, shapes = config.decoder, Shapes()
    shapes[EMBEDDINGS] = shapes[LM_HEAD] = (c.vocab, c.width)
    for i in range(len(c.mixers)):
        layer = f"llm.model.model.layers.{i}"
        for name, rows in (("q", c.heads), ("k", c.kv_heads), ("v", c.kv_heads)):
            shapes[f"{layer}.self_attn.{name}_proj.weight"] = (rows * c.head_size, c.width)
            shapes[f"{layer}.self_attn.{name}_proj.bias"] = (rows * c.head_size,)
        shapes[f"{layer}.self_attn.o_proj.weight"] = (c.width, c.heads * c.head_size)
        for name in ("gate", "up"):
            shapes[f"{layer}.mlp.{name}_proj.weight"] = (c.ffn, c.width)
        shapes[f"{layer}.mlp.down_proj.weight"] = (c.width, c.ffn)
        for name in ("input_layernorm", "post_attention_layernorm"):
            shapes[f"{layer}.{name}.weight"] = (c.width,)
    shapes["llm.model.model.norm.weight"] = (c.width,)
    shapes["llm_decoder.weight"] = shapes["speech_embedding.weight"] = (config.llm.rows, c.width)
    return shapes


def flow(config: Config) -> Shapes:
    """flow.pt."""
    c, shapes = config.flow, Shapes()
    dit, ahead, estimator = c.dit, c.lookahead, "decoder.estimator"
    shapes["input_embedding.weight"] = (c.vocab_size, c.input_size)
    _layer(shapes, "spk_embed_affine_layer", c.output_size, c.spk_embed_dim)
    _layer(shapes, "pre_lookahead_layer.conv1", ahead.channels, ahead.in_channels, ahead.pre_lookahead_len + 1)
    _layer(shapes, "pre_lookahead_layer.conv2", ahead.in_channels, ahead.channels, 3)
    _layer(shapes, f"{estimator}.time_embed.time_mlp.0", dit.dim, TIME)
    _layer(shapes, f"{estimator}.time_embed.time_mlp.2", dit.dim, dit.dim)
    _layer(shapes, f"{estimator}.input_embed.proj", dit.dim, 2 * dit.mel_dim + dit.mu + dit.speaker)
    kernel, groups = CONV_POSITION
    for i in (1, 2):
        _layer(shapes, f"{estimator}.input_embed.conv_pos_embed.conv{i}.0", dit.dim, dit.dim // groups, kernel)
    shapes[INV_FREQ] = (dit.dim_head // 2,)
    for i in range(dit.depth):
        block = f"{estimator}.transformer_blocks.{i}"
        _layer(shapes, f"{block}.attn_norm.linear", 6 * dit.dim, dit.dim)
        for name in "qkv":
            _layer(shapes, f"{block}.attn.to_{name}", dit.inner, dit.dim)
        _layer(shapes, f"{block}.attn.to_out.0", dit.dim, dit.inner)
        _layer(shapes, f"{block}.ff.ff.0.0", dit.ff_mult * dit.dim, dit.dim)
        _layer(shapes, f"{block}.ff.ff.2", dit.dim, dit.ff_mult * dit.dim)
    _layer(shapes, f"{estimator}.norm_out.linear", 2 * dit.dim, dit.dim)
    _layer(shapes, f"{estimator}.proj_out", dit.mel_dim, dit.dim)
    return shapes


def hift(config: Config) -> Shapes:
    """hift.pt. Weight norms have torch's newer names."""
    c, shapes = config.hift, Shapes()
    spectrum = c.istft_params.n_fft + 2
    _layer(shapes, "m_source.l_linear", 1, c.harmonics)
    _normed(shapes, "conv_pre", c.base_channels, c.in_channels, c.conv_pre_look_right + 1)
    width = c.base_channels
    for i, (kernel, rate) in enumerate(zip(c.upsample_kernel_sizes, _source_rates(c), strict=True)):
        _normed(shapes, f"ups.{i}", width // 2, width, kernel)
        width //= 2
        _layer(shapes, f"source_downs.{i}", width, spectrum, 1 if rate == 1 else 2 * rate)
        source = c.source_resblock_kernel_sizes[i], c.source_resblock_dilation_sizes[i]
        _block(shapes, f"source_resblocks.{i}", width, *source)
        blocks = len(c.resblock_kernel_sizes)
        for j, sizes in enumerate(zip(c.resblock_kernel_sizes, c.resblock_dilation_sizes, strict=True)):
            _block(shapes, f"resblocks.{i * blocks + j}", width, *sizes)
    _normed(shapes, "conv_post", spectrum, width, 7)
    inputs, kernel = c.f0_predictor.in_channels, 4
    for i in range(0, 10, 2):
        _normed(shapes, f"f0_predictor.condnet.{i}", c.f0_predictor.cond_channels, inputs, kernel)
        inputs, kernel = c.f0_predictor.cond_channels, 3
    _layer(shapes, "f0_predictor.classifier", c.f0_predictor.num_class, c.f0_predictor.cond_channels)
    return shapes


def _source_rates(config: HiftConfig) -> list[int]:
    """How far the source's spectrum is brought down for each stage: by all the rates that follow."""
    rates, rate = [], 1
    for following in (*config.upsample_rates[:0:-1], 1):
        rates.append(rate)
        rate *= following
    return rates[::-1]


def _block(shapes: Shapes, name: str, width: int, kernel: int, dilations: tuple[int, ...]) -> None:
    for i in range(len(dilations)):
        for j in (1, 2):
            _normed(shapes, f"{name}.convs{j}.{i}", width, width, kernel)
            shapes[f"{name}.activations{j}.{i}.alpha"] = (width,)


def _layer(shapes: Shapes, name: str, *shape: int) -> None:
    shapes |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}


def _normed(shapes: Shapes, name: str, *shape: int) -> None:
    norm = f"{name}.parametrizations.weight.original"
    shapes |= {f"{name}.bias": shape[:1], f"{norm}0": (shape[0], 1, 1), f"{norm}1": shape}


def spread(name: str, shape: tuple[int, ...]) -> tuple[float, float]:
    """(mean, standard deviation) of a tensor, by its name in the release."""
    if name.endswith("bias"):
        return _first(BIASES, name, (0.0, 0.05))
    if name.endswith("original0"):
        length = _first(LENGTHS, name, 1.0)
        return length, 0.05 * length
    if name.endswith("original1"):
        return 0.0, 0.05
    if name.endswith("alpha"):
        return 1.2, 0.3
    if len(shape) == 1:  # an RMS norm
        return 1.0, 0.05
    if "embedding.weight" in name or name == EMBEDDINGS:
        return 0.0, 1.0
    inputs = 1
    for size in shape[1:]:
        inputs *= size
    return 0.0, float(_first(GAINS, name, 1.0) * inputs**-0.5)


def _first(table: Mapping[str, T], name: str, otherwise: T) -> T:
    return next((value for pattern, value in table.items() if re.search(pattern, name)), otherwise)
