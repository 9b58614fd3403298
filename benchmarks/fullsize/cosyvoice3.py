"""Random full-size Fun-CosyVoice3 checkpoints in the release's layout (docs/systems/cosyvoice3.md 1).

cosyvoice3.yaml, the three state dicts in float32, both front-end graphs, and the config and tokenizer of the language
model. Left out are model.safetensors of CosyVoice-BlankEN, which llm.pt replaces, and the files of other runtimes.
"""

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.fullsize import cosyvoice3_tensors as tensors
from benchmarks.fullsize.cosyvoice3_frontend import Size, speaker_net, speech_tokenizer
from benchmarks.fullsize.release import Shapes, byte_pairs, save_json
from voxport_exporters.systems.cosyvoice3.config import QWEN, YAML, Config, read_config

VARIANTS = ("0.5b",)
VOCAB = 151643  # ids of the byte-level BPE; the special ones follow


def write(folder: Path, variant: str, seed: int) -> None:  # noqa: ARG001 - there is one variant
    """4.4 GB; at most 2.1 GB of them are in memory at a time."""
    data = files("benchmarks.fullsize")
    content = json.loads((data / "cosyvoice3.json").read_text())
    (folder / YAML).write_text((data / "cosyvoice3.yaml").read_text())
    qwen = folder / QWEN
    qwen.mkdir()
    save_json(qwen / "config.json", content["config"])
    save_json(qwen / "generation_config.json", content["generation"])
    _tokenizer(qwen, content)
    config = read_config(folder)
    write_weights(folder, config, seed)
    write_frontend(folder, config, seed + 3)


def write_weights(folder: Path, config: Config, seed: int) -> None:
    """llm.pt, flow.pt and hift.pt for nets of any config."""
    for i, shapes in enumerate((tensors.llm, tensors.flow, tensors.hift)):
        state = _values(shapes(config), torch.Generator().manual_seed(seed + i))
        torch.save(state, folder / f"{shapes.__name__}.pt")
        del state  # before the next ones are made


def write_frontend(folder: Path, config: Config, seed: int, size: Size | None = None) -> None:
    """speech_tokenizer_v3.onnx and campplus.onnx with the signatures of the release. `size`: None for the real one."""
    size = size or Size()
    (folder / "campplus.onnx").write_bytes(speaker_net(config.flow.spk_embed_dim, size, seed))
    (folder / "speech_tokenizer_v3.onnx").write_bytes(speech_tokenizer(config.llm.speech_token_size, size, seed + 1))


def _values(shapes: Shapes, draws: torch.Generator) -> dict[str, Tensor]:
    state: dict[str, Tensor] = {}
    for name, shape in shapes.items():
        if name == tensors.LM_HEAD:
            state[name] = state[tensors.EMBEDDINGS]
        elif name == tensors.INV_FREQ:
            state[name] = 10000.0 ** -(torch.arange(shape[0]) / shape[0])
        else:
            mean, deviation = tensors.spread(name, shape)
            state[name] = torch.empty(shape).normal_(mean, deviation, generator=draws)
    # The first half of the last channels are logarithms of magnitudes, e^-2 on average; the others are phases.
    if "conv_post.bias" in state:
        bias = state["conv_post.bias"]
        bias[: len(bias) // 2] -= 1.0
        bias[len(bias) // 2 :] += 1.0
    return state


def _tokenizer(folder: Path, content: dict[str, Any]) -> None:
    """Byte-level BPE that merges any two letters, then any three, until the vocabulary is full."""
    tokens, merges = byte_pairs(VOCAB)
    save_json(folder / "vocab.json", {token: i for i, token in enumerate(tokens)})
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges))
    flags = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
    added = {str(i): {"content": text} | flags for text, i in content["added_tokens"].items()}
    save_json(folder / "tokenizer_config.json", content["tokenizer"] | {"added_tokens_decoder": added})
