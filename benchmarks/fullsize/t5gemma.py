"""Random full-size T5Gemma-TTS checkpoints in the release's layout (docs/systems/t5gemma.md 1): bf16, codec fp32.

The model, its tokenizer, XCodec2 and the config of w2v-BERT 2.0, whose weights are inside XCodec2's, as four folders
side by side. Left out are the two modules of upstream's that trust_remote_code would run.
"""

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

from benchmarks.fullsize import t5gemma_codec as codec
from benchmarks.fullsize.release import letter_pairs, save, save_json, save_shards
from benchmarks.fullsize.t5gemma_tensors import model, spread
from voxport_exporters.systems.t5gemma.config import Config, read_config

KHZ44 = "-44.1khz"  # with the codec whose decoder is upsampled
VARIANTS = ("2b-2b", f"2b-2b{KHZ44}", "b-b", "s-s")
# hidden_size, intermediate_size, layers, heads, their size. Small and base are those of T5 1.1, whose shapes Google
# gave to T5Gemma; no release of T5Gemma-TTS has them yet.
SIZES = {"b-b": (768, 2048, 12, 12, 64), "s-s": (512, 1024, 8, 8, 64)}
SHARD = 5_000_000_000  # bytes, what save_pretrained takes
# The first ids of Gemma's vocabulary; reserved ones follow up to the 256 bytes, and one more is the last id.
SPECIAL = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
FIRST_BYTE, LAST = 217, "<unused99>"
LETTERS = "▁etaoinshrdlucmfwygpbvkxqjz.,?!'\"-:;()0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ/&%$#@*+=_[]{}<>~…—、。"


def write(folder: Path, variant: str, seed: int) -> None:
    """14 GB for 2b-2b; 50 MB of them are in memory at a time."""
    content = json.loads((files("benchmarks.fullsize") / "t5gemma.json").read_text())
    for name in ("t5gemma_tts", "text_tokenizer", "xcodec2", "w2v-bert-2.0"):
        (folder / name).mkdir()
    size = variant.removesuffix(KHZ44)
    save_json(folder / "t5gemma_tts" / "config.json", _config(content, size))
    save_json(folder / "t5gemma_tts" / "generation_config.json", content["generation"])
    save_json(folder / "w2v-bert-2.0" / "config.json", content["w2v_bert"])
    save_json(folder / "w2v-bert-2.0" / "preprocessor_config.json", content["preprocessor"])
    speech = content["xcodec2"] | (content["xcodec2_44k"] if size != variant else {})
    save_json(folder / "xcodec2" / "config.json", speech)
    config = read_config(folder / "t5gemma_tts" / "config.json")
    _tokenizer(folder / "text_tokenizer", config.encoder.vocab_size)
    write_weights(folder, config, codec.Sizes.of(speech, content["w2v_bert"]), seed)


def write_weights(folder: Path, config: Config, sizes: codec.Sizes, seed: int, limit: int = SHARD) -> None:
    """The tensors of a model of any config, in shards of at most `limit` bytes, and those of a codec of any sizes."""
    save_shards(folder / "t5gemma_tts", model(config), seed, limit, spread)
    shapes = codec.shapes(sizes)
    path = folder / "xcodec2" / "model.safetensors"
    save(path, shapes, seed + 100, half=False, spread=codec.spread, constants=codec.constants(shapes))


def _config(content: dict[str, Any], size: str) -> dict[str, Any]:
    stack: dict[str, Any] = content["stack"]
    if size in SIZES:
        width, ffn, layers, heads, head = SIZES[size]
        stack |= {"hidden_size": width, "intermediate_size": ffn, "num_hidden_layers": layers, "head_dim": head}
        stack |= {"num_attention_heads": heads, "num_key_value_heads": heads, "query_pre_attn_scalar": head}
    types = ["full_attention" if i % 2 else "sliding_attention" for i in range(stack["num_hidden_layers"])]
    stack |= {"layer_types": types}
    encoder = stack | {"is_decoder": False, "cross_attention_hidden_size": None}
    decoder = stack | {"is_decoder": True, "cross_attention_hidden_size": stack["hidden_size"]}
    stacks = {"model_type": "t5gemma", "is_encoder_decoder": True, "vocab_size": stack["vocab_size"]}
    config: dict[str, Any] = content["config"] | {"t5gemma_model_name": f"google/t5gemma-{size}-ul2"}
    return config | {"t5_config_dict": stacks | {"encoder": encoder, "decoder": decoder}}


def _tokenizer(folder: Path, vocab: int) -> None:
    """Gemma's kind of BPE: spaces are ▁, a letter that is not in the vocabulary is its bytes. It merges any two
    letters, then any three, until the vocabulary is full."""
    reserved = [f"<reserved{i}>" for i in range(len(SPECIAL), FIRST_BYTE)]
    first = [*SPECIAL, *reserved, *(f"<0x{i:02X}>" for i in range(256))]
    tokens, merges = letter_pairs(list(LETTERS), vocab - len(first) - 1)
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    space: dict[str, Any] = {"pattern": {"String": " "}}
    bos = {"SpecialToken": {"id": "<bos>", "type_id": 0}}
    text = {"Sequence": {"id": "A", "type_id": 0}}
    decoders = [{"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}]
    content = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": i, "content": name} | flags for i, name in enumerate(SPECIAL)],
        "normalizer": {"type": "Replace", "content": "▁"} | space,
        "pre_tokenizer": {"type": "Split", "behavior": "MergedWithPrevious", "invert": False} | space,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [bos, text],
            "pair": [bos, text, text],
            "special_tokens": {"<bos>": {"id": "<bos>", "ids": [SPECIAL.index("<bos>")], "tokens": ["<bos>"]}},
        },
        "decoder": {"type": "Sequence", "decoders": [*decoders, {"type": "Fuse"}]},
        "model": {
            "type": "BPE",
            "unk_token": "<unk>",
            "fuse_unk": True,
            "byte_fallback": True,
            "ignore_merges": False,
            "vocab": {token: i for i, token in enumerate([*first, *tokens, LAST])},
            "merges": [list(pair) for pair in merges],
        },
    }
    (folder / "tokenizer.json").write_text(json.dumps(content, ensure_ascii=False))
    names = {f"{kind}_token": f"<{kind}>" for kind in ("bos", "eos", "pad", "unk")}
    save_json(folder / "special_tokens_map.json", names)
    settings = {"tokenizer_class": "GemmaTokenizer", "add_bos_token": True, "add_eos_token": False}
    save_json(folder / "tokenizer_config.json", names | settings)
