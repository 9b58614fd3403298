"""The decoder net says what upstream said, as torch net and as the graphs of both targets."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from safetensors.torch import load_file
from tests.exporters.decoders import CAPACITY, Decoder, graph_decoder, torch_decoder
from torch import Tensor

from voxport.graphs.ort import OrtSession
from voxport.graphs.session import Array, State
from voxport.speech.rows import Rows
from voxport_exporters.checkpoints.later import deferring
from voxport_exporters.checkpoints.weights import Weights
from voxport_exporters.graphs.fidelity import fidelity
from voxport_exporters.nets.decoder_config import DecoderConfig
from voxport_exporters.pack import save
from voxport_exporters.systems.vyvo import job as vyvo
from voxport_exporters.systems.vyvo.tokens import CodeIds
from voxport_exporters.targets import TARGETS
from voxport_parity.reference import taps_of

FIXTURE = Path(__file__).parents[1] / "fixtures/vyvo"
BOUND = 2e-4  # logits of size 10, through six layers
CODES, END = CodeIds(410, places=7, size=4096), 402  # inference.yaml, snac_24khz/config.json


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


@pytest.fixture(scope="module")
def graphs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of the graphs."""
    folders = {target: tmp_path_factory.mktemp(target) for target in TARGETS}
    for target, folder in folders.items():
        graph_decoder(FIXTURE / "lm", folder, target)
    return folders


@pytest.fixture(scope="module", params=["torch", *TARGETS])
def model(request: pytest.FixtureRequest, graphs: dict[str, Path]) -> Decoder:
    if request.param == "torch":
        return torch_decoder(FIXTURE / "lm")
    return Decoder(*(OrtSession(graphs[request.param] / f"{stage}.onnx") for stage in ("lm", "head")))


def hold(actual: Array, expected: Tensor, bound: float = BOUND) -> None:
    np.testing.assert_allclose(actual, expected.numpy(), rtol=0, atol=bound)


def hold_state(state: State, golden: dict[str, Tensor], call: str) -> None:
    for name, array in state.items():
        kind, _, layer = name.partition(".")
        if kind == "conv":  # upstream keeps a column more than the kernel reads
            hold(array, golden[f"{call}.layer{layer}.conv_state"][..., 1:].transpose(1, 2))
        else:
            expected = golden[f"{call}.layer{layer}.{kind.removesuffix('s')}"]
            hold(array[:, :, : expected.shape[2]], expected)
            assert np.isnan(array[:, :, expected.shape[2] :]).all()


def test_layers_are_upstreams(golden: dict[str, Tensor]) -> None:
    model = torch_decoder(FIXTURE / "lm")
    state, past = model.start(), 0
    for call, tokens in (("prefill", golden["prompt_ids"]), ("step1", golden["step1.input_id"])):
        _, state = model(state, tokens.numpy(), past)
        past += tokens.shape[1]
        taps = taps_of(model.lm.session)
        assert len(taps) == 7
        for name, value in taps.items():
            hold(value, golden[f"{call}.{name}"])


def test_prefill_and_step_are_upstreams(model: Decoder, golden: dict[str, Tensor]) -> None:
    logits, state = model(model.start(1), golden["prompt_ids"].numpy())
    hold(logits, golden["prefill.logits_last"])
    hold_state(state, golden, "prefill")
    _, state = model(state, golden["step1.input_id"].numpy(), golden["prompt_ids"].shape[1])
    hold_state(state, golden, "step1")


def test_prompt_in_pieces_is_the_prompt(model: Decoder, golden: dict[str, Tensor]) -> None:
    state, past = model.start(1), 0
    for piece in golden["prompt_ids"].split((1, 9, 8), dim=1):
        logits, state = model(state, piece.numpy(), past)
        past += piece.shape[1]
    hold(logits, golden["prefill.logits_last"])
    hold_state(state, golden, "prefill")


def test_rows_are_upstreams_padded_batch(model: Decoder, golden: dict[str, Tensor]) -> None:
    """Upstream pads the shorter prompt; here each is prefilled alone, and all rows step together, each at its place."""
    pairs = zip(golden["batch_ids"].numpy(), golden["batch_mask"].numpy(), strict=True)
    prompts = [ids[mask != 0].astype(np.int64) for ids, mask in pairs]
    for last in (0, 1):  # tokens that the rows take together
        rows = Rows(model.lm, 2, CAPACITY)
        hidden = rows.begin(tokens=[prompt[: len(prompt) - last] for prompt in prompts])["hidden"]
        if last:
            hidden = rows.step(tokens=np.array([prompt[-1] for prompt in prompts]))["hidden"]
        hold(hidden, golden["batch.hidden_last"])
        top = np.take_along_axis(model.logits(hidden), golden["batch.top_ids"].long().numpy(), 1)
        hold(top, golden["batch.top_logits"])


@pytest.mark.parametrize("run", ["greedy", "sampled", "clone"])
def test_teacher_forced_logits_are_upstreams(model: Decoder, golden: dict[str, Tensor], run: str) -> None:
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


def test_shared_cache_equals_copied_cache(golden: dict[str, Tensor], graphs: dict[str, Path]) -> None:
    """A graph bound to one buffer for cache and next cache says what it says with two."""
    for folder in graphs.values():
        lm, plain = OrtSession(folder / "lm.onnx"), onnxruntime.InferenceSession(str(folder / "lm.onnx"))
        state, ids = lm.start(batch=1, capacity=CAPACITY), golden["prompt_ids"].long().numpy()
        feed: dict[str, Array] = {"tokens": ids, "past": np.array([0])}
        copies = {name: array.copy() for name, array in state.items()}
        originals = {name: array.copy() for name, array in copies.items()}
        names = ["hidden", *(f"next.{name}" for name in copies)]
        hidden, *after = plain.run(names, feed | copies)
        shared, state = lm(state, into={}, **feed)
        np.testing.assert_array_equal(shared["hidden"], hidden)
        for (name, array), copied in zip(state.items(), after, strict=True):
            np.testing.assert_array_equal(array, copied)
            np.testing.assert_array_equal(copies[name], originals[name])  # and its input is left alone


@pytest.mark.parametrize("recipe", ["fp32", "int4"])
def test_fidelity_is_perfect_for_fp32_alone(recipe: str, golden: dict[str, Tensor], tmp_path: Path) -> None:
    with deferring():
        config = vyvo.read_config(FIXTURE / "lm/config.json")
        every = {p.stage.name: p for p in vyvo.parts(Weights.open(FIXTURE / "lm"), config, CODES, END)}
    parts = {name: every[name] for name in ("lm", "head.0", "head.1")}
    for part in parts.values():
        save(part, tmp_path, vyvo.RECIPES[recipe], "cpu")
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
