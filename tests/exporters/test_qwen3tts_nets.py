"""The Qwen3-TTS language model says what upstream said: nets, cpu graphs and portable graphs, greedy and sampled."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from torch import Tensor

from voxport.graphs.ort import OrtSession
from voxport.speech.sampler import Sampling
from voxport_exporters.checkpoints.later import deferring
from voxport_exporters.checkpoints.weights import Weights
from voxport_exporters.graphs.part import Part
from voxport_exporters.nets.decoder_config import DecoderConfig
from voxport_exporters.nets.taps import tapped
from voxport_exporters.pack import save
from voxport_exporters.systems.qwen3tts import config as qwen3tts_config
from voxport_exporters.systems.qwen3tts import job as qwen3tts
from voxport_exporters.systems.qwen3tts.predictor import Predictor
from voxport_exporters.systems.qwen3tts.stages import predictor_part
from voxport_exporters.systems.qwen3tts.talker import Talker

Array = np.ndarray
Run = Callable[..., dict[str, Array]]  # stage, inputs -> outputs; the state of the talker is kept inside

FIXTURES = Path(__file__).parents[1] / "fixtures"
BASE, CUSTOM = "qwen3tts-base", "qwen3tts-customvoice"
HIDDEN, LOGITS, EMBEDS, CACHE = 1e-4, 2e-3, 1e-5, 1e-4
CAPACITY = 128
RUNS = {
    BASE: ("icl", "icl_short", "icl_nonstream", "xvec", "xvec_nonstream", "xvec_sampled"),
    CUSTOM: ("cv_nonstream", "cv_textstream", "cv_dialect", "cv_auto", "instruct", "cv_sampled"),
}
GREEDY = {"temperature": 1.0, "top_k": 1, "top_p": 1.0}
SLOW = pytest.mark.slow
MODELS = [(BASE, "torch"), (CUSTOM, "torch"), (CUSTOM, "cpu"), (BASE, "portable")]
MODELS += [pytest.param((BASE, "cpu"), marks=SLOW), pytest.param((CUSTOM, "portable"), marks=SLOW)]  # type: ignore[list-item]

# As 1.7B: the talker is wider than the predictor. Sizes no kernel likes; heads of 24 take GQA, heads of 6 do not.
WIDE: dict[str, dict[str, Any]] = {
    "wide": {"hidden_size": 36, "head_dim": 24, "predictor": {"hidden_size": 20, "head_dim": 24}},
    "odd": {"hidden_size": 22, "head_dim": 10, "predictor": {"hidden_size": 14, "head_dim": 6}},
}


class Model:
    """A fixture's language model behind one call, as torch nets or as graphs."""

    def __init__(self, name: str, target: str, folder: Path) -> None:
        root = FIXTURES / name
        self.name, self.golden = name, load_file(root / "golden.safetensors")
        self.runs = json.loads((root / "golden.json").read_text())["runs"]
        self.config = qwen3tts_config.read_config(root / "config.json")
        self.nets: dict[str, Part] = {}
        self.sessions: dict[str, OrtSession] = {}
        weights = Weights.open(root / "model.safetensors")
        if target == "torch":
            self.nets = {p.stage.name: p for p in qwen3tts.parts(weights, self.config)}
            return
        with deferring():
            for part in qwen3tts.parts(weights, self.config):
                save(part, folder, qwen3tts.RECIPES["fp32"], target)
                self.sessions[part.stage.name] = OrtSession(folder / f"{part.stage.name}.onnx")

    def start(self, batch: int = 1) -> None:
        axes = {"batch": batch, "capacity": CAPACITY}
        if self.nets:
            stage = self.nets["talker"].stage
            self.state: Any = {t.name: np.zeros(t.sized(axes), t.dtype) for t in stage.state}
        else:
            self.state = self.sessions["talker"].start(**axes)
        for array in self.state.values():
            array[:] = np.nan  # whoever reads a column that no token has written gets NaN

    def __call__(self, stage: str, **inputs: Array) -> dict[str, Array]:
        state = self.state if stage == "talker" else {}
        if self.nets:
            part = self.nets[stage]
            feed = [inputs[t.name] for t in part.stage.inputs] + list(state.values())
            with torch.no_grad():
                results = [t.numpy() for t in part.net(*(torch.from_numpy(np.ascontiguousarray(a)) for a in feed))]
            names = [t.name for t in part.stage.outputs]
            after: Any = dict(zip(state, results[len(names) :], strict=True))
            outputs = dict(zip(names, results, strict=False))
        else:
            session = self.sessions[stage]
            outputs, after = session(self.state if stage == "talker" else session.start(), into=None, **inputs)
        if stage == "talker":
            self.state = after
        return outputs


