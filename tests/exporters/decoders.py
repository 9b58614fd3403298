"""Language models to test with: torch nets and graphs behind one call, for the fixture or for any config."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from voxport.graphs.ort import OrtSession
from voxport.graphs.session import Array, Session, State
from voxport.recipe import Recipe
from voxport_exporters.checkpoints.later import deferring
from voxport_exporters.checkpoints.weights import Weights
from voxport_exporters.graphs.part import Part
from voxport_exporters.nets.decoder import Head, LanguageModel
from voxport_exporters.pack import save
from voxport_exporters.systems.vyvo import job as vyvo
from voxport_parity.reference import TorchSession

CAPACITY = 192

TINY = {"num_hidden_layers": 2, "vocab_size": 61, "num_attention_heads": 4, "num_key_value_heads": 2}
# Sizes that no kernel likes, one per lowering that must fall back or not, in the spelling of transformers 4 and 5.
CONFIGS: dict[str, dict[str, Any]] = {
    "lfm2": {
        **{**TINY, "num_hidden_layers": 3},
        "model_type": "lfm2",
        "hidden_size": 40,
        "block_ff_dim": 50,
        "block_multiple_of": 7,
        "full_attn_idxs": [1],
        "rope_theta": 5000.0,
    },
    "lfm2-bias": {
        **TINY,
        "model_type": "lfm2",
        "hidden_size": 32,
        "intermediate_size": 41,
        "block_auto_adjust_ff_dim": False,
        "layer_types": ["conv", "full_attention"],
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
        "conv_L_cache": 5,
        "conv_bias": True,
    },
    "lfm2-kernel1": {
        **TINY,
        "model_type": "lfm2",
        "hidden_size": 24,
        "intermediate_size": 512,
        "full_attn_idxs": [0],
        "conv_L_cache": 1,
    },
    "qwen3": {**TINY, "model_type": "qwen3", "hidden_size": 36, "head_dim": 22, "intermediate_size": 29},
    "qwen3-bias": {
        **TINY,
        "model_type": "qwen3",
        "hidden_size": 64,
        "head_dim": 32,
        "intermediate_size": 48,
        "attention_bias": True,
        "num_key_value_heads": 4,
        "hidden_act": "gelu_pytorch_tanh",
    },
    "qwen3-window": {
        **TINY,
        "model_type": "qwen3",
        "hidden_size": 32,
        "head_dim": 16,
        "intermediate_size": 24,
        "use_sliding_window": True,
        "sliding_window": 5,
        "max_window_layers": 1,
        "tie_word_embeddings": True,
    },
    "qwen2": {
        **TINY,
        "model_type": "qwen2",
        "hidden_size": 56,
        "intermediate_size": 33,
        "num_attention_heads": 7,
        "num_key_value_heads": 1,
    },
    "llama": {
        **TINY,
        "model_type": "llama",
        "hidden_size": 48,
        "intermediate_size": 40,
        "num_key_value_heads": 1,
        "rope_theta": 500000.0,
        "rope_scaling": {
            "rope_type": "llama3",
            "factor": 32.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 16,
        },
    },
    "llama-bias": {
        **TINY,
        "model_type": "llama",
        "hidden_size": 40,
        "head_dim": 6,
        "intermediate_size": 27,
        "attention_bias": True,
        "mlp_bias": True,
        "tie_word_embeddings": True,
        "rope_parameters": {"rope_type": "linear", "factor": 3.0, "rope_theta": 100.0},
    },
}


class Poisoned:
    """A Session whose caches begin with NaN in every column: whoever reads one that no token has written gets NaN."""

    def __init__(self, session: Session) -> None:
        self.session, self.stage, self.threads = session, session.stage, session.threads

    def start(self, constants: Mapping[str, Array] | None = None, /, **axes: int) -> State:
        state = self.session.start(constants, **axes)
        for tensor in self.stage.state:
            if tensor.shared and tensor.dtype == "float32":
                state[tensor.name][:] = np.nan
        return state

    def __call__(
        self, state: State, *, into: Mapping[str, Array] | None = None, **inputs: Array
    ) -> tuple[dict[str, Array], State]:
        return self.session(state, into=into, **inputs)


class Decoder:
    """A language model and its head, as torch nets or as graphs."""

    def __init__(self, lm: Session, head: Session) -> None:
        self.lm, self.head = Poisoned(lm), head

    def start(self, batch: int = 1) -> State:
        return self.lm.start(batch=batch, capacity=CAPACITY)

    def __call__(self, state: State, tokens: Array, past: int = 0) -> tuple[Array, State]:
        """tokens [batch, time] after `past` others in every row -> logits of the last, next state."""
        places = np.full(len(tokens), past, np.int64)
        outputs, state = self.lm(state, tokens=np.ascontiguousarray(tokens, np.int64), past=places)
        return self.logits(outputs["hidden"]), state

    def logits(self, hidden: Array) -> Array:
        return self.head(self.head.start(), hidden=hidden)[0]["logits"]


def torch_decoder(folder: Path) -> Decoder:
    """The torch nets of a checkpoint folder."""
    config = vyvo.read_config(folder / "config.json")
    weights = Weights.open(folder)
    lm = Part(vyvo.lm_stage(config), LanguageModel(weights, config), {})
    head = Part(vyvo.head_stage("head", config.width, config.vocab), Head(weights, config), {})
    weights.finish()
    return Decoder(TorchSession(lm), TorchSession(head))


def graph_decoder(folder: Path, out: Path, target: str, recipe: Recipe = vyvo.RECIPES["fp32"]) -> Decoder:
    """The graphs of a checkpoint folder, written to `out`."""
    config = vyvo.read_config(folder / "config.json")

    def sample() -> tuple[torch.Tensor, ...]:
        tokens = torch.randint(0, config.vocab, (1, CAPACITY), generator=torch.Generator().manual_seed(0))
        return tokens, torch.zeros(1, dtype=torch.int64)

    with deferring():
        weights = Weights.open(folder)
        net, sizes = LanguageModel(weights, config), {"batch": 1, "time": 1, "capacity": 64}
        lm = Part(vyvo.lm_stage(config), net, sizes, sample=sample)
        head = Part(vyvo.head_stage("head", config.width, config.vocab), Head(weights, config), {"batch": 1})
        weights.finish()
    for part in (lm, head):
        save(part, out, recipe, target)
    return Decoder(OrtSession(out / "lm.onnx"), OrtSession(out / "head.onnx"))


def checkpoint(config: dict[str, Any], folder: Path) -> Any:
    """Writes a random checkpoint of `config` and returns upstream's model of it."""
    from transformers import AutoConfig, AutoModelForCausalLM

    (folder / "config.json").write_text(json.dumps(config))
    torch.manual_seed(0)
    upstream = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder)).eval()
    for parameter in upstream.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    weights = upstream.state_dict()
    if upstream.config.tie_word_embeddings:
        del weights["lm_head.weight"]
    save_file({name: value.contiguous() for name, value in weights.items()}, folder / "model.safetensors")
    return upstream
