"""Names, shapes, spread and constants of the tensors of an XCodec2 (docs/systems/t5gemma.md 6.4)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from benchmarks.fullsize import release
from benchmarks.fullsize.release import Shapes

WINDOW = "generator.head.istft.window"
TAPS = 12  # of the filters around a Snake
UNITS = 3  # residual units in a block of the acoustic encoder


@dataclass(frozen=True)
class Sizes:
    """What config.json says, or upstream's constructors where it is silent."""

    semantic: int = 1024
    acoustic: int = 1024
    decoder: int = 1024
    channels: int = 48  # of the acoustic encoder's first convolution
    ratios: tuple[int, ...] = (2, 2, 4, 4, 5)
    depth: int = 12
    levels: int = 8  # how many; each is 4
    hop: int = 320
    kernels: tuple[int, ...] = ()  # of the upsampler, which the 16 kHz codec lacks
    layers: int = 24  # of w2v-BERT; upstream runs the first 16
    ffn: int = 4096
    heads: int = 16
    features: int = 160
    reach: tuple[int, int] = (64, 8)  # distances to the left and right that attention tells apart
    kernel: int = 31

    @classmethod
    def of(cls, config: Mapping[str, Any], bert: Mapping[str, Any]) -> "Sizes":
        """The two config.json of a release."""
        names = {
            "semantic": "semantic_hidden_size",
            "acoustic": "codec_encoder_hidden_size",
            "decoder": "codec_decoder_hidden_size",
            "channels": "ngf",
            "ratios": "up_ratios",
            "depth": "depth",
            "hop": "hop_length",
            "kernels": "upsample_kernel_sizes",
        }
        fields: dict[str, Any] = {name: config[key] for name, key in names.items() if key in config}
        if "fsq_levels" in config:
            fields["levels"] = len(config["fsq_levels"])
        fields |= {
            "layers": bert["num_hidden_layers"],
            "ffn": bert["intermediate_size"],
            "heads": bert["num_attention_heads"],
            "features": bert["feature_projection_input_dim"],
            "reach": (bert["left_max_position_embeddings"], bert["right_max_position_embeddings"]),
            "kernel": bert["conv_depthwise_kernel_size"],
        }
        return cls(**fields)


def shapes(c: Sizes) -> Shapes:
    """Every tensor of model.safetensors, also those that nobody needs."""
    out = Shapes()
    _bert(out, "semantic_model", c)
    _adapter(out, "SemanticEncoder_module", c.semantic)
    _acoustic(out, "CodecEnc", c)
    both = c.semantic + c.acoustic
    _layer(out, "fc_prior", both, both)
    _layer(out, "fc_post_a", c.decoder, both)
    _layer(out, "generator.quantizer.project_in", c.levels, both)
    _layer(out, "generator.quantizer.project_out", both, c.levels)
    _decoder(out, "generator", c)
    return out


def _layer(out: Shapes, name: str, *shape: int) -> None:
    out |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}


def _normed(out: Shapes, name: str, *shape: int, bias: int | None = None) -> None:
    """A convolution whose weight is split into length and direction; `bias`: how many, if not as many as rows."""
    norm = f"{name}.parametrizations.weight.original"
    out |= {f"{name}.bias": (bias or shape[0],), f"{norm}0": (shape[0], 1, 1), f"{norm}1": shape}