@pytest.fixture(scope="module", params=MODELS, ids="-".join)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Model:
    name, target = request.param
    return Model(name, target, tmp_path_factory.mktemp(f"{name}-{target}"))


def near(actual: Array, expected: Array, bound: float) -> None:
    np.testing.assert_allclose(actual, expected, rtol=0, atol=bound)


def predict(model: Model, hidden: Array, code: int, u: Array, sampling: dict[str, float]) -> dict[str, Array]:
    return model(
        "predictor",
        hidden=hidden,
        code=np.array([code]),
        uniforms=u.reshape(1, -1).astype(np.float32),
        temperature=np.array([sampling["temperature"]], np.float32),
        top_k=np.array([sampling["top_k"]], np.int64),
        top_p=np.array([sampling["top_p"]], np.float32),
    )


def speak(model: Model, run: str) -> None:
    """Generates a golden run from its prompt, choosing every code itself, and holds all on the way."""
    golden = {name.removeprefix(f"{run}."): a for name, a in model.golden.items() if name.startswith(f"{run}.")}
    settings, ids = model.runs[run]["settings"], qwen3tts.tokens(model.config)
    eos, draws = ids["codec.eos"], golden.get("uniforms")
    sampled = draws is not None
    best = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "repetition_penalty": 1.05}
    talker = Sampling.of({n: settings.get(n, d) if sampled else d for n, d in best.items()})
    sampling = {n: settings[f"subtalker_{n}"] for n in GREEDY} if sampled else GREEDY
    model.start()
    embeds, past, tokens, history = golden["prefill_embeds"], 0, [], np.zeros(golden["talker_logits"].shape[1], bool)
    for step, expected in enumerate(golden["talker_tokens"]):
        out = model("talker", embeds=embeds, past=np.array([past]))
        past += embeds.shape[1]
        near(out["hidden"][0], golden["past_hidden"][step], HIDDEN)
        if step < len(golden["talker_logits"]):
            near(out["logits"][0], golden["talker_logits"][step], LOGITS)
        scores = talker.penalized(out["logits"][0], history)
        scores[ids["codec.suppressed"] :] = -np.inf
        if step >= qwen3tts.LEAST_TOKENS:
            scores[eos] = talker.penalized(out["logits"][0], history)[eos]
        none = np.zeros_like(history)
        one = Sampling(talker.temperature, talker.top_k, talker.top_p, 1.0)
        token = one.choose(scores, none, float(draws[16 * step]) if draws is not None else None)
        assert token == expected
        tokens.append(token)
        history[token] = True
        if step == len(golden["codes"]):
            return
        u = draws[16 * step + 1 : 16 * step + 16] if draws is not None else np.zeros(15)
        results = predict(model, out["hidden"], token, u, sampling)
        assert [token, *results["codes"][0]] == golden["codes"][step].tolist()
        if step < len(golden["cp_logits"]):
            near(results["logits"][0], golden["cp_logits"][step], LOGITS)
        text = golden["trailing_text"][0]
        more = text[step] if step < len(text) else golden["tts_pad_embed"][0, 0]
        embeds = (results["embed"] + more)[None].astype(np.float32)


