"""T5Gemma's nets and graphs beside transformers' own T5Gemma, in sizes no kernel likes, and beside each other.

transformers knows no progress positions, so it is the oracle of models without; those with are proved by the golden,
and here graphs by nets. Its attention bends scores off where the config says so: what upstream runs does not.
"""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tests.exporters.decoders import Poisoned
from tests.t5gemma_nets import section
from torch import Tensor

from voxport import bounds
from voxport.bundle import Bundle
from voxport.graphs.ort import OrtSession
from voxport.graphs.session import Array, Session
from voxport.recipe import Recipe
from voxport.systems.t5gemma.lm import LanguageModel, Memory
from voxport_exporters.checkpoints.later import deferred, deferring
from voxport_exporters.checkpoints.weights import Weights
from voxport_exporters.pack import save
from voxport_exporters.systems.t5gemma.config import Config, config_of
from voxport_exporters.systems.t5gemma.parts import parts
from voxport_parity.products import AS_WRITTEN
from voxport_parity.reference import TorchSession

STAGES = ("text_embed", "encoder", "cross", "audio_embed", "decoder")
SLOW = pytest.mark.slow
STACK = {"vocab_size": 37, "rope_theta": 100.0, "rms_norm_eps": 1e-5}
# Heads of 6, 12 and 22 are none that onnxruntime's attention with caches takes; of 32 they are.
CONFIGS: dict[str, dict[str, Any]] = {
    "unbalanced": {
        "encoder": {
            **{**STACK, "hidden_size": 36, "intermediate_size": 29, "num_hidden_layers": 3, "num_attention_heads": 6},
            **{"num_key_value_heads": 2, "head_dim": 12, "query_pre_attn_scalar": 10, "sliding_window": 3},
            "attention_bias": True,
        },
        "decoder": {
            **{**STACK, "hidden_size": 54, "intermediate_size": 41, "num_hidden_layers": 4, "num_attention_heads": 6},
            **{"num_key_value_heads": 3, "head_dim": 32, "query_pre_attn_scalar": 19, "sliding_window": 5},
            "attention_bias": True,
        },
    },
    "one-layer": {
        side: {
            **{**STACK, "hidden_size": 30, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2},
            **{"num_key_value_heads": 2, "head_dim": 6, "query_pre_attn_scalar": 6, "hidden_activation": "silu"},
            "layer_types": ["full_attention"],
        }
        for side in ("encoder", "decoder")
    },
    "one-head-of-keys": {
        "encoder": {
            **{**STACK, "hidden_size": 40, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4},
            **{"num_key_value_heads": 4, "head_dim": 40, "query_pre_attn_scalar": 7, "sliding_window": 64},
        },
        "decoder": {
            **{**STACK, "hidden_size": 35, "intermediate_size": 33, "num_hidden_layers": 3, "num_attention_heads": 7},
            **{"num_key_value_heads": 1, "head_dim": 22, "query_pre_attn_scalar": 30, "sliding_window": 2},
        },
    },
}
TEXT, AUDIO, PROMPT = [3, 36, 1, 17, 5, 5, 29], [40, 7, 21, 3, 39, 0, 11, 12, 44, 2], 4
CODES, CAP = 41, 1.5


class Alone(Bundle):
    """A bundle with the language model only."""

    def __init__(self, sessions: dict[str, Session]) -> None:
        self.path, self._named = Path(), sessions

    def session(self, stage: str, threads: int = 1) -> Session:  # noqa: ARG002
        return Poisoned(self._named[stage]) if stage == "decoder" else self._named[stage]


def config_named(name: str, progress: bool) -> Config:
    """Scores bend off soon enough to be seen, where they do."""
    stacks = copy.deepcopy(CONFIGS[name])
    for stack in stacks.values():
        stack["attn_logit_softcapping"] = CAP
    ids = {"empty_token": 41, "eog": 42, "audio_pad_token": 43, "eos": 44, "y_sep_token": 45, "x_sep_token": 36}
    fields = {"model_type": "t5gemma_voice", "t5_config_dict": stacks, "audio_vocab_size": CODES, **ids}
    return config_of({**fields, "use_pm_rope": int(progress)}, "config.json")