def _bert(out: Shapes, prefix: str, c: Sizes) -> None:
    width, ffn = c.semantic, c.ffn
    out[f"{prefix}.masked_spec_embed"] = (width,)
    _layer(out, f"{prefix}.feature_projection.layer_norm", c.features)
    _layer(out, f"{prefix}.feature_projection.projection", width, c.features)
    for i in range(c.layers):
        layer = f"{prefix}.encoder.layers.{i}"
        for name in ("ffn1", "ffn2"):
            _layer(out, f"{layer}.{name}.intermediate_dense", ffn, width)
            _layer(out, f"{layer}.{name}.output_dense", width, ffn)
        for name in ("q", "k", "v", "out"):
            _layer(out, f"{layer}.self_attn.linear_{name}", width, width)
        out[f"{layer}.self_attn.distance_embedding.weight"] = (sum(c.reach) + 1, width // c.heads)
        conv = f"{layer}.conv_module"
        out[f"{conv}.pointwise_conv1.weight"] = (2 * width, width, 1)
        out[f"{conv}.depthwise_conv.weight"] = (width, 1, c.kernel)
        out[f"{conv}.pointwise_conv2.weight"] = (width, width, 1)
        for name in ("ffn1", "self_attn", "ffn2", "final"):
            _layer(out, f"{layer}.{name}_layer_norm", width)
        for name in ("layer_norm", "depthwise_layer_norm"):
            _layer(out, f"{conv}.{name}", width)


def _adapter(out: Shapes, prefix: str, width: int) -> None:
    for name in ("initial_conv", "final_conv"):
        out[f"{prefix}.{name}.weight"] = (width, width, 3)
    for i in (1, 3):
        _layer(out, f"{prefix}.residual_blocks.{i}", width, width, 3)


def _acoustic(out: Shapes, prefix: str, c: Sizes) -> None:
    width = c.channels
    _normed(out, f"{prefix}.conv_blocks.0", width, 1, 7)
    for i, ratio in enumerate(c.ratios):
        block = f"{prefix}.conv_blocks.{i + 1}.block"
        for unit in range(UNITS):
            _snake(out, f"{block}.{unit}.block.0", width)
            _normed(out, f"{block}.{unit}.block.1", width, width, 7)
            _snake(out, f"{block}.{unit}.block.2", width)
            _normed(out, f"{block}.{unit}.block.3", width, width, 1)
        _snake(out, f"{block}.{UNITS}", width)
        _normed(out, f"{block}.{UNITS + 1}", 2 * width, width, 2 * ratio)
        width *= 2
    _snake(out, f"{prefix}.conv_final_block.0", width)
    _normed(out, f"{prefix}.conv_final_block.1", c.acoustic, width, 3)


def _snake(out: Shapes, name: str, width: int) -> None:
    out |= {f"{name}.act.{part}": (width,) for part in ("alpha", "beta")}
    out |= {f"{name}.{part}.filter": (1, 1, TAPS) for part in ("upsample", "downsample.lowpass")}


def _decoder(out: Shapes, prefix: str, c: Sizes) -> None:
    width, net = c.decoder, f"{prefix}.backbone"
    _layer(out, f"{net}.embed", width, width, 7)
    for i in (0, 1):
        for place in ("prior_net", "post_net"):
            _resnet(out, f"{net}.{place}.{i}", width)
    for i in range(c.depth):
        layer = f"{net}.transformers.{i}"
        out[f"{layer}.att_norm.weight"] = out[f"{layer}.ffn_norm.weight"] = (width,)
        out[f"{layer}.att.c_attn.weight"] = (3 * width, width)
        out[f"{layer}.att.c_proj.weight"] = (width, width)
        out[f"{layer}.mlp.fc1.weight"], out[f"{layer}.mlp.fc2.weight"] = (4 * width, width), (width, 4 * width)
    _layer(out, f"{net}.final_layer_norm", width)
    narrow = width
    for i, kernel in enumerate(c.kernels):
        _normed(out, f"{prefix}.upsampler.upsample_layers.{i}", narrow, narrow // 2, kernel, bias=narrow // 2)
        narrow //= 2
        _resnet(out, f"{prefix}.upsampler.resnet_blocks.{i}", narrow)
    if c.kernels:
        _layer(out, f"{prefix}.upsampler.out_proj", width, narrow)
    _layer(out, f"{prefix}.head.out", 4 * c.hop + 2, width)
    out[WINDOW] = (4 * c.hop,)


def _resnet(out: Shapes, name: str, width: int) -> None:
    for i in (1, 2):
        _layer(out, f"{name}.norm{i}", width)
        _layer(out, f"{name}.conv{i}", width, width, 3)


def spread(name: str, shape: tuple[int, ...]) -> tuple[float, float]:
    """(mean, standard deviation) of a tensor, by its name in the release."""
    if name.endswith(("act.alpha", "act.beta")):  # logarithms
        return 0.0, 0.2
    if name.endswith("original0"):  # what a residual unit adds is small, or 15 of them would be loud
        length = 0.3 if ".block.3.parametrizations" in name else 1.0
        return length, 0.05 * length
    mean, deviation = release.spread(name, shape)
    return mean, deviation * 0.5 if name == "generator.head.out.weight" else deviation  # of logarithms


def constants(names: Shapes) -> dict[str, np.ndarray[Any, np.dtype[np.float32]]]:
    """The tensors among `names` that training does not change: the filters around Snakes and the window."""
    low = _lowpass()
    values = {name: low for name in names if name.endswith(".filter")}
    return values | {WINDOW: torch.hann_window(*names[WINDOW]).numpy()}


def _lowpass() -> np.ndarray[Any, np.dtype[np.float32]]:
    """Kaiser's window over a sinc: cut off at a quarter of the rate, 0.6 of it wide, sums to 1."""
    attenuation = 2.285 * (TAPS // 2 - 1) * np.pi * 4 * 0.3 + 7.95
    window = np.kaiser(TAPS, 0.1102 * (attenuation - 8.7))
    taps = window * np.sinc((np.arange(TAPS) - TAPS // 2 + 0.5) / 2)
    out: np.ndarray[Any, np.dtype[np.float32]] = (taps / taps.sum()).astype(np.float32)
    return out