@pytest.mark.parametrize("index", range(6))
def test_every_code_of_every_run_is_upstreams(model: Model, index: int) -> None:
    speak(model, RUNS[model.name][index])


def test_layers_and_caches_of_the_prompt_are_upstreams() -> None:
    for name, run in ((BASE, "icl"), (CUSTOM, "cv_nonstream")):
        model = Model(name, "torch", Path())
        prompt = model.golden[f"{run}.prefill_embeds"]
        model.start()
        with tapped() as taps:
            model("talker", embeds=prompt, past=np.array([0]))
        for i in range(4):
            near(taps[f"hidden{i}"].numpy(), model.golden[f"{run}.prefill_hidden.{i}"], HIDDEN)
        for layer in (0, 2):
            for kind, short in (("keys", "k"), ("values", "v")):
                cache = model.state[f"{kind}.{layer}"][:, :, : prompt.shape[1]]
                near(cache, model.golden[f"{run}.prefill_{short}.{layer}"], CACHE)


def test_tables_are_upstreams_embeddings(model: Model) -> None:
    ids = [qwen3tts.tokens(model.config)[f"tts_{name}"] for name in ("bos", "eos", "pad")]
    near(model("text_embed", ids=np.array(ids))["embeds"], model.golden["text.special_embeds"][0], EMBEDS)
    run = RUNS[model.name][0]
    code = model.golden[f"{run}.talker_tokens"][:1].astype(np.int64)
    near(model("codec_embed", ids=code)["embeds"], model.golden[f"{run}.cp_in0"][0, 1:], EMBEDS)
    if model.name == BASE:  # a frame of a reference and one just made enter the talker alike
        frame = model.golden[f"{run}.codes"][:1].astype(np.int64)
        results = predict(model, model.golden[f"{run}.past_hidden"][:1], int(frame[0, 0]), np.zeros(15), GREEDY)
        near(model("frame_embed", codes=frame)["embeds"], results["embed"], EMBEDS)


def test_rows_of_a_batch_are_the_rows_alone(model: Model) -> None:
    run = RUNS[model.name][-1]
    hidden, codes = model.golden[f"{run}.past_hidden"][:2], model.golden[f"{run}.codes"][:2].astype(np.int64)
    u = model.golden[f"{run}.uniforms"][:32].reshape(2, 16)[:, 1:]
    settings = model.runs[run]["settings"]
    sampling = {n: settings[f"subtalker_{n}"] for n in GREEDY}
    together = model(
        "predictor",
        hidden=hidden,
        code=codes[:, 0],
        uniforms=u,
        temperature=np.array([sampling["temperature"]], np.float32),
        top_k=np.array([sampling["top_k"]]),
        top_p=np.array([sampling["top_p"]], np.float32),
    )
    np.testing.assert_array_equal(together["codes"], codes[:, 1:])
    for row in range(2):
        alone = predict(model, hidden[row : row + 1], int(codes[row, 0]), u[row], sampling)
        near(together["embed"][row], alone["embed"][0], EMBEDS)


# ---------------------------------------------------------------------------------------------- any configuration


class RandomWeights(Weights):
    """Every key, of every shape, random; `tensors` holds them."""

    def __init__(self) -> None:
        self.source, self.tensors, self._prefix = Path("random"), dict[str, Tensor](), ""

    def at(self, prefix: str) -> Self:
        view = object.__new__(type(self))
        view.__dict__.update(self.__dict__)
        view._prefix = f"{self._prefix}{prefix}."
        return view

    def take(self, name: str, *shape: int) -> Tensor:
        key = self._prefix + name
        if key not in self.tensors:
            self.tensors[key] = 0.3 * torch.randn(shape, generator=torch.Generator().manual_seed(len(self.tensors)))
        return self.tensors[key]


