"""A decoder's config, read from a config.json of transformers, in its old and new spelling (docs/systems/vyvo.md 1.2).

Families: lfm2 (attention and short convolutions mixed), qwen2 (biased q, k, v), qwen3 (normed q, k), llama.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from voxport_exporters.nets.ops import ACTIVATIONS

Mixer = Literal["full", "sliding", "conv"]
FAMILIES = ("lfm2", "qwen2", "qwen3", "llama")
_MIXERS: dict[str, Mixer] = {"full_attention": "full", "sliding_attention": "sliding", "conv": "conv"}


@dataclass(frozen=True)
class Rope:
    """Rotary positions: how far each pair of channels turns per position."""

    theta: float
    kind: Literal["default", "linear", "llama3"] = "default"
    factor: float = 1.0
    low: float = 1.0  # llama3: slower than `original / low` positions per turn: divided by factor
    high: float = 4.0  # llama3: faster than `original / high` positions per turn: kept
    original: int = 8192

    def frequencies(self, size: int) -> Tensor:
        """Radians per position [size / 2] of a head of `size` channels; channel i turns with channel i + size / 2."""
        steps = torch.arange(0, size, 2, dtype=torch.int64).to(torch.float32) / size
        turning = 1.0 / (self.theta**steps)
        if self.kind == "linear":
            return turning / self.factor
        if self.kind == "llama3":
            turns = self.original * turning / (2 * math.pi)
            keep = ((turns - self.low) / (self.high - self.low)).clamp(0, 1)
            return (1 - keep) * turning / self.factor + keep * turning
        return turning


@dataclass(frozen=True)
class DecoderConfig:
    """Sizes and choices of one decoder, whichever family spelled them."""

    family: str
    vocab: int
    width: int
    mixers: tuple[Mixer, ...]  # one per layer
    heads: int
    kv_heads: int
    head_size: int
    ffn: int
    eps: float
    rope: Rope
    activation: str = "silu"
    tied: bool = True  # the head is the embedding
    qk_norm: bool = False
    qkv_bias: bool = False
    out_bias: bool = False
    mlp_bias: bool = False
    window: int = 0  # tokens a sliding layer sees, itself included
    kernel: int = 0  # of the short convolutions
    conv_bias: bool = False

    @property
    def attends(self) -> list[int]:
        """Indices of the attention layers."""
        return [i for i, mixer in enumerate(self.mixers) if mixer != "conv"]

    @classmethod
    def of(cls, held: Mapping[str, Any]) -> "DecoderConfig":
        """From the dict of a config.json. ValueError in one line says what is missing, contradictory or unknown."""
        family = held.get("model_type")
        if family not in FAMILIES:
            raise ValueError(f"model_type {family!r}: wanted one of {', '.join(FAMILIES)}")
        try:
            config = _lfm2(held) if family == "lfm2" else _llama(held, family)
        except KeyError as error:
            raise ValueError(f"model_type {family}: no {error.args[0]} in the config") from None
        config._check()
        return config

    def _check(self) -> None:
        laws = {
            "heads are a multiple of key/value heads": self.heads % self.kv_heads == 0,
            "the head size is even (rotary halves)": self.head_size % 2 == 0,
            f"the activation {self.activation!r} is one of {', '.join(ACTIVATIONS)}": self.activation in ACTIVATIONS,
            "sliding layers come with a window >= 1": "sliding" not in self.mixers or self.window >= 1,
            "short convolutions have a kernel >= 1": "conv" not in self.mixers or self.kernel >= 1,
            "there is a layer": bool(self.mixers),
        }
        for law, holds in laws.items():
            if not holds:
                raise ValueError(f"model_type {self.family}: {law} does not hold")


def _lfm2(held: Mapping[str, Any]) -> DecoderConfig:
    count = held["num_hidden_layers"]
    attends = held.get("full_attn_idxs")
    full = range(count) if attends is None else attends
    types = held.get("layer_types") or ["full_attention" if i in full else "conv" for i in range(count)]
    ffn = held["block_ff_dim"] if "block_ff_dim" in held else held["intermediate_size"]
    if held.get("block_auto_adjust_ff_dim", True):
        ffn = int(2 * ffn / 3)
        if (multiplier := held.get("block_ffn_dim_multiplier", 1.0)) is not None:
            multiple = held.get("block_multiple_of", 256)
            ffn = -(-int(multiplier * ffn) // multiple) * multiple
    heads = held["num_attention_heads"]
    return DecoderConfig(
        family="lfm2",
        vocab=held["vocab_size"],
        width=held["hidden_size"],
        mixers=_mixers(types, count),
        heads=heads,
        kv_heads=held.get("num_key_value_heads", 8),
        head_size=held.get("head_dim") or held["hidden_size"] // heads,
        ffn=ffn,
        eps=held.get("norm_eps", 1e-5),
        rope=_rope(held, default=1e6),
        tied=held.get("tie_embedding", held.get("tie_word_embeddings", True)),
        qk_norm=True,
        kernel=held.get("conv_L_cache", 3),
        conv_bias=held.get("conv_bias", False),
    )


def _llama(held: Mapping[str, Any], family: str) -> DecoderConfig:
    count, heads, width = held["num_hidden_layers"], held["num_attention_heads"], held["hidden_size"]
    window = held.get("sliding_window") if family != "llama" and held.get("use_sliding_window", False) else None
    types = held.get("layer_types") or [
        "sliding_attention" if window is not None and i >= held.get("max_window_layers", 28) else "full_attention"
        for i in range(count)
    ]
    bias = held.get("attention_bias", False) and family != "qwen2"
    return DecoderConfig(
        family=family,
        vocab=held["vocab_size"],
        width=width,
        mixers=_mixers(types, count),
        heads=heads,
        kv_heads=held.get("num_key_value_heads") or heads,
        head_size=held.get("head_dim") or (128 if family == "qwen3" else width // heads),
        ffn=held["intermediate_size"],
        eps=held.get("rms_norm_eps", 1e-6),
        rope=_rope(held, default=1e4),
        activation=held.get("hidden_act", "silu"),
        tied=held.get("tie_word_embeddings", False),
        qk_norm=family == "qwen3",
        qkv_bias=bias or family == "qwen2",
        out_bias=bias,
        mlp_bias=family == "llama" and held.get("mlp_bias", False),
        window=window or 0,
    )


def _mixers(types: list[str], count: int) -> tuple[Mixer, ...]:
    unknown = sorted(set(types) - _MIXERS.keys())
    if unknown or len(types) != count:
        raise ValueError(f"layer_types: wanted {count} of {', '.join(_MIXERS)}, got {len(types)} with {unknown}")
    return tuple(_MIXERS[t] for t in types)


def _rope(held: Mapping[str, Any], default: float) -> Rope:
    given = held.get("rope_parameters") or held.get("rope_scaling") or {}
    kind = given.get("rope_type") or given.get("type") or "default"
    if "mrope_section" in given:
        kind = "default"  # three equal position rows: the sections change nothing (docs/systems/qwen3tts.md 4)
    theta = given.get("rope_theta") or held.get("rope_theta") or default
    partial = given.get("partial_rotary_factor", held.get("partial_rotary_factor"))
    if kind not in ("default", "linear", "llama3") or partial not in (None, 1, 1.0):
        raise ValueError(f"rope {kind!r} (partial {partial}) is not known; known are default, linear and llama3")
    if kind == "default":
        return Rope(theta)
    if kind == "linear":
        return Rope(theta, "linear", given["factor"])
    original = given.get("original_max_position_embeddings") or held["max_position_embeddings"]
    return Rope(theta, "llama3", given["factor"], given["low_freq_factor"], given["high_freq_factor"], original)
