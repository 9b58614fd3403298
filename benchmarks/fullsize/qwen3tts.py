"""Random full-size Qwen3-TTS checkpoints in the release's layout (docs/systems/qwen3tts.md 1): bf16, codec fp32.

Names and shapes are what the nets ask for, plus the tensors of the release that nobody needs. Values are written a few
megabytes at a time, all different, so that neither the page cache nor onnxruntime can share any.
"""

import json
import re
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from voxport_exporters.checkpoints.later import deferring
from voxport_exporters.checkpoints.weights import Weights
from voxport_exporters.codecs.codec12hz.config import DecoderConfig, EncoderConfig
from voxport_exporters.codecs.codec12hz.decoder import Decoder
from voxport_exporters.codecs.codec12hz.encoder import Analysis, Encoder
from voxport_exporters.systems.qwen3tts import job as qwen3tts
from voxport_exporters.systems.qwen3tts.config import ModelConfig

VARIANTS = ("0.6b-base", "0.6b-customvoice", "1.7b-base", "1.7b-customvoice", "1.7b-voicedesign")
VOCAB = 151643  # ids of the byte-level BPE; the special ones follow
PIECE = 1 << 22  # values in memory at a time
# Convolutions that end the codec's residual units and its decoder, small enough that few samples clip (5 %).
QUIET = r"decoder\.decoder\.[1-9]\d*\.(block\.\d+\.conv2\.)?conv\.weight"
Shapes = dict[str, tuple[int, ...]]


class Recorder(Weights):
    """Says yes to every key, and notes it."""

    def __init__(self) -> None:
        self.source, self.shapes, self._prefix = Path("release"), Shapes(), ""

    def at(self, prefix: str) -> Self:
        view = object.__new__(type(self))
        view.__dict__.update(self.__dict__)
        view._prefix = f"{self._prefix}{prefix}."
        return view

    def take(self, name: str, *shape: int) -> Tensor:
        self.shapes[self._prefix + name] = shape
        return torch.zeros(1).expand(shape)

    def drop(self, pattern: str, why: str) -> None:
        pass

    def finish(self) -> None:
        pass


def write(folder: Path, variant: str, seed: int) -> None:
    contents = json.loads((files("benchmarks.fullsize") / "qwen3tts.json").read_text())
    config = _config(contents, variant)
    codec = folder / "speech_tokenizer"
    codec.mkdir()
    _json(folder / "config.json", config)
    _json(folder / "generation_config.json", contents["generation"])
    _json(codec / "config.json", contents["speech_tokenizer"])
    _tokenizer(folder, contents["added_tokens"], config["assistant_token_id"])
    recorder = Recorder()
    with deferring():
        for _ in qwen3tts.parts(recorder, ModelConfig.of(config)):
            pass
    save(folder / "model.safetensors", recorder.shapes, seed, half=True)
    save(codec / "model.safetensors", _codec_shapes(contents["speech_tokenizer"]), seed + 1, half=False)


def _config(contents: dict[str, Any], variant: str) -> dict[str, Any]:
    size, kind = variant.split("-")
    config: dict[str, Any] = contents["config"]  # of 1.7b-base
    if size == "0.6b":
        config["tts_model_size"] = "0b6"
        config["talker_config"] |= {"hidden_size": 1024, "intermediate_size": 3072}
        config["speaker_encoder_config"]["enc_dim"] = 1024
    if kind != "base":
        del config["speaker_encoder_config"]
        config["tts_model_type"] = "custom_voice" if kind == "customvoice" else "voice_design"
    if kind == "customvoice":
        config["talker_config"] |= contents["custom_voice"]
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


def save(path: Path, shapes: Shapes, seed: int, half: bool) -> None:
    """A safetensors file of random values, in bf16 or float32, written piece by piece."""
    size = 2 if half else 4
    header, at = {}, 0
    for name in sorted(shapes):
        length = int(np.prod(shapes[name])) * size
        header[name] = {"dtype": "BF16" if half else "F32", "shape": shapes[name], "data_offsets": [at, at + length]}
        at += length
    text = json.dumps(header | {"__metadata__": {"format": "pt"}}).encode()
    text += b" " * (-len(text) % 8)
    random = np.random.default_rng(seed)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in sorted(shapes):
            for values in _values(name, shapes[name], random):
                file.write(((values.view(np.uint32) >> 16).astype(np.uint16) if half else values).data)


def _values(name: str, shape: tuple[int, ...], random: np.random.Generator) -> Iterator[np.ndarray]:
    """Float32 in pieces, sized so that a signal neither dies nor explodes on its way."""
    count, mean, spread = int(np.prod(shape)), 0.0, 0.02
    if name.endswith(("cluster_usage", "initialized")) or (len(shape) == 1 and "norm" in name and "weight" in name):
        mean, spread = 1.0, 0.05
    elif name.endswith(("layer_scale.scale", "gamma")):
        mean = 0.1
    elif name.endswith(("embedding_sum", "embed_sum")):
        spread = 1.0
    elif "embedding" not in name and len(shape) > 1:
        # A transposed convolution adds up 2 taps over its inputs, whatever its length.
        inputs = 2 * shape[0] if ".block.1.conv" in name else int(np.prod(shape[1:]))
        spread = float(inputs**-0.5)
        if re.fullmatch(QUIET, name):
            spread *= 0.3
    for start in range(0, count, PIECE):
        piece = random.standard_normal(min(PIECE, count - start), np.float32)
        yield np.abs(mean + spread * piece) if name.endswith("cluster_usage") else mean + np.float32(spread) * piece


def _tokenizer(folder: Path, added: dict[str, list[Any]], assistant: int) -> None:
    """Byte-level BPE that merges any two letters, then any three, until the vocabulary is full.

    "assistant" is one token and has its real id, as the prompt's template wants; the special tokens are the real ones.
    """
    letters = _alphabet()
    tokens = list(letters)
    word = "assistant"
    merges = [(word[:i], word[i]) for i in range(1, len(word))]
    tokens += ["".join(pair) for pair in merges]
    known = set(tokens)
    for first in tokens:  # grows as it goes
        for letter in letters:
            if len(tokens) < VOCAB and first + letter not in known:
                known.add(first + letter)
                tokens.append(first + letter)
                merges.append((first, letter))
        if len(tokens) == VOCAB:
            break
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
    _json(folder / "vocab.json", vocab)
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges))
    _json(folder / "tokenizer_config.json", {"tokenizer_class": "Qwen2Tokenizer", "added_tokens_decoder": special})


def _alphabet() -> list[str]:
    """The 256 bytes as characters, in the order of their ids: printable ones first, the others from U+0100 on."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in printable]
    return [*map(chr, printable), *(chr(256 + i) for i in range(len(others)))]


def _json(path: Path, contents: Any) -> None:
    path.write_text(json.dumps(contents, indent=1, ensure_ascii=False) + "\n")
