"""llm.pt of Fun-CosyVoice3, of any configuration, as nets and graphs: a Qwen2 between tables and head of its own."""

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from tests.cosyvoice3_lm import ROOT, STAGES, Alone, fixture, graphs, nets
from torch import Tensor

from voxport import bounds
from voxport.graphs.ort import OrtSession
from voxport.recipe import Recipe, Rule
from voxport_exporters.checkpoints.later import deferred, deferring
from voxport_exporters.checkpoints.weights import Weights
from voxport_exporters.nets.decoder_config import DecoderConfig
from voxport_exporters.pack import save
from voxport_exporters.systems.cosyvoice3.config import Config, read_config
from voxport_exporters.systems.cosyvoice3.llm import LLM_RULES, parts

Array = np.ndarray

# Sizes no kernel likes; the heads of 6 and of 22 are none that onnxruntime's attention takes.
CONFIGS: dict[str, dict[str, Any]] = {
    "one-layer": {"hidden_size": 56, "num_attention_heads": 7, "num_key_value_heads": 1, "num_hidden_layers": 1},
    "small-heads": {"hidden_size": 30, "num_attention_heads": 5, "num_key_value_heads": 5, "num_hidden_layers": 2},
    "odd-heads": {"hidden_size": 66, "num_attention_heads": 3, "num_key_value_heads": 1, "num_hidden_layers": 3},
}
HEAD, SPEECH, TEXT = "llm_decoder.weight", "speech_embedding.weight", "llm.model.model.embed_tokens.weight"
SLOW = pytest.mark.slow
CASES = [("one-layer", "cpu"), ("small-heads", "portable"), pytest.param("odd-heads", "cpu", marks=SLOW)]
CASES += [pytest.param("one-layer", "portable", marks=SLOW), pytest.param("small-heads", "cpu", marks=SLOW)]