def config_of(name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    common = {"num_attention_heads": 6, "num_key_value_heads": 2, "num_hidden_layers": 2, "intermediate_size": 27}
    talker = {**common, **WIDE[name], "vocab_size": 41, "model_type": "qwen3"}
    predictor = {**common, **talker.pop("predictor"), "vocab_size": 19, "model_type": "qwen3", "rope_theta": 1e4}
    return talker, predictor


def upstream_frame(config: dict[str, Any], w: RandomWeights, hidden: Tensor, codes: Tensor) -> Tensor:
    """Logits [books - 1, size] of a frame's codes by transformers' Qwen3, each pass from the beginning."""
    from transformers import Qwen3Config, Qwen3Model

    def weight(name: str) -> Tensor:
        return w.tensors[f"talker.{name}"]

    model = Qwen3Model(Qwen3Config(**config)).eval()
    inner = "talker.code_predictor.model."
    state = {
        k.removeprefix(inner): v for k, v in w.tensors.items() if k.startswith(inner) and "codec_embedding" not in k
    }
    model.load_state_dict(state | {"embed_tokens.weight": model.embed_tokens.weight})
    rows = [hidden, weight("model.codec_embedding.weight")[codes[0]]]
    rows += [weight(f"code_predictor.model.codec_embedding.{i}.weight")[c] for i, c in enumerate(codes[1:])]
    project = "code_predictor.small_to_mtp_projection"
    x = torch.nn.functional.linear(torch.stack(rows), weight(f"{project}.weight"), weight(f"{project}.bias"))
    heads = [weight(f"code_predictor.lm_head.{i}.weight") for i in range(len(codes) - 1)]
    with torch.no_grad():
        return torch.stack(
            [model(inputs_embeds=x[None, : i + 2]).last_hidden_state[0, -1] @ h.T for i, h in enumerate(heads)]
        )


@pytest.mark.parametrize("name", WIDE)
def test_a_talker_wider_than_its_predictor_is_upstreams(name: str, tmp_path: Path) -> None:
    talker, cache = config_of(name)
    w, books = RandomWeights(), 5
    config = DecoderConfig.of(cache)
    net = Predictor(w.at("talker"), config, books, talker["vocab_size"], talker["hidden_size"])
    assert net.project is not None
    draws = torch.Generator().manual_seed(1)
    feed = [torch.randn(2, talker["hidden_size"], generator=draws), torch.tensor([3, 40])]
    feed += [torch.rand(2, books - 1, generator=draws), torch.tensor([0.7]), torch.tensor([9]), torch.tensor([0.8])]
    with torch.no_grad():
        codes, embed, logits = net(*feed)
    for row in range(2):
        frame = torch.cat((feed[1][row : row + 1], codes[row]))
        near(logits[row].numpy(), upstream_frame(cache, w, feed[0][row], frame).numpy(), LOGITS)
    part = predictor_part(net)
    for target in ("cpu", "portable"):
        (tmp_path / target).mkdir()
        save(part, tmp_path / target, qwen3tts.RECIPES["fp32"], target)
        session = OrtSession(tmp_path / target / "predictor.onnx")
        named = {t.name: a.numpy() for t, a in zip(part.stage.inputs, feed, strict=True)}
        results, _ = session(session.start(), into=None, **named)
        np.testing.assert_array_equal(results["codes"], codes.numpy())
        near(results["logits"], logits.numpy(), LOGITS)
        near(results["embed"], embed.numpy(), EMBEDS)


def test_rotary_sections_change_nothing() -> None:
    file = FIXTURES / BASE / "config.json"
    config = qwen3tts_config.read_config(file)
    plain = {**json.loads(file.read_text())["talker_config"], "rope_scaling": None, "model_type": "qwen3"}
    w = Weights.open(FIXTURES / BASE / "model.safetensors").at("talker")
    nets = [Talker(w, c) for c in (config.talker_layers, DecoderConfig.of(plain))]
    assert torch.equal(*(net.decoder.frequencies for net in nets))
