"""A decoder's config, read from a config.json of transformers, in its old and new spelling (docs/systems/vyvo.md 1.2).

Families: lfm2 (attention and short convolutions mixed), qwen2 (biased q, k, v), qwen3 (normed q, k), llama.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import msgspec
import torch
from torch import Tensor

from voxport_exporters.checkpoints.jsonfile import Count, Layers, NotNegative, Positive, Size, parse, short
from voxport_exporters.nets.checks import require
from voxport_exporters.nets.ops import ACTIVATIONS

Mixer = Literal["full", "sliding", "conv"]
FAMILIES = ("lfm2", "qwen2", "qwen3", "llama")
_CONTEXTS = {"lfm2": 128000, "qwen2": 32768, "qwen3": 32768, "llama": 2048}  # transformers' max_position_embeddings
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
    context: int  # positions it was trained for
    activation: str = "silu"
    tied: bool = True  # the head is the embedding
    qk_norm: bool = False
    qkv_bias: bool = False
    out_bias: bool = False
    mlp_bias: bool = False
    window: int = 0  # tokens a sliding layer sees, itself included
    kernel: int = 0  # of the short convolutions
    conv_bias: bool = False

    @classmethod
    def of(cls, params: Mapping[str, Any], where: str = "config") -> "DecoderConfig":
        """From the dict of a config.json; keys that do not concern the net are ignored.

        Raises ValueError in one line, which begins with `where`, when something is missing, contradictory or unknown.
        """
        family = params.get("model_type")
        if family not in FAMILIES:
            raise ValueError(f"{where}: model_type is {short(family)}, wanted one of {', '.join(FAMILIES)}")
        where = f"{where}: model_type {family}"
        fields = parse(params, _Lfm2, where) if family == "lfm2" else parse(params, _Llama, where)
        try:
            return fields.decoder(family)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from None

    def __post_init__(self) -> None:
        require(
            self.heads % self.kv_heads == 0,
            f"the number of heads, {self.heads}, is no multiple of that of key/value heads, {self.kv_heads}",
        )
        require(
            self.head_size % 2 == 0 < self.head_size,
            f"the head size is {self.head_size}, wanted an even one (rotary positions turn halves)",
        )
        require(
            self.activation in ACTIVATIONS,
            f"the activation is {self.activation!r}, wanted one of {', '.join(ACTIVATIONS)}",
        )
        require("sliding" not in self.mixers or self.window >= 1, "layers of sliding_attention need a sliding_window")
        require("conv" not in self.mixers or self.kernel >= 1, "short convolutions need a kernel of 1 or more")


class _RopeFields(msgspec.Struct, frozen=True):
    """`rope_parameters` or `rope_scaling`."""

    rope_type: str | None = None
    type: str | None = None
    mrope_section: list[int] | None = None
    rope_theta: Positive | None = None
    partial_rotary_factor: float | None = None
    factor: Positive | None = None
    low_freq_factor: Positive | None = None
    high_freq_factor: Positive | None = None
    original_max_position_embeddings: Size | None = None


class _Fields(msgspec.Struct, frozen=True, kw_only=True):
    """What every family's config.json holds. A null is what it is for transformers: mostly, as if it were absent."""

    vocab_size: Size
    hidden_size: Size
    num_hidden_layers: Layers
    num_attention_heads: Size
    head_dim: Size | None = None
    layer_types: list[str] | None = None
    max_position_embeddings: Size | None = None
    rope_parameters: _RopeFields | None = None
    rope_scaling: _RopeFields | None = None
    rope_theta: Positive | None = None
    partial_rotary_factor: float | None = None

    def mixers(self, default: list[str]) -> tuple[Mixer, ...]:
        """What mixes tokens in each layer, as `layer_types` says, or as by `default`."""
        types = self.layer_types or default
        unknown = sorted({*types} - _MIXERS.keys())
        require(
            not unknown and len(types) == self.num_hidden_layers,
            f"layer_types: wanted {self.num_hidden_layers} of {', '.join(_MIXERS)}, got {len(types)} with {unknown}",
        )
        return tuple(_MIXERS[t] for t in types)

    def rope(self, default: float) -> Rope:
        """The rotary positions; `default`: theta, where the config has none."""
        empty = _RopeFields()
        fields = next((r for r in (self.rope_parameters, self.rope_scaling) if r not in (None, empty)), empty) or empty
        kind = fields.rope_type or fields.type or "default"
        if fields.mrope_section is not None:
            kind = "default"  # three equal position rows: the sections change nothing (docs/systems/qwen3tts.md 4)
        theta = fields.rope_theta or self.rope_theta or default
        turned = self.partial_rotary_factor if fields.partial_rotary_factor is None else fields.partial_rotary_factor
        if kind not in ("default", "linear", "llama3") or turned not in (None, 1):
            raise ValueError(f"rope {kind!r} (partial {turned}) is not known; known are default, linear and llama3")
        if kind == "default":
            return Rope(theta)
        factor, low, high = fields.factor, fields.low_freq_factor, fields.high_freq_factor
        if kind == "linear" and factor is not None:
            return Rope(theta, "linear", factor)
        original = fields.original_max_position_embeddings or self.max_position_embeddings
        if kind == "linear" or factor is None or low is None or high is None or original is None:
            raise ValueError(f"rope {kind!r} lacks its factor, or what else belongs to it")
        return Rope(theta, "llama3", factor, low, high, original)