def checkpoint(config: Config, name: str, folder: Path) -> tuple[Any, dict[str, Tensor]]:
    """Random weights in `folder`: upstream's model with them, and all of them by name."""
    from transformers import T5GemmaConfig, T5GemmaForConditionalGeneration

    stacks = copy.deepcopy(CONFIGS[name])
    for stack in stacks.values():
        stack["attn_logit_softcapping"] = CAP
        stack["rope_parameters"] = {"rope_type": "default", "rope_theta": stack.pop("rope_theta")}
    if "sliding_window" in stacks["encoder"]:
        stacks["encoder"]["sliding_window"] -= 1  # transformers 5 sees one more on each side than 4.57, upstream's own
    torch.manual_seed(0)
    fields: dict[str, Any] = {**stacks, "tie_word_embeddings": False, "vocab_size": 37, "attn_implementation": "eager"}
    upstream = T5GemmaForConditionalGeneration(T5GemmaConfig(**fields)).eval()
    for parameter in upstream.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    tensors = {f"backbone.{key}": value for key, value in upstream.state_dict().items()}
    tensors = {k: v for k, v in tensors.items() if "lm_head" not in k and "decoder.embed_tokens" not in k}
    width, rows = config.decoder.hidden_size, config.rows
    shapes: dict[str, tuple[int, ...]] = {
        "audio_embedding.0.weight": (rows, width),
        "predict_layer.0.0.weight": (width, width),
    }
    shapes |= {"predict_layer.0.0.bias": (width,), "predict_layer.0.2.weight": (rows, width)}
    tensors |= {key: 0.3 * torch.randn(shape) for key, shape in shapes.items()}
    tensors["predict_layer.0.2.bias"] = torch.randn(rows)
    save_file({key: value.contiguous() for key, value in tensors.items()}, folder / "model.safetensors")
    return upstream, tensors


def model(weights: Weights, config: Config, folder: Path, target: str, softcap: bool = False) -> LanguageModel:
    """The torch nets for the target `torch`, or the graphs, written into `folder`."""
    if target == "torch":
        sessions: dict[str, Session] = {p.stage.name: TorchSession(p) for p in parts(weights, config, softcap=softcap)}
    else:
        with deferring():
            for part in parts(weights, config, softcap=softcap):
                save(part, folder, Recipe("fp32"), target)
        sessions = {name: OrtSession(folder / f"{name}.onnx", options=AS_WRITTEN) for name in STAGES}
    return LanguageModel(Alone(sessions), 1, section(config))


def logits(lm: LanguageModel, memory: Memory) -> Array:
    """After the prompt, and after each further token."""
    prompt, tokens = np.array(AUDIO[:PROMPT]), AUDIO[PROMPT:]
    return np.stack(list(lm.read(memory, prompt, len(AUDIO), tokens)))


def upstreams(upstream: Any, tensors: dict[str, Tensor]) -> Array:
    """Logits [tokens, rows] that transformers' model and a textbook head give."""
    embeds = tensors["audio_embedding.0.weight"][AUDIO][None]
    with torch.no_grad():
        hidden = upstream.model(torch.tensor([TEXT]), decoder_inputs_embeds=embeds).last_hidden_state[0]
    w = {key.removeprefix("predict_layer.0."): value for key, value in tensors.items()}
    inner = torch.nn.functional.gelu(hidden @ w["0.weight"].T + w["0.bias"])
    return (inner @ w["2.weight"].T + w["2.bias"]).numpy()


@pytest.mark.parametrize("softcap", [True, False], ids=["capped", "uncapped"])
@pytest.mark.parametrize("name", CONFIGS)
def test_any_configuration_is_upstreams(name: str, softcap: bool, tmp_path: Path) -> None:
    config = config_named(name, progress=False)
    upstream, tensors = checkpoint(config, name, tmp_path)
    if not softcap:
        for module in upstream.modules():
            if "attn_logit_softcapping" in module.__dict__:
                module.attn_logit_softcapping = None
    expected = upstreams(upstream, tensors)[PROMPT - 1 :]
    lm = model(Weights.open(tmp_path), config, tmp_path, "torch", softcap)
    np.testing.assert_allclose(logits(lm, lm.encode(TEXT)), expected, rtol=0, atol=bounds.LM_LOGITS.absolute)


