"""XCodec2's encoder computes what upstream's does: nets and graphs, the released kind of config and others."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file
from tests.bundles import FIXTURES
from tests.exporters.codecs.xcodec2_encoder_cases import BERT, CASES, Array, doubled, halved, release, upstreams

from voxport.codecs.xcodec2_encoder import features
from voxport.graphs.ort import OrtSession
from voxport_exporters.checkpoints.weights import Weights
from voxport_exporters.codecs.xcodec2 import encoder, stages, w2vbert
from voxport_exporters.codecs.xcodec2.antialias import Filter, doubling, halving
from voxport_exporters.codecs.xcodec2.w2vbert import W2vBertConfig
from voxport_exporters.graphs.part import Part
from voxport_exporters.nets.taps import tapped
from voxport_exporters.pack import save
from voxport_parity.compare import compare
from voxport_parity.systems.t5gemma import codec_encoder

FIXTURE = FIXTURES / "t5gemma"
KIND, TARGETS = "released kind", ("cpu", "portable")
QUICK = [("odd", "portable")]
CROSS = [pytest.param(*case, marks=pytest.mark.slow) for case in (("odd", "cpu"), *((KIND, t) for t in TARGETS))]


def fixture() -> dict[str, Part]:
    config, weights = stages.find(FIXTURE / "xcodec2")
    speech = w2vbert.read_config(FIXTURE / "w2v-bert-2.0" / "config.json")
    parts = stages.parts(stages.open_weights(weights), stages.read_config(config), speech)
    return {part.stage.name: part for part in parts}


def encoded(parts: dict[str, Part], inputs: Array, audio: Array) -> dict[str, Array]:
    """What the nets make of the features and the audio of a recording."""
    with torch.no_grad():
        (semantic,) = parts["codec_semantic"].net(torch.from_numpy(inputs))
        (acoustic,) = parts["codec_acoustic"].net(torch.from_numpy(audio))
        (codes,) = parts["codec_quantize"].net(semantic, acoustic)
    return {"semantic": semantic.numpy(), "acoustic": acoustic.numpy(), "codes": codes.numpy()}


def graphs(parts: dict[str, Part], target: str, folder: Path) -> dict[str, OrtSession]:
    """The encoder's graphs, exported."""
    sessions = {}
    for name in ("codec_semantic", "codec_acoustic", "codec_quantize"):
        save(parts[name], folder, stages.RECIPES["fp32"], target)
        sessions[name] = OrtSession(folder / f"{name}.onnx")
    return sessions


def run(sessions: dict[str, OrtSession], inputs: Array, audio: Array) -> dict[str, Array]:
    def call(name: str, **arrays: Array) -> dict[str, Array]:
        return sessions[name](sessions[name].start(), into=None, **arrays)[0]

    outputs = call("codec_semantic", features=inputs) | call("codec_acoustic", audio=audio)
    return outputs | call("codec_quantize", **outputs)


def close(name: str, got: Array, expected: Array) -> None:
    diff = compare("t5gemma", "encoder", "test", name, got, expected, codec_encoder.bound(f"codec.enc.{name}"))
    assert diff.ok, str(diff)


# ------------------------------------------------------------------------------------------------------- goldens


@pytest.fixture(scope="module")
def golden() -> dict[str, Array]:
    return load_file(FIXTURE / "golden.safetensors")


def test_every_layer_of_the_nets_is_upstreams(golden: dict[str, Array]) -> None:
    inputs, audio = golden["codec.enc.input_features"][0], golden["codec.enc.wav_padded"].reshape(-1, 320)
    with tapped() as taps:
        outputs = encoded(fixture(), inputs, audio)
    names = [name for name in golden if name.startswith("codec.enc.") and name in taps]
    assert len(names) == 8
    for name in names:
        close(name.removeprefix("codec.enc."), taps[name].numpy(), golden[name])
    assert np.array_equal(outputs["codes"], golden["codec.enc.codes"].ravel())


@pytest.mark.parametrize("target", ["cpu", pytest.param("portable", marks=pytest.mark.slow)])
def test_the_graphs_codes_are_upstreams(golden: dict[str, Array], target: str, tmp_path: Path) -> None:
    audio = golden["codec.enc.wav_padded"].reshape(-1, 320)
    outputs = run(graphs(fixture(), target, tmp_path), features(audio, 160), audio)
    close("semantic_encoder_out", outputs["semantic"].T[None], golden["codec.enc.semantic_encoder_out"])
    close("acoustic_out", outputs["acoustic"][None], golden["codec.enc.acoustic_out"])
    assert np.array_equal(outputs["codes"], golden["codec.enc.codes"].ravel())