class _Lfm2(_Fields, frozen=True, kw_only=True):
    """config.json of Lfm2Config, in its old spelling (block_ff_dim, tie_embedding) and its new one."""

    full_attn_idxs: list[int] | None = None
    block_ff_dim: Size | None = None
    intermediate_size: Size | None = None
    block_auto_adjust_ff_dim: bool | None = True
    block_ffn_dim_multiplier: Positive | None = 1.0
    block_multiple_of: Size = 256
    num_key_value_heads: Size = 8
    norm_eps: NotNegative = 1e-5
    tie_embedding: bool | msgspec.UnsetType | None = msgspec.UNSET
    tie_word_embeddings: bool | None = True
    conv_L_cache: Size = 3  # noqa: N815 - as upstream spells it
    conv_bias: bool | None = False

    def decoder(self, family: str) -> DecoderConfig:
        layers = range(self.num_hidden_layers)
        full = layers if self.full_attn_idxs is None else self.full_attn_idxs
        ffn = self.intermediate_size if self.block_ff_dim is None else self.block_ff_dim
        if ffn is None:
            raise ValueError("no block_ff_dim or intermediate_size")
        if self.block_auto_adjust_ff_dim:
            ffn = int(2 * ffn / 3)
            if self.block_ffn_dim_multiplier is not None:
                multiple = self.block_multiple_of
                ffn = -(-int(self.block_ffn_dim_multiplier * ffn) // multiple) * multiple
        require(ffn >= 1, f"intermediate_size, adjusted, is {ffn}")
        tied = self.tie_word_embeddings if self.tie_embedding is msgspec.UNSET else self.tie_embedding
        return DecoderConfig(
            family=family,
            vocab=self.vocab_size,
            width=self.hidden_size,
            mixers=self.mixers(["full_attention" if i in full else "conv" for i in layers]),
            heads=self.num_attention_heads,
            kv_heads=self.num_key_value_heads,
            head_size=self.head_dim or self.hidden_size // self.num_attention_heads,
            ffn=ffn,
            eps=self.norm_eps,
            rope=self.rope(default=1e6),
            context=self.max_position_embeddings or _CONTEXTS[family],
            tied=bool(tied),
            qk_norm=True,
            kernel=self.conv_L_cache,
            conv_bias=bool(self.conv_bias),
        )


class _Llama(_Fields, frozen=True, kw_only=True):
    """config.json of LlamaConfig, Qwen2Config and Qwen3Config."""

    intermediate_size: Size
    num_key_value_heads: Size | None = None
    hidden_act: str = "silu"
    rms_norm_eps: NotNegative = 1e-6
    tie_word_embeddings: bool | None = False
    attention_bias: bool | None = False
    mlp_bias: bool | None = False
    use_sliding_window: bool | None = False
    sliding_window: Count | None = None
    max_window_layers: Count = 28

    def decoder(self, family: str) -> DecoderConfig:
        heads, width = self.num_attention_heads, self.hidden_size
        window = self.sliding_window if family != "llama" and self.use_sliding_window else None
        slides = range(self.num_hidden_layers if window is None else self.max_window_layers, self.num_hidden_layers)
        types = ["sliding_attention" if i in slides else "full_attention" for i in range(self.num_hidden_layers)]
        bias = bool(self.attention_bias) and family != "qwen2"
        return DecoderConfig(
            family=family,
            vocab=self.vocab_size,
            width=width,
            mixers=self.mixers(types),
            heads=heads,
            kv_heads=self.num_key_value_heads or heads,
            head_size=self.head_dim or (128 if family == "qwen3" else width // heads),
            ffn=self.intermediate_size,
            eps=self.rms_norm_eps,
            rope=self.rope(default=1e4),
            context=self.max_position_embeddings or _CONTEXTS[family],
            activation=self.hidden_act,
            tied=bool(self.tie_word_embeddings),
            qk_norm=family == "qwen3",
            qkv_bias=bias or family == "qwen2",
            out_bias=bias,
            mlp_bias=family == "llama" and bool(self.mlp_bias),
            window=window or 0,
        )