def test_capped_scores_are_others(tmp_path: Path) -> None:
    config = config_named("unbalanced", progress=True)
    checkpoint(config, "unbalanced", tmp_path)
    models = (model(Weights.open(tmp_path), config, tmp_path, "torch", softcap) for softcap in (True, False))
    capped, plain = (logits(lm, lm.encode(TEXT)) for lm in models)
    assert np.abs(capped - plain).max() > 0.1


CASES = [
    ("unbalanced", "cpu", True, False),
    ("one-layer", "portable", True, True),
    pytest.param("unbalanced", "portable", True, False, marks=SLOW),
    pytest.param("unbalanced", "cpu", False, True, marks=SLOW),
    pytest.param("one-layer", "cpu", False, False, marks=SLOW),
    pytest.param("one-head-of-keys", "cpu", True, False, marks=SLOW),
    pytest.param("one-head-of-keys", "portable", True, True, marks=SLOW),
]


@pytest.mark.parametrize(("name", "target", "progress", "softcap"), CASES)
def test_graphs_are_their_nets(name: str, target: str, progress: bool, softcap: bool, tmp_path: Path) -> None:
    """A text alone, and beside a shorter one: what fills that up weighs nothing."""
    config = config_named(name, progress)
    checkpoint(config, name, tmp_path)
    nets, graphs = (model(Weights.open(tmp_path), config, tmp_path, t, softcap) for t in ("torch", target))
    assert ({t.name for t in graphs._cross.stage.inputs} == {"memory"}) is not progress
    expected = {}
    for length in (len(TEXT), 2):
        expected[length] = logits(nets, nets.encode(TEXT[:length]))
        got = logits(graphs, graphs.encode(TEXT[:length]))
        np.testing.assert_allclose(got, expected[length], rtol=0, atol=bounds.LM_LOGITS.absolute)
    got = together(graphs, [len(TEXT), 2])
    for row, length in zip(got, expected, strict=True):
        np.testing.assert_allclose(row, expected[length], rtol=0, atol=bounds.LM_LOGITS.absolute)


def together(lm: LanguageModel, lengths: list[int]) -> Array:
    """Logits [rows, tokens, ids] of rows that read so much of the text, in one batch, with zeros fed behind a text."""
    memories = [lm.encode(TEXT[:length]) for length in lengths]
    constants = lm._constants(memories)
    state = lm._decoder.start(constants, batch=len(lengths), capacity=len(AUDIO))
    outputs = []
    for i, token in enumerate(AUDIO):
        place = lm.positions.token(i, len(AUDIO)) if i >= PROMPT else lm.positions.prompt(len(AUDIO), len(AUDIO))[i]
        turns = lm.turns.at(np.full((len(lengths), 1), place, np.float32))
        embeds = lm._audio(lm._audio.start(), into=None, ids=np.full(len(lengths), token))[0]["embeds"][:, None]
        result, state = lm._decoder(state, into=None, embeds=embeds, past=np.full(len(lengths), i), **turns)
        outputs.append(result["logits"])
    return np.stack(outputs[PROMPT - 1 :], axis=1)


def test_no_large_weight_is_read_before_it_is_written(tmp_path: Path) -> None:
    """10 GB of the release stay in their files."""
    config = config_named("unbalanced", progress=True)
    checkpoint(config, "unbalanced", tmp_path)
    with deferring():
        for part in parts(Weights.open(tmp_path), config):
            assert [name for name, p in part.net.named_parameters() if not deferred(p) and p.dim() > 1] == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"predict_layer.0.2.bias": None}, r"lacks predict_layer.0.2.bias \[46\]"),
        ({"predict_layer.1.0.weight": torch.zeros(1)}, "holds predict_layer.1.0.weight, which this net does not know"),
        ({"audio_embedding.0.weight": torch.zeros(47, 54)}, r"audio_embedding.0.weight has shape \[47, 54\]"),
        ({"backbone.model.decoder.layers.0.cross_attn.k_proj.weight": torch.zeros(96, 54)}, r"says \[96, 36\]"),
    ],
)
def test_another_checkpoint_is_refused(change: dict[str, Tensor | None], message: str, tmp_path: Path) -> None:
    config = config_named("unbalanced", progress=True)
    _, tensors = checkpoint(config, "unbalanced", tmp_path)
    whole = {key: value.contiguous() for key, value in {**tensors, **change}.items() if value is not None}
    save_file(whole, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=message):
        list(parts(Weights.open(tmp_path), config))
