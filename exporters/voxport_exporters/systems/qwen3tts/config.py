"""config.json and generation_config.json of a Qwen3-TTS model (docs/systems/qwen3tts.md 1).

A key that is absent has upstream's default (qwen_tts, configuration_qwen3_tts.py; for sampling, its generate()).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from voxport.manifest import Setting
from voxport_exporters.checkpoints import jsonfile
from voxport_exporters.nets.decoder_config import DecoderConfig

Held = dict[str, Any]

SIZES = {"0b6": "0.6b", "1b7": "1.7b"}
TYPES = {"base": "base", "custom_voice": "customvoice", "voice_design": "voicedesign"}
_MODEL: Held = {
    "tokenizer_type": "qwen3_tts_tokenizer_12hz",
    "tts_pad_token_id": 151671,
    "tts_bos_token_id": 151672,
    "tts_eos_token_id": 151673,
    "speaker_encoder_config": {},
}
_LAYERS: Held = {
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
_TALKER: Held = _LAYERS | {
    "vocab_size": 3072,
    "intermediate_size": 2048,
    "num_hidden_layers": 20,
    "num_key_value_heads": 2,
    "num_code_groups": 32,
    "text_hidden_size": 2048,
    "spk_id": {},
    "spk_is_dialect": {},
    "codec_language_id": {},
    "codec_eos_token_id": 4198,
    "codec_think_id": 4202,
    "codec_nothink_id": 4203,
    "codec_think_bos_id": 4204,
    "codec_think_eos_id": 4205,
    "codec_pad_id": 4196,
    "codec_bos_id": 4197,
}
_PREDICTOR: Held = _LAYERS | {
    "vocab_size": 2048,
    "intermediate_size": 3072,
    "num_hidden_layers": 5,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "max_window_layers": 28,
}
_SAMPLING: dict[str, Setting] = {
    "do_sample": True,
    "temperature": 0.9,
    "top_k": 50,
    "top_p": 1.0,
    "repetition_penalty": 1.05,
    "subtalker_dosample": True,
    "subtalker_temperature": 0.9,
    "subtalker_top_k": 50,
    "subtalker_top_p": 1.0,
    "max_new_tokens": 2048,
}


def read_config(path: Path) -> Held:
    """The config.json of a model, absent keys filled in. FileNotFoundError or ValueError name the file and the key."""
    config = jsonfile.read(path)
    if config.get("model_type") != "qwen3_tts":
        raise ValueError(f"{path}: not the config of a Qwen3-TTS model: model_type {config.get('model_type')!r}")
    config = _MODEL | config
    talker = _inside(path, config, "talker_config", _TALKER)
    _inside(path, talker, "code_predictor_config", _PREDICTOR)
    talker.setdefault("head_dim", talker["hidden_size"] // talker["num_attention_heads"])
    for key, held in (("tts_model_type", config), ("tts_model_size", config), ("text_vocab_size", talker)):
        if key not in held:
            raise ValueError(f"{path}: no {key}")
    if config["tts_model_type"] not in TYPES:
        raise ValueError(f"{path}: tts_model_type {config['tts_model_type']!r}: wanted one of {', '.join(TYPES)}")
    if config["tokenizer_type"] != _MODEL["tokenizer_type"]:
        raise ValueError(f"{path}: tokenizer_type {config['tokenizer_type']}: only the 12 Hz tokenizer is supported")
    for key in ("spk_id", "spk_is_dialect", "codec_language_id"):
        talker[key] = talker[key] or {}
    for speaker, dialect in talker["spk_is_dialect"].items():
        if dialect and dialect not in talker["codec_language_id"]:
            raise ValueError(f"{path}: the dialect {dialect!r} of {speaker} is not in codec_language_id")
    return config


def _inside(path: Path, config: Held, key: str, defaults: Held) -> Held:
    held = config.get(key)
    if not isinstance(held, dict):
        raise ValueError(f"{path}: {key} is {'absent' if held is None else 'no object'}; a model's config has one")
    config[key] = defaults | held
    found: Held = config[key]
    return found


def variant(config: Held) -> str:
    """<size>-<type>"""
    size = str(config["tts_model_size"])
    return f"{SIZES.get(size, size)}-{TYPES[config['tts_model_type']]}"


def talker(config: Held) -> DecoderConfig:
    """Its sliding window is that of every layer: upstream's talker knows no other layout."""
    held = config["talker_config"]
    slides = held["use_sliding_window"] and held["sliding_window"] is not None
    kinds = ["sliding_attention" if slides else "full_attention"] * held["num_hidden_layers"]
    return DecoderConfig.of({**held, "model_type": "qwen3", "layer_types": kinds})


def predictor(config: Held) -> DecoderConfig:
    return DecoderConfig.of({**config["talker_config"]["code_predictor_config"], "model_type": "qwen3"})


def sampling(path: Path) -> dict[str, Setting]:
    """The settings of a generation_config.json, which may be absent. ValueError names the file and the key."""
    held: Mapping[str, Any] = jsonfile.read(path) if path.is_file() else {}
    settings = {}
    for name, default in _SAMPLING.items():
        value = default if held.get(name) is None else held[name]
        fits = isinstance(value, bool) if isinstance(default, bool) else type(value) in (int, float)
        if not fits or (type(default) is int and value != int(value)):
            kind = {bool: "true or false", int: "a whole number", float: "a number"}[type(default)]
            raise ValueError(f"{path}: {name} is {value!r}, wanted {kind}")
        settings[name] = type(default)(value)
    return settings
