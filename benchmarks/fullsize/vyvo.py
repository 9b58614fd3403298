"""Random full-size VyvoTTS checkpoints in the release's layout (docs/systems/vyvo.md 1).

lm/ in bf16 with its tokenizer, snac_24khz/ in float32, inference.yaml with the token table. Names and shapes are what
the nets ask for; values are all different, so that neither the page cache nor onnxruntime can share any.
"""

import json
import re
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch

from benchmarks.fullsize.release import Recorder, Shapes, byte_pairs, save, save_json
from voxport_exporters.checkpoints.later import deferring
from voxport_exporters.codecs.snac import stages as snac
from voxport_exporters.codecs.snac.config import SnacConfig
from voxport_exporters.nets.decoder_config import DecoderConfig
from voxport_exporters.systems.vyvo import job as vyvo
from voxport_exporters.systems.vyvo import tokens as vyvo_tokens

VARIANTS = ("lfm2-350m", "qwen3-0.6b")
CUSTOM = 28683  # <custom_token_0> .. that fine-tuning appended: 11 for control, then 7 x 4096 codes, and one more


def write(folder: Path, variant: str, seed: int) -> None:
    content = json.loads((files("benchmarks.fullsize") / "vyvo.json").read_text())
    release, table = content[variant], vyvo_tokens.TABLES[content[variant]["table"]]
    lm, codec = folder / "lm", folder / "snac_24khz"
    lm.mkdir()
    codec.mkdir()
    save_json(lm / "config.json", release["config"])
    save_json(lm / "generation_config.json", release["generation"])
    save_json(codec / "config.json", content["snac"])
    save_json(lm / "tokenizer.json", tokenizer(release, table["TOKENIZER_LENGTH"]))
    rows = (f"{name}: {value}\n" for name, value in table.items())
    (folder / "inference.yaml").write_text("".join(["CODEC_TYPE: snac\nCODEC_MODEL: null\nNUM_CODEBOOKS: 8\n", *rows]))
    recorder = Recorder()
    speech = SnacConfig.of(content["snac"])
    codes = vyvo_tokens.CodeIds(table["AUDIO_TOKENS_START"], speech.places, speech.codebook_size)
    with deferring():
        config = DecoderConfig.of(release["config"])
        for _ in vyvo.parts(recorder, config, codes, table["END_OF_SPEECH"]):
            pass
    save(lm / "model.safetensors", recorder.shapes, seed, half=True)
    save_codec(codec / "pytorch_model.bin", content["snac"], seed + 1)


def save_codec(path: Path, config: dict[str, Any], seed: int) -> None:
    """80 MB, made in one go, since a torch file is written so."""
    recorder = Recorder()
    for _ in snac.parts(recorder, SnacConfig.of(config)):
        pass
    torch.save(_codec_values(recorder.shapes, torch.Generator().manual_seed(seed)), path)


def _codec_values(shapes: Shapes, draws: torch.Generator) -> dict[str, torch.Tensor]:
    """Sized so that a signal neither dies nor explodes: weight norm sets the length of every kernel to about 1."""
    values = {}
    for name, shape in sorted(shapes.items()):
        noise = torch.randn(shape, generator=draws)
        if name.endswith((".alpha", "original0")):
            values[name] = 1 + 0.1 * noise
        else:
            values[name] = noise * (0.02 if name.endswith("bias") else 1.0)
    # a transposed convolution's kernels are normed per input, and each output sums two taps of all inputs
    for name in [
        n for n in shapes if n.startswith("decoder.") and n.endswith("block.1.parametrizations.weight.original0")
    ]:
        inputs, outputs, kernel = shapes[name.replace("original0", "original1")]
        if kernel != 7:
            values[name] *= (outputs * kernel / (2 * inputs)) ** 0.5
    # what ends a residual unit, the noise and the last convolution: where tanh saturates, 2e-6 before it is 3e-2 after
    for pattern, share in {r"block\.3": 0.2, r"block\.2\.linear": 0.3, r"decoder\.model\.7": 0.1}.items():
        for name in values:
            if re.search(rf"{pattern}\.parametrizations\.weight\.original0", name):
                values[name] *= share
    return values


def tokenizer(release: dict[str, Any], length: int) -> dict[str, Any]:
    """Byte-level BPE of `length` ids that merges any two letters, then any three, as far as there are ids.

    The special tokens have their real ids, <custom_token_i> stands at `length` + i; text is cut as upstream cuts it.
    """
    special = release["special"]
    free = [i for i in range(length) if i not in special.values()]
    tokens, merges = byte_pairs(len(free))
    added = [_added(i, text, True) for text, i in special.items()]
    added += [_added(length + i, f"<custom_token_{i}>", False) for i in range(CUSTOM)]
    into_bytes = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    split = {"type": "Split", "pattern": {"Regex": release["split"]}, "behavior": "Isolated", "invert": False}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, into_bytes]},
        "post_processor": _beginning(release["bos"], special) if release["bos"] else into_bytes,
        "decoder": into_bytes,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": dict(zip(tokens, free, strict=True)),
            "merges": merges,
        },
    }


def _added(index: int, text: str, special: bool) -> dict[str, Any]:
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": not special, "special": special}
    return {"id": index, "content": text} | flags


def _beginning(bos: str, special: dict[str, int]) -> dict[str, Any]:
    start, text = {"SpecialToken": {"id": bos, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}
    return {
        "type": "TemplateProcessing",
        "single": [start, text],
        "pair": [start, text, {"Sequence": {"id": "B", "type_id": 0}}],
        "special_tokens": {bos: {"id": bos, "ids": [special[bos]], "tokens": [bos]}},
    }