def checkpoint(name: str, folder: Path) -> tuple[Config, Any, dict[str, Tensor]]:
    """A random llm.pt in `folder`; its config, upstream's decoder and the tensors."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    params = {**CONFIGS[name], "intermediate_size": 37, "vocab_size": 91, "rope_theta": 1e4, "rms_norm_eps": 1e-5}
    torch.manual_seed(0)
    upstream = Qwen2ForCausalLM(Qwen2Config(**params)).eval()
    for parameter in upstream.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    width, speech = params["hidden_size"], 17
    tensors = {f"llm.model.{key}": value for key, value in upstream.state_dict().items()}
    tensors |= {key: 0.3 * torch.randn(speech + 200, width) for key in (HEAD, SPEECH)}
    torch.save(tensors, folder / "llm.pt")
    base = read_config(ROOT)
    sizes = {"llm_input_size": width, "llm_output_size": width, "speech_token_size": speech}
    decoder = DecoderConfig.of({**params, "model_type": "qwen2"})
    llm = msgspec.structs.replace(base.llm, **sizes)
    return msgspec.structs.replace(base, decoder=decoder, llm=llm), upstream, tensors


def run(model: Alone, pieces: list[Array]) -> list[Array]:
    """The logits [ids] after each of some pieces of embeddings [tokens, width]."""
    lm, past, outputs = model.session("lm"), 0, []
    state = lm.start(batch=1, capacity=32)
    for array in state.values():
        array[:] = np.nan  # whoever reads a column that no token has written gets NaN
    for piece in pieces:
        results, state = lm(state, embeds=piece[None], past=np.array([past]))
        past += len(piece)
        outputs.append(results["logits"][0])
    return outputs


@pytest.mark.parametrize(("name", "target"), CASES)
def test_any_configuration_is_upstreams(name: str, target: str, tmp_path: Path) -> None:
    config, upstream, tensors = checkpoint(name, tmp_path)
    rng = np.random.default_rng(0)
    embeds = rng.normal(size=(14, config.decoder.width)).astype(np.float32)
    with torch.no_grad():
        hidden = upstream.model(inputs_embeds=torch.from_numpy(embeds)[None]).last_hidden_state[0]
    expected = (hidden @ tensors[HEAD].T).numpy()
    weights = Weights.open(tmp_path / "llm.pt")
    for model in (nets(weights, config, tmp_path), graphs(weights, config, tmp_path, "fp32", target)):
        at, outputs = np.cumsum(sizes := (5, 1, 1, 4, 3)) - 1, run(model, np.split(embeds, np.cumsum(sizes)[:-1]))
        for position, logits in zip(at, outputs, strict=True):
            np.testing.assert_allclose(logits, expected[position], rtol=0, atol=bounds.LM_LOGITS.absolute)
        for ids, table, key in (([0, 90, 3], model.model.text, TEXT), ([0, 216], model.model.speech, SPEECH)):
            np.testing.assert_array_equal(table(ids), tensors[key][ids].numpy())


def test_qwens_own_head_may_be_missing(tmp_path: Path) -> None:
    config, _, tensors = checkpoint("one-layer", tmp_path)
    del tensors["llm.model.lm_head.weight"]
    torch.save(tensors, tmp_path / "llm.pt")
    assert [part.stage.name for part in parts(Weights.open(tmp_path / "llm.pt"), config)] == list(STAGES)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({HEAD: None}, r"lacks llm_decoder.weight \[217, 56\]"),
        ({"llm_decoder.bias": torch.zeros(217)}, "holds llm_decoder.bias, which this net does not know"),
        ({SPEECH: torch.zeros(18, 56)}, r"speech_embedding.weight has shape \[18, 56\]"),
        ({"llm.model.model.layers.0.self_attn.q_proj.bias": None}, "lacks llm.model.model.layers.0.self_attn.q_proj.b"),
        ({"llm.model.model.layers.1.input_layernorm.weight": torch.zeros(56)}, "which this net does not know"),
    ],
)
def test_another_checkpoint_is_refused(change: dict[str, Tensor | None], message: str, tmp_path: Path) -> None:
    config, _, tensors = checkpoint("one-layer", tmp_path)
    whole = {key: value for key, value in {**tensors, **change}.items() if value is not None}
    torch.save(whole, tmp_path / "llm.pt")
    with pytest.raises(ValueError, match=message):
        list(parts(Weights.open(tmp_path / "llm.pt"), config))


def test_no_large_weight_is_read_before_it_is_written() -> None:
    """2 GB of the release stay in their file."""
    with deferring():
        for part in parts(Weights.open(ROOT / "llm.pt"), read_config(ROOT)):
            read = [name for name, p in part.net.named_parameters() if not deferred(p) and p.dim() > 1]
            assert read == []


@pytest.mark.parametrize("recipe", ["mixed", "int8", pytest.param("hqq4", marks=SLOW)])
def test_every_rule_of_a_recipe_applies(recipe: str, tmp_path: Path) -> None:
    model = fixture(tmp_path, recipe, "cpu")
    for rule in LLM_RULES[recipe]:
        assert any(result.plan.matches(rule) for result in model.results), rule
    text, speech, lm = (result.plan for result in model.results)
    assert text.tables == {"table": "int8row"}
    assert speech.tables == {"table": "fp16row"}
    assert lm.rules["head.weight"].kind == "int8b"
    assert len(lm.rules) == 1 + 4 * 3  # of each layer: query-key-value, out, gate-up, down
    assert {t.dtype for t in model.session("lm").stage.state} == {"float32"}


def test_caches_in_8_bits_are_measured_by_a_prompt(tmp_path: Path) -> None:
    """No recipe of the system has them; one of a user's own may."""
    config, caches = read_config(ROOT), Recipe("caches", [Rule("int8cache", stage="lm")])
    with deferring():
        *_, lm = parts(Weights.open(ROOT / "llm.pt"), config)
        save(lm, tmp_path, caches, "cpu")
    graph = OrtSession(tmp_path / "lm.onnx")
    assert {t.dtype for t in graph.stage.state} == {"int8"}
    (tmp_path / "fp32").mkdir()
    whole = fixture(tmp_path / "fp32", "fp32", "torch")
    embeds = whole.model.prompt(range(20), range(30))[None]
    exact, rounded = (
        session(session.start(batch=1, capacity=52), into=None, embeds=embeds, past=np.zeros(1, np.int64))
        for session in (whole.session("lm"), graph)
    )
    for name, array in rounded[1].items():
        assert 30 < np.abs(array.astype(np.int64)).max() < 127, name  # as wide as the sample's, with some room
    error = np.abs(rounded[0]["logits"] - exact[0]["logits"]).max()
    assert 0 < error < 0.1 * np.abs(exact[0]["logits"]).max()


def test_there_are_rules_for_every_recipe_and_none_for_fp32() -> None:
    assert {*LLM_RULES} == {"mixed", "int8", "hqq4", "fp32"}
    assert LLM_RULES["fp32"] == []
