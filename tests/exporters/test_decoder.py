"""The decoder net says what upstream said, as torch net and as the graphs of both targets, for any config."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from voxport.graphs.ort import OrtSession, OrtState
from voxport.recipe import Recipe
from voxport_exporters.checkpoints.later import deferring
from voxport_exporters.checkpoints.weights import Weights
from voxport_exporters.graphs.fidelity import fidelity
from voxport_exporters.graphs.part import TARGETS, Part
from voxport_exporters.nets.decoder import Head, LanguageModel, state_of
from voxport_exporters.nets.decoder_config import DecoderConfig
from voxport_exporters.nets.taps import tapped
from voxport_exporters.pack import save
from voxport_exporters.systems.vyvo import job as vyvo
from voxport_exporters.systems.vyvo.tokens import CodeIds

FIXTURE = Path(__file__).parents[1] / "fixtures/vyvo"
BOUND = 2e-4  # logits of size 10, through six layers
CODES, END = CodeIds(410, places=7, size=4096), 402  # inference.yaml, snac_24khz/config.json
CAPACITY = 192
Array = np.ndarray

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
QUICK = ("lfm2", "llama-bias")


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def golden() -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = load_file(FIXTURE / "golden.safetensors")
    return tensors


@pytest.fixture(scope="module")
def config() -> DecoderConfig:
    return vyvo.read_config(FIXTURE / "lm/config.json")


class Net:
    """The torch net behind the call of a Session."""

    def __init__(self, folder: Path) -> None:
        self.config = vyvo.read_config(folder / "config.json")
        weights = Weights.open(folder)
        self.net, self.head = LanguageModel(weights, self.config), Head(weights, self.config)
        weights.finish()

    def start(self, batch: int) -> dict[str, Array]:
        axes = {"batch": batch, "capacity": CAPACITY}
        state = {t.name: np.zeros(t.sized(axes), t.dtype) for t in state_of(self.config)}
        poisoned(state)
        return state

    def __call__(self, state: Any, tokens: Array, past: int = 0, pads: Array | None = None) -> tuple[Array, Any]:
        pads = np.zeros(len(tokens), np.int64) if pads is None else pads
        feed = (tokens.astype(np.int64), np.array([past]), pads, *state.values())
        with torch.no_grad():
            hidden, *after = self.net(*map(torch.from_numpy, feed))
            (logits,) = self.head(hidden)
        return logits.numpy(), dict(zip(state, (s.numpy() for s in after), strict=True))


class Graphs:
    """The exported graphs behind the same call."""

    def __init__(self, folder: Path, out: Path, target: str, recipe: Recipe = vyvo.RECIPES["fp32"]) -> None:
        config = vyvo.read_config(folder / "config.json")
        with deferring():
            weights = Weights.open(folder)
            lm = Part(vyvo.lm_stage(config), LanguageModel(weights, config), {"batch": 1, "time": 1, "capacity": 64})
            head = Part(vyvo.head_stage("head", config.width, config.vocab), Head(weights, config), {"batch": 1})
            weights.finish()
        for part in (lm, head):
            save(part, out, recipe, target, [])
        self.lm, self.head = OrtSession(out / "lm.onnx"), OrtSession(out / "head.onnx")

    def start(self, batch: int) -> OrtState:
        state = self.lm.start(batch=batch, capacity=CAPACITY)
        poisoned(state)
        return state

    def __call__(self, state: Any, tokens: Array, past: int = 0, pads: Array | None = None) -> tuple[Array, Any]:
        pads = np.zeros(len(tokens), np.int64) if pads is None else pads
        out, state = self.lm(state, tokens=tokens.astype(np.int64), past=np.array([past]), pads=pads)
        return self.head(self.head.start(), hidden=out["hidden"])[0]["logits"], state


def poisoned(state: Mapping[str, Array]) -> None:
    """Whoever reads a column of the cache that no token has written gets NaN."""
    for name, array in state.items():
        if not name.startswith("conv"):
            array[:] = np.nan


@pytest.fixture(scope="module")
def graphs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Graphs]:
    return {target: Graphs(FIXTURE / "lm", tmp_path_factory.mktemp(target), target) for target in TARGETS}


@pytest.fixture(scope="module", params=["torch", *TARGETS])
def model(request: pytest.FixtureRequest, graphs: dict[str, Graphs]) -> Any:
    return Net(FIXTURE / "lm") if request.param == "torch" else graphs[request.param]


def hold(actual: Array, expected: Tensor, bound: float = BOUND) -> None:
    np.testing.assert_allclose(actual, expected.numpy(), rtol=0, atol=bound)


def hold_state(state: Any, golden: dict[str, Tensor], call: str) -> None:
    for name, array in state.items():
        kind, _, layer = name.partition(".")
        if kind == "conv":  # upstream keeps a column more than the kernel reads
            hold(array, golden[f"{call}.layer{layer}.conv_state"][..., 1:].transpose(1, 2))
        else:
            expected = golden[f"{call}.layer{layer}.{kind.removesuffix('s')}"]
            hold(array[:, :, : expected.shape[2]], expected)
            assert np.isnan(array[:, :, expected.shape[2] :]).all()


def test_layers_are_upstreams(golden: dict[str, Tensor]) -> None:
    net = Net(FIXTURE / "lm")
    state, past = net.start(1), 0
    for call, tokens in (("prefill", golden["prompt_ids"]), ("step1", golden["step1.input_id"])):
        with tapped() as taps:
            _, state = net(state, tokens.numpy(), past)
        past += tokens.shape[1]
        assert len(taps) == 7
        for name, value in taps.items():
            hold(value.numpy(), golden[f"{call}.{name}"])


def test_prefill_and_step_are_upstreams(model: Any, golden: dict[str, Tensor]) -> None:
    logits, state = model(model.start(1), golden["prompt_ids"].numpy())
    hold(logits, golden["prefill.logits_last"])
    hold_state(state, golden, "prefill")
    _, state = model(state, golden["step1.input_id"].numpy(), golden["prompt_ids"].shape[1])
    hold_state(state, golden, "step1")


def test_prompt_in_pieces_is_the_prompt(model: Any, golden: dict[str, Tensor]) -> None:
    state, past = model.start(1), 0
    for piece in golden["prompt_ids"].split((1, 9, 8), dim=1):
        logits, state = model(state, piece.numpy(), past)
        past += piece.shape[1]
    hold(logits, golden["prefill.logits_last"])
    hold_state(state, golden, "prefill")


def test_left_padded_batch_is_upstreams(model: Any, golden: dict[str, Tensor]) -> None:
    pads = (golden["batch_mask"] == 0).sum(1).numpy()
    logits, state = model(model.start(2), golden["batch_ids"].numpy(), 0, pads)
    hold(np.take_along_axis(logits, golden["batch.top_ids"].long().numpy(), 1), golden["batch.top_logits"])
    # and goes on as its rows would alone
    step = np.array([[END], [CODES.start]])
    together, _ = model(state, step, golden["batch_ids"].shape[1], pads)
    for row, pad in enumerate(pads):
        ids = golden["batch_ids"][row : row + 1, pad:].numpy()
        _, state = model(model.start(1), ids)
        alone, _ = model(state, step[row : row + 1], ids.shape[1])
        np.testing.assert_allclose(together[row], alone[0], rtol=0, atol=BOUND)


@pytest.mark.parametrize("run", ["greedy", "sampled", "clone"])
def test_teacher_forced_logits_are_upstreams(model: Any, golden: dict[str, Tensor], run: str) -> None:
    prompts = {"greedy": "prompt_ids", "sampled": "prompt_ids_voice", "clone": "clone.input_ids"}
    tokens = golden[prompts[run]].numpy()
    state, past = model.start(1), 0
    for step, token in enumerate(golden[f"{run}.tokens"][0]):
        logits, state = model(state, tokens, past)
        past += tokens.shape[1]
        tokens = np.array([[int(token)]])
        hold(
            logits[0][golden[f"{run}.raw_top8_ids"][0, step].long().numpy()], golden[f"{run}.raw_top8_logits"][0, step]
        )
        hold(logits[0, int(token)], golden[f"{run}.chosen_raw_logit"][0, step])
        assert int(logits.argmax()) == int(golden[f"{run}.raw_top8_ids"][0, step, 0])


def test_cut_heads_are_slices_of_the_head(golden: dict[str, Tensor], config: DecoderConfig) -> None:
    weights = Weights.open(FIXTURE / "lm")
    hidden = golden["batch.hidden_last"]
    parts = {p.stage.name: p.net for p in vyvo.parts(weights, config, CODES, END) if p.stage.name != "lm"}
    whole = parts.pop("head")(hidden)[0]
    for place in range(7):
        at = 410 + place * 4096
        expected = torch.cat((whole[:, at : at + 4096], whole[:, END : END + 1]), dim=1)
        torch.testing.assert_close(parts[f"head.{place}"](hidden)[0], expected)


def test_shared_cache_equals_copied_cache(golden: dict[str, Tensor], graphs: dict[str, Graphs]) -> None:
    """A graph bound to one buffer for cache and next cache says what it says with two."""
    for model in graphs.values():
        state, ids = model.start(1), golden["prompt_ids"].numpy().astype(np.int64)
        feed: dict[str, Array] = {"tokens": ids, "past": np.array([0]), "pads": np.array([0])}
        copies = {name: array.copy() for name, array in state.items()}
        given = {name: array.copy() for name, array in copies.items()}
        names = ["hidden", *(f"next.{name}" for name in copies)]
        hidden, *after = model.lm._ort.run(names, feed | copies)
        shared, state = model.lm(state, into={}, **feed)
        np.testing.assert_array_equal(shared["hidden"], hidden)
        for (name, array), copied in zip(state.items(), after, strict=True):
            used = slice(None) if name.startswith("conv") else slice(ids.shape[1])
            np.testing.assert_array_equal(array[:, :, used], copied[:, :, used])
            np.testing.assert_array_equal(copies[name], given[name])  # and its input is left alone


@pytest.mark.parametrize("recipe", ["fp32", "int4"])
def test_fidelity_is_perfect_for_fp32_alone(recipe: str, golden: dict[str, Tensor], tmp_path: Path) -> None:
    with deferring():
        config = vyvo.read_config(FIXTURE / "lm/config.json")
        every = {p.stage.name: p for p in vyvo.parts(Weights.open(FIXTURE / "lm"), config, CODES, END)}
    parts = {name: every[name] for name in ("lm", "head.0", "head.1")}
    for part in parts.values():
        save(part, tmp_path, vyvo.RECIPES[recipe], "cpu", [])
    tokens = torch.cat((golden["prompt_ids"], golden["greedy.tokens"]), dim=1)[0, :40].long().numpy()
    found = fidelity(parts, tmp_path, tokens, [(19 + i, f"head.{i % 7}") for i in range(21) if i % 7 < 2])
    assert found.positions == 6
    if recipe == "fp32":
        assert found.kl < 1e-6
        assert found.top1 == 1
        assert found.snr_db > 90
    else:  # random weights say nothing about quality, but blocks of 32 inputs cannot be far off
        assert 0 < found.kl < 5
        assert 3 < found.snr_db < 40


# --------------------------------------------------------------------------------------- against transformers


def checkpoint(held: dict[str, Any], folder: Path) -> Any:
    """Writes a random checkpoint of `held` and returns upstream's model of it."""
    from transformers import AutoConfig, AutoModelForCausalLM

    (folder / "config.json").write_text(json.dumps(held))
    torch.manual_seed(0)
    upstream = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder)).eval()
    for parameter in upstream.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    kept = upstream.state_dict()
    if upstream.config.tie_word_embeddings:
        del kept["lm_head.weight"]
    save_file({name: value.contiguous() for name, value in kept.items()}, folder / "model.safetensors")
    return upstream


