"""Random full-size Qwen3-TTS checkpoints in the release's layout (docs/systems/qwen3tts.md 1): bf16, codec fp32.

Names and shapes are what the nets ask for, plus the tensors of the release that nobody needs. Values are written a few
megabytes at a time, all different, so that neither the page cache nor onnxruntime can share any.
"""

import json
import re
from importlib.resources import files
from pathlib import Path
from typing import Any

from benchmarks.fullsize import release
from benchmarks.fullsize.release import Recorder, Shapes, byte_pairs, save, save_json
from voxport_exporters.checkpoints.later import deferring
from voxport_exporters.codecs.codec12hz.config import DecoderConfig, EncoderConfig
from voxport_exporters.codecs.codec12hz.decoder import Decoder
from voxport_exporters.codecs.codec12hz.encoder import Analysis, Encoder
from voxport_exporters.systems.qwen3tts import job as qwen3tts
from voxport_exporters.systems.qwen3tts.config import ModelConfig

VARIANTS = ("0.6b-base", "0.6b-customvoice", "1.7b-base", "1.7b-customvoice", "1.7b-voicedesign")
VOCAB = 151643  # ids of the byte-level BPE; the special ones follow
# Convolutions that end the codec's residual units and its decoder, small enough that few samples clip (5 %).
QUIET = r"decoder\.decoder\.[1-9]\d*\.(block\.\d+\.conv2\.)?conv\.weight"


def write(folder: Path, variant: str, seed: int) -> None:
    content = json.loads((files("benchmarks.fullsize") / "qwen3tts.json").read_text())
    config = _config(content, variant)
    codec = folder / "speech_tokenizer"
    codec.mkdir()
    save_json(folder / "config.json", config)
    save_json(folder / "generation_config.json", content["generation"])
    save_json(codec / "config.json", content["speech_tokenizer"])
    _tokenizer(folder, content["added_tokens"], config["assistant_token_id"])
    write_weights(folder, config, content["speech_tokenizer"], seed)


def write_weights(folder: Path, config: dict[str, Any], speech: dict[str, Any], seed: int) -> None:
    """model.safetensors of a model with this config.json, and the one of its speech_tokenizer/ with the config
    `speech`."""
    recorder = Recorder()
    with deferring():
        for _ in qwen3tts.parts(recorder, ModelConfig.of(config)):
            pass
    save(folder / "model.safetensors", recorder.shapes, seed, half=True, spread=spread)
    codec = folder / "speech_tokenizer" / "model.safetensors"
    save(codec, _codec_shapes(speech), seed + 1, half=False, spread=spread)


def _config(content: dict[str, Any], variant: str) -> dict[str, Any]:
    size, kind = variant.split("-")
    config: dict[str, Any] = content["config"]  # of 1.7b-base
    if size == "0.6b":
        config["tts_model_size"] = "0b6"
        config["talker_config"] |= {"hidden_size": 1024, "intermediate_size": 3072}
        config["speaker_encoder_config"]["enc_dim"] = 1024
    if kind != "base":
        del config["speaker_encoder_config"]
        config["tts_model_type"] = "custom_voice" if kind == "customvoice" else "voice_design"
    if kind == "customvoice":
        config["talker_config"] |= content["custom_voice"]
    return config


def _codec_shapes(config: dict[str, Any]) -> Shapes:
    """All 496 tensors, also those that only training or the other direction needs."""
    recorder = Recorder()
    decoder, encoder = DecoderConfig.of(config["decoder_config"]), EncoderConfig.of(config["encoder_config"])
    Decoder(recorder.at("decoder"), decoder)
    Analysis(recorder.at("encoder"), encoder)
    Encoder(recorder.at("encoder"), encoder, config["encoder_config"]["num_quantizers"])
    shapes, codebook = recorder.shapes, config["decoder_config"]["codebook_dim"]
    for part in ("first", "rest"):
        shapes[f"decoder.quantizer.rvq_{part}.input_proj.weight"] = (codebook // 2, codebook, 1)
    width, hidden = config["encoder_config"]["codebook_dim"], config["encoder_config"]["hidden_size"]
    for name in [name for name in shapes if name.startswith("encoder.") and name.endswith("cluster_usage")]:
        shapes[name.replace("cluster_usage", "initialized")] = (1,)
    for kind in ("semantic", "acoustic"):
        shapes[f"encoder.quantizer.{kind}_residual_vector_quantizer.output_proj.weight"] = (hidden, width, 1)
    return shapes


def spread(name: str, shape: tuple[int, ...]) -> tuple[float, float]:
    """(mean, standard deviation) of a tensor, by its name in the release."""
    if name.endswith(("cluster_usage", "initialized")):
        return 1.0, 0.05
    if name.endswith(("layer_scale.scale", "gamma")):
        return 0.1, 0.02
    if name.endswith(("embedding_sum", "embed_sum")):
        return 0.0, 1.0
    mean, deviation = release.spread(name, shape)
    if ".block.1.conv" in name and len(shape) > 1:
        deviation = float((2 * shape[0]) ** -0.5)  # it adds up 2 taps over its inputs, whatever its length
    return mean, deviation * 0.3 if re.fullmatch(QUIET, name) else deviation


def _tokenizer(folder: Path, added: dict[str, list[Any]], assistant: int) -> None:
    """Byte-level BPE that merges any two letters, then any three, until the vocabulary is full.

    "assistant" is one token and has its real id, as the prompt's template wants; the special tokens are the real ones.
    """
    tokens, merges = byte_pairs(VOCAB, ("assistant",))
    vocab = {token: i for i, token in enumerate(tokens)}
    other = tokens[assistant]
    vocab["assistant"], vocab[other] = assistant, vocab["assistant"]
    special = {
        str(i): {
            "content": text,
            "lstrip": False,
            "normalized": False,
            "rstrip": False,
            "single_word": False,
            "special": s,
        }
        for text, (i, s) in added.items()
    }
    save_json(folder / "vocab.json", vocab)
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges))
    save_json(folder / "tokenizer_config.json", {"tokenizer_class": "Qwen2Tokenizer", "added_tokens_decoder": special})