# ------------------------------------------------------------------------------------------- other configs


def recording(frames: int, inputs: int) -> tuple[Array, Array]:
    random = np.random.default_rng(frames)
    audio = random.standard_normal((frames, 320), np.float32) * np.float32(0.2)
    return random.standard_normal((frames, inputs), np.float32), audio


@pytest.mark.parametrize(("name", "target"), [*QUICK, *CROSS])
def test_releases_of_other_shapes_encode_as_upstreams_code_does(name: str, target: str, tmp_path: Path) -> None:
    case = release(name, tmp_path)
    parts = {part.stage.name: part for part in encoder.parts(case.weights, case.config, case.speech)}
    sessions = graphs(parts, target, tmp_path)
    for frames in (1, 2, 90):  # 90: beyond the distances that attention tells apart
        inputs, audio = recording(frames, case.bert["feature_projection_input_dim"])
        expected = upstreams(case, inputs, audio)
        for outputs in (encoded(parts, inputs, audio), run(sessions, inputs, audio)):
            close("semantic_encoder_out", outputs["semantic"], expected["semantic"])
            close("acoustic_out", outputs["acoustic"], expected["acoustic"])
            assert np.array_equal(outputs["codes"], expected["codes"])
        assert expected["codes"].max() < case.config.codes


def test_without_its_config_the_sizes_of_w2v_bert_are_those_of_the_tensors(tmp_path: Path) -> None:
    case = release(KIND, tmp_path)
    inputs, audio = recording(70, 160)
    outputs = [
        encoded({p.stage.name: p for p in encoder.parts(Weights.open(tmp_path), case.config, speech)}, inputs, audio)
        for speech in (W2vBertConfig(num_hidden_layers=17), case.speech)
    ]
    assert np.array_equal(outputs[0]["semantic"], outputs[1]["semantic"])


@pytest.mark.parametrize("name", CASES)
def test_every_key_of_a_release_is_accounted_for(name: str, tmp_path: Path) -> None:
    case = release(name, tmp_path)
    with_encoder = [part.stage.name for part in stages.parts(case.weights, case.config, case.speech)]
    assert with_encoder == ["codec_decode", "codec_semantic", "codec_acoustic", "codec_quantize"]
    assert [p.stage.name for p in stages.parts(Weights.open(tmp_path), case.config)] == ["codec_decode"]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"position_embeddings_type": "rotary"}, "position_embeddings_type is 'rotary', only 'relative_key'"),
        ({"num_hidden_layers": 12}, "num_hidden_layers is 12, XCodec2 reads 16"),
        ({"hidden_act": "tanhshrink"}, "hidden_act is 'tanhshrink', which is not known here"),
    ],
)
def test_a_w2v_bert_that_the_codec_cannot_read_is_refused(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        W2vBertConfig.of(BERT | fields)


def test_a_config_of_another_w2v_bert_is_refused(tmp_path: Path) -> None:
    case = release(KIND, tmp_path)
    other = W2vBertConfig.of(BERT | {"intermediate_size": 21})
    with pytest.raises(ValueError, match=r"ffn1.*has shape \[20, 12\], the config says \[21, 12\]"):
        list(encoder.parts(case.weights, case.config, other))


# ---------------------------------------------------------------------------------------------- anti-aliasing


@given(count=st.integers(4, 15), steps=st.integers(1, 40), seed=st.integers(0, 2**16))
@settings(max_examples=60, deadline=None)
def test_two_filters_of_one_rate_are_upstreams_filter_of_twice_the_rate(count: int, steps: int, seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    x, taps = torch.randn(1, 3, steps, generator=draw), torch.randn(1, 1, count, generator=draw)
    row = taps.flatten().tolist()
    twice = doubled(x, taps)
    rows = Filter(doubling(row), 3, rows_in=1)(x[:, :, None])
    assert rows.shape == (1, 3, 2, steps)
    np.testing.assert_allclose(rows.transpose(2, 3).flatten(2), twice, atol=1e-5)
    once = Filter(halving(row), 3, rows_in=2)(twice.unflatten(2, (-1, 2)).transpose(2, 3))
    np.testing.assert_allclose(once[:, :, 0], halved(twice, taps), atol=1e-4)