def hold_to_transformers(model: Any, upstream: Any) -> None:
    """Two rows, one padded; a prompt and three steps."""
    ids = torch.randint(3, 60, (2, 9), generator=torch.Generator().manual_seed(1))
    mask = torch.ones(2, 12, dtype=torch.long)
    mask[0, :4] = 0
    pads = np.array([4, 0])
    places = (mask.cumsum(1) - 1).clamp(min=0)
    state, cache, past = model.start(2), None, 0
    for time in (6, 1, 1, 1):
        tokens = ids[:, past : past + time]
        logits, state = model(state, tokens.numpy(), past, pads)
        past += time
        with torch.no_grad():
            out = upstream(
                tokens, attention_mask=mask[:, :past], position_ids=places[:, past - time : past], past_key_values=cache
            )
        cache = out.past_key_values
        expected = out.logits[:, -1]
        hold(logits, expected, bound=2e-5 * max(1.0, float(expected.abs().max())))


@pytest.mark.parametrize("name", CONFIGS)
def test_net_is_transformers_for_any_config(name: str, tmp_path: Path) -> None:
    upstream = checkpoint(CONFIGS[name], tmp_path)
    hold_to_transformers(Net(tmp_path), upstream)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in QUICK else [pytest.mark.slow]) for name in CONFIGS]
)
def test_graphs_are_transformers_for_any_config(name: str, target: str, tmp_path: Path) -> None:
    upstream = checkpoint(CONFIGS[name], tmp_path)
    hold_to_transformers(Graphs(tmp_path, tmp_path, target), upstream)
