"""The config of a T5Gemma-TTS checkpoint: config.json of model_type t5gemma_voice (docs/systems/t5gemma.md 1).

A key that is absent has the default of upstream's class (hf_export/configuration_t5gemma_voice.py, transformers'
T5GemmaModuleConfig).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from voxport_exporters.checkpoints import jsonfile
from voxport_exporters.checkpoints.jsonfile import Count, Layers, NotNegative, Positive, Size, parse, short
from voxport_exporters.nets.checks import require
from voxport_exporters.nets.ops import ACTIVATIONS

MODEL_TYPE = "t5gemma_voice"
_SLIDING = {"sliding_attention": True, "full_attention": False}


class _RopeFields(msgspec.Struct, frozen=True):
    """`rope_parameters`, as transformers 5 writes them."""

    rope_type: str = "default"
    rope_theta: Positive | None = None


class Stack(msgspec.Struct, frozen=True, kw_only=True):
    """One of the two stacks of layers, `encoder` or `decoder` in t5_config_dict."""

    vocab_size: Size = 256000
    hidden_size: Size = 2304
    intermediate_size: Size = 9216
    num_hidden_layers: Layers = 26
    num_attention_heads: Size = 8
    num_key_value_heads: Size = 4
    head_dim: Size = 256
    hidden_activation: str = "gelu_pytorch_tanh"
    max_position_embeddings: Size = 8192
    rms_norm_eps: NotNegative = 1e-6
    rope_theta: Positive = 10000.0
    rope_parameters: _RopeFields | None = None
    attention_bias: bool = False
    query_pre_attn_scalar: Positive = 256
    sliding_window: Size = 4096  # tokens that a token of a sliding layer sees on one side, itself included
    layer_types: list[str] | None = None  # absent: sliding and full in turn
    attn_logit_softcapping: Positive | None = 50.0

    def __post_init__(self) -> None:
        require(
            self.num_attention_heads % self.num_key_value_heads == 0,
            f"num_attention_heads {self.num_attention_heads} is no multiple of num_key_value_heads "
            f"{self.num_key_value_heads}",
        )
        require(self.head_dim % 2 == 0, f"head_dim is {self.head_dim}, wanted an even one: halves are turned")
        require(
            self.hidden_activation in ACTIVATIONS,
            f"hidden_activation is {short(self.hidden_activation)}, wanted one of {', '.join(ACTIVATIONS)}",
        )
        rope = self.rope_parameters
        require(
            rope is None or rope.rope_type == "default",
            f"rope_type is {short(rope.rope_type if rope else '')}, wanted default",
        )
        types = self.layer_types
        require(
            types is None or (len(types) == self.num_hidden_layers and set(types) <= _SLIDING.keys()),
            f"layer_types: wanted {self.num_hidden_layers} of {', '.join(_SLIDING)}, got {short(types)}",
        )

    @property
    def windows(self) -> tuple[int, ...]:
        """Per layer: tokens that a token sees on one side, itself included; 0: all."""
        types = self.layer_types
        slides = [_SLIDING[t] for t in types] if types else [i % 2 == 0 for i in range(self.num_hidden_layers)]
        return tuple(self.sliding_window if slide else 0 for slide in slides)

    @property
    def softcap(self) -> float:
        """Where scores of attention bend off; 0: nowhere. What upstream runs ignores it."""
        return self.attn_logit_softcapping or 0.0

    @property
    def theta(self) -> float:
        """The base of the rotary positions."""
        return (self.rope_parameters and self.rope_parameters.rope_theta) or self.rope_theta


class _Stacks(msgspec.Struct, frozen=True):
    encoder: Stack
    decoder: Stack


class Voice(msgspec.Struct, frozen=True, kw_only=True):
    """What config.json holds beside the stacks: ids, and how an utterance is laid out in time."""

    n_codebooks: Annotated[int, Meta(ge=1, le=1)] = 1  # upstream's inference takes no more
    # Of each codebook. (Not as a tuple: msgspec 0.22 crashes collecting garbage after `int | tuple[int]`.)
    audio_vocab_size: Size | list[Size] = 65536
    n_special: Count = 5
    special_first: Annotated[int, Meta(ge=0, le=0)] = 0  # upstream's inference takes nothing else
    empty_token: Count = 65536
    eog: Count = 65537
    audio_pad_token: Count = 65538
    eos: int = 65539  # 0 or less: eog ends a generation
    y_sep_token: Count = 65540
    x_sep_token: Count = 255999
    use_pm_rope: int = 1
    encodec_sr: Positive = 50.0  # frames per second
    progress_scale: Positive = 2000.0
    progress_lookahead_secs: NotNegative = 2.0
    extra_cutoff: NotNegative = 5.0  # seconds that a generation may take beyond its target
    text_guard_frames_per_token: Count = 0  # frames per text id after which a generation ends; 0: never
    add_eos_to_text: Count = 0  # the id to append, 0: none
    add_bos_to_text: Count = 0
    parallel_pattern: Count = 0
    audio_max_length: Positive = 40.0  # seconds


@dataclass(frozen=True)
class Config:
    """One checkpoint."""

    encoder: Stack
    decoder: Stack
    voice: Voice

    def __post_init__(self) -> None:
        sizes = self.voice.audio_vocab_size
        require(
            isinstance(sizes, int) or len(sizes) == self.voice.n_codebooks,
            f"audio_vocab_size is {short(sizes)}, wanted one size for each of n_codebooks, {self.voice.n_codebooks}",
        )
        special = {name: id for name, id in self.tokens.items() if name != "x_sep" and not 0 <= id < self.rows}
        require(not special, f"the audio ids {special} are not among 0 .. {self.rows - 1}")
        require(
            self.voice.x_sep_token < self.encoder.vocab_size,
            f"x_sep_token {self.voice.x_sep_token} is not among the {self.encoder.vocab_size} text ids",
        )

    @property
    def codes(self) -> int:
        """How many audio ids are codes of the codec; the special ids follow."""
        size = self.voice.audio_vocab_size
        return size if isinstance(size, int) else size[0]

    @property
    def rows(self) -> int:
        """Rows of the audio embedding and of the head."""
        return self.codes + self.voice.n_special

    @property
    def tokens(self) -> dict[str, int]:
        """The special ids by name; `eos` is the id that ends a generation."""
        v = self.voice
        return {
            "empty": v.empty_token,
            "eog": v.eog,
            "pad": v.audio_pad_token,
            "eos": v.eos if v.eos > 0 else v.eog,
            "y_sep": v.y_sep_token,
            "x_sep": v.x_sep_token,
        }


def config_of(fields: Mapping[str, Any], where: str) -> Config:
    """The config of the dict in a config.json. Raises ValueError in one line that begins with `where`."""
    kind = fields.get("model_type")
    if kind != MODEL_TYPE:
        raise ValueError(f"{where}: model_type is {short(kind)}, wanted {MODEL_TYPE}")
    stacks = parse(fields.get("t5_config_dict"), _Stacks, f"{where}: t5_config_dict")
    try:
        return Config(stacks.encoder, stacks.decoder, parse(fields, Voice, where))
    except ValueError as error:
        text = str(error)
        raise ValueError(text if text.startswith(where) else f"{where}: {text}") from None


def read_config(path: Path) -> Config:
    """The config.json of a checkpoint. Raises FileNotFoundError or ValueError that name the file, in one line."""
    return config_of(jsonfile.read(path), str(path))
