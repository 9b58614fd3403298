"""config.json and generation_config.json of a Qwen3-TTS model (docs/systems/qwen3tts.md 1).

A key that is absent has upstream's default (qwen_tts, configuration_qwen3_tts.py; for sampling, its generate()).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from voxport.manifest import Setting
from voxport_exporters.checkpoints import jsonfile
from voxport_exporters.checkpoints.jsonfile import Count, NotNegative, Size, parse, short
from voxport_exporters.nets.checks import require
from voxport_exporters.nets.decoder_config import DecoderConfig
from voxport_exporters.systems.qwen3tts.xvector import SpeakerConfig

SIZES = {"0b6": "0.6b", "1b7": "1.7b"}
TYPES = {"base": "base", "custom_voice": "customvoice", "voice_design": "voicedesign"}
TOKENIZER = "qwen3_tts_tokenizer_12hz"

# Upstream's defaults of what makes a decoder; the nets' own config names the rest.
_LAYERS: dict[str, Any] = {
    "hidden_size": 1024,
    "num_attention_heads": 16,
    "hidden_act": "silu",
    "max_position_embeddings": 32768,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000,
    "attention_bias": False,
    "use_sliding_window": False,
    "sliding_window": 4096,
}
_TALKER = _LAYERS | {
    "vocab_size": 3072,
    "intermediate_size": 2048,
    "num_hidden_layers": 20,
    "num_key_value_heads": 2,
}
_PREDICTOR = _LAYERS | {
    "vocab_size": 2048,
    "intermediate_size": 3072,
    "num_hidden_layers": 5,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "max_window_layers": 28,
}


class TalkerConfig(msgspec.Struct, frozen=True):
    """What `talker_config` says beside its layers."""

    text_vocab_size: Size
    vocab_size: Size = 3072
    hidden_size: Size = 1024
    hidden_act: str = "silu"
    num_attention_heads: Size = 16
    num_code_groups: Size = 32
    text_hidden_size: Size = 2048
    spk_id: dict[str, Count] | None = None
    spk_is_dialect: dict[str, bool | str] | None = None
    codec_language_id: dict[str, Count] | None = None
    codec_eos_token_id: Count = 4198
    codec_think_id: Count = 4202
    codec_nothink_id: Count = 4203
    codec_think_bos_id: Count = 4204
    codec_think_eos_id: Count = 4205
    codec_pad_id: Count = 4196
    codec_bos_id: Count = 4197

    def __post_init__(self) -> None:
        for speaker, dialect in self.dialects.items():
            require(dialect in self.languages, f"the dialect {dialect!r} of {speaker} is not in codec_language_id")

    @property
    def speakers(self) -> dict[str, int]:
        """Name -> id."""
        return self.spk_id or {}

    @property
    def languages(self) -> dict[str, int]:
        """Name -> id."""
        return self.codec_language_id or {}

    @property
    def dialects(self) -> dict[str, str]:
        """Name of a speaker -> name of the language that is the dialect."""
        return {name: dialect for name, dialect in (self.spk_is_dialect or {}).items() if isinstance(dialect, str)}


class Header(msgspec.Struct, frozen=True):
    """The keys of config.json beside the configs of the model's parts."""

    tts_model_type: str
    tts_model_size: str
    tokenizer_type: str = TOKENIZER
    tts_pad_token_id: Count = 151671
    tts_bos_token_id: Count = 151672
    tts_eos_token_id: Count = 151673

    def __post_init__(self) -> None:
        require(
            self.tts_model_type in TYPES,
            f"tts_model_type is {self.tts_model_type!r}, wanted one of {', '.join(TYPES)}",
        )
        require(
            self.tokenizer_type == TOKENIZER,
            f"tokenizer_type is {self.tokenizer_type!r}: only the 12 Hz tokenizer is supported",
        )


@dataclass(frozen=True)
class ModelConfig:
    """config.json of a model, every key checked."""

    header: Header
    talker: TalkerConfig
    talker_layers: DecoderConfig
    predictor_layers: DecoderConfig
    speaker: SpeakerConfig | None  # Base only: the other types hear no reference

    @classmethod
    def of(cls, params: Mapping[str, Any], where: str = "config") -> "ModelConfig":
        """From the dict of a config.json. Raises ValueError that begins with `where` and names the key."""
        require(
            params.get("model_type") == "qwen3_tts",
            f"{where}: not the config of a Qwen3-TTS model: model_type is {short(params.get('model_type'))}",
        )
        header = parse(params, Header, where)
        inner, place = _object(params, "talker_config", where), f"{where}: talker_config"
        talker = parse(inner, TalkerConfig, place)
        # Its sliding window is that of every layer: upstream's talker knows no other layout.
        layout = {"model_type": "qwen3", "layer_types": None, "max_window_layers": 0}
        head = {"head_dim": talker.hidden_size // talker.num_attention_heads}
        layers = DecoderConfig.of(_TALKER | head | inner | layout, place)
        codes, place = _object(inner, "code_predictor_config", place), f"{place}: code_predictor_config"
        predictor = DecoderConfig.of(_PREDICTOR | codes | {"model_type": "qwen3"}, place)
        speaker = None
        if header.tts_model_type == "base":
            speaker = SpeakerConfig.of(params.get("speaker_encoder_config", {}), f"{where}: speaker_encoder_config")
        return cls(header, talker, layers, predictor, speaker)

    @property
    def variant(self) -> str:
        """<size>-<type>"""
        size = self.header.tts_model_size
        return f"{SIZES.get(size, size)}-{TYPES[self.header.tts_model_type]}"


def read_config(path: Path) -> ModelConfig:
    """The config.json of a model. Raises FileNotFoundError or ValueError that name the file and the key."""
    return ModelConfig.of(jsonfile.read(path), str(path))


def _object(params: Mapping[str, Any], key: str, where: str) -> dict[str, Any]:
    value = params.get(key)
    if not isinstance(value, dict):
        raise ValueError(f"{where}: {key} is {'absent' if value is None else 'no object'}; a model's config has one")
    return value


class Sampling(msgspec.Struct, frozen=True):
    """generation_config.json; a null is absence."""

    do_sample: bool = True
    temperature: NotNegative = 0.9
    top_k: Count = 50
    top_p: NotNegative = 1.0
    repetition_penalty: NotNegative = 1.05
    subtalker_dosample: bool = True
    subtalker_temperature: NotNegative = 0.9
    subtalker_top_k: Count = 50
    subtalker_top_p: NotNegative = 1.0
    max_new_tokens: Count = 2048


def sampling(path: Path) -> dict[str, Setting]:
    """The settings of a generation_config.json, which may be absent. Raises ValueError that names file and key."""
    fields = jsonfile.read(path) if path.is_file() else {}
    present = {name: value for name, value in fields.items() if value is not None}
    return msgspec.structs.asdict(parse(present, Sampling, str(path)))
