"""The vocoder of Fun-CosyVoice3: nets and graphs are upstream's, for the fixture and for configs far from it."""

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest
import torch
from safetensors.numpy import load_file
from tests.bundles import FIXTURES
from tests.exporters.cosyvoice3_vocoders import HIFTS, Checkpoint, hift, parts, upstream, vocoder

from voxport import bounds
from voxport.graphs.ort import OrtSession
from voxport.graphs.session import Session
from voxport.recipe import Recipe
from voxport.systems.cosyvoice3.noise import SineNoise
from voxport_exporters.checkpoints.weights import Weights
from voxport_exporters.graphs.part import Part
from voxport_exporters.nets.states import States
from voxport_exporters.pack import save
from voxport_exporters.systems.cosyvoice3 import hift as hift_net
from voxport_exporters.systems.cosyvoice3 import hift_stage
from voxport_exporters.systems.cosyvoice3 import vocoder as stages
from voxport_exporters.systems.cosyvoice3.config import Config, read_config
from voxport_parity.reference import TorchSession
from voxport_parity.systems.cosyvoice3.vocoder import Tile

Array = np.ndarray

ROOT = FIXTURES / "cosyvoice3"
TARGETS = ["cpu", pytest.param("portable", marks=pytest.mark.slow)]


@pytest.fixture(scope="module")
def golden() -> dict[str, Array]:
    return load_file(ROOT / "golden.safetensors")


@pytest.fixture(scope="module")
def config() -> Config:
    return read_config(ROOT)


@pytest.fixture(scope="module")
def fixture_parts(config: Config) -> dict[str, Part]:
    return {part.stage.name: part for part in stages.parts(Weights.open(ROOT / "hift.pt"), config)}


def nets(of: dict[str, Part]) -> dict[str, Session]:
    return {name: TorchSession(part) for name, part in of.items()}


def graphs(of: dict[str, Part], folder: Path, target: str, recipe: Recipe = Recipe("fp32")) -> dict[str, Session]:  # noqa: B008
    for part in of.values():
        save(part, folder, recipe, target)
    return {name: OrtSession(folder / f"{name}.onnx") for name in of}


def within(got: Array, expected: Array, bound: bounds.Bound) -> None:
    assert got.shape == expected.shape
    np.testing.assert_allclose(got, expected, rtol=0, atol=bound.absolute)


def mel_of(name: str, frames: int) -> Array:
    return np.random.default_rng(0).standard_normal((frames, hift(name).in_channels)).astype(np.float32)


@pytest.mark.parametrize("target", ["net", *TARGETS])
def test_f0_and_samples_are_upstreams(
    target: str, config: Config, golden: dict[str, Array], fixture_parts: dict[str, Part], tmp_path: Path
) -> None:
    sessions = nets(fixture_parts) if target == "net" else graphs(fixture_parts, tmp_path, target)
    v, noise = vocoder(sessions, config.hift), Tile(golden["hift.sine_noise_block"])
    mel = golden["flow.mel"][0].T
    state = v.f0.start()
    state["ahead"][:] = mel[:3]
    f0, _ = v.f0(state, mel=np.concatenate((mel[3:], np.zeros((3, v.bands), np.float32))))
    within(f0["f0"], golden["hift.f0_full_f64"][0], bounds.PITCH)
    within(v.decode(mel, noise), golden["pipeline.wav_nonstream"][0], bounds.VOCODER_AUDIO)
    short = golden["hift_short.mel"][0].T
    within(v.decode(short, noise), golden["hift_short.final_wav"][0], bounds.VOCODER_AUDIO)
    within(v.stream(noise).feed(short), golden["hift_short.stream_wav"][0], bounds.VOCODER_AUDIO)


def test_every_layer_is_upstreams(config: Config, golden: dict[str, Array], fixture_parts: dict[str, Part]) -> None:
    sessions = nets(fixture_parts)
    net = sessions["vocoder"]
    assert isinstance(net, TorchSession)
    v = vocoder(sessions, config.hift)
    state, mel, source = net.start(), golden["hift_short.mel"][0].T, golden["hift_short.final_source"][0, 0]
    state["ahead"][:] = mel[: v.net_ahead]
    state["samples"][:] = np.concatenate((source[v.half : 0 : -1], source[: v.half]))
    rest = np.concatenate((mel[v.net_ahead :], np.zeros((v.net_ahead, v.bands), np.float32)))
    after = np.concatenate((source[v.half :], source[-2 : -2 - v.half : -1])).reshape(-1, v.hop)
    net(state, mel=rest, source=after, steps=np.array([10**6]))
    names = [name for name in golden if name.startswith("hift_short.final_")]
    taps = {"hift_short.final_" + name.replace(".", ""): value for name, value in net.taps.items()}
    compared = [name for name in names if name in taps]
    assert set(names) - set(compared) == {f"hift_short.final_{n}" for n in ("wav", "source", "f0_f64", "sin_gen")}
    for name in compared:
        steps = min(taps[name].shape[-1], golden[name].shape[-1])  # the last one comes with a call more
        assert steps >= golden[name].shape[-1] - 1
        within(taps[name][..., :steps], golden[name][..., :steps], bounds.VOCODER_LAYER)


def test_the_source_is_upstreams(config: Config, golden: dict[str, Array], fixture_parts: dict[str, Part]) -> None:
    """Of upstream's f0: sines that stand still within a frame, and noise that is even, not Gaussian."""
    net = nets(fixture_parts)["source"]
    assert isinstance(net, TorchSession)
    hop, harmonics = config.hift.hop, config.hift.harmonics
    for kind in ("final", "stream"):
        f0 = golden[f"hift_short.{kind}_f0_f64"][0]
        noise = Tile(golden["hift.sine_noise_block"]).take(len(f0) * hop, harmonics).reshape(-1, hop, harmonics)
        outputs, _ = net(net.start(), f0=f0, noise=noise)
        within(outputs["source"].reshape(1, 1, -1), golden[f"hift_short.{kind}_source"], bounds.VOCODER_LAYER)
        if kind == "final":
            within(net.taps["sin_gen"][:, :1200], golden["hift_short.final_sin_gen"], bounds.VOCODER_LAYER)


@pytest.mark.parametrize("name", HIFTS)
@pytest.mark.parametrize("frames", [13, 30])
def test_any_config_computes_what_upstreams_modules_do(name: str, frames: int) -> None:
    of, tensors = parts(name)
    v, mel = vocoder(nets(of), hift(name)), mel_of(name, frames)
    noise = SineNoise(0).take(frames * v.hop, v.harmonics)
    within(v.decode(mel), upstream(tensors, hift(name), mel, noise), bounds.VOCODER_AUDIO)
    streamed = v.stream().feed(mel)
    expected = upstream(tensors, hift(name), mel, noise, final=False)
    if name != "short frames":  # a frame shorter than half a window: upstream hands out samples that are not whole
        assert len(streamed) == len(expected) == (frames - v.lookahead) * v.hop
    within(streamed, expected[: len(streamed)], bounds.VOCODER_AUDIO)
    assert len(streamed) > v.hop


@pytest.mark.parametrize(
    ("name", "target"),
    [("odd", "cpu"), ("one stage", "portable"), *(pytest.param(n, t, marks=pytest.mark.slow) for n, t in (
        ("odd", "portable"), ("one stage", "cpu"), ("short frames", "cpu"), ("short frames", "portable")))],
)  # fmt: skip
def test_the_graphs_of_any_config_are_its_nets(name: str, target: str, tmp_path: Path) -> None:
    of, _ = parts(name)
    mel = mel_of(name, 40)
    expected = vocoder(nets(of), hift(name)).decode(mel)
    v = vocoder(graphs(of, tmp_path, target), hift(name))
    within(v.decode(mel), expected, bounds.VOCODER_AUDIO)
    stream = v.stream()
    pieces = [stream.feed(mel[i : i + 1]) for i in range(40)]
    within(np.concatenate([*pieces, stream.flush()]), expected, bounds.VOCODER_AUDIO)


class Gaussian(SineNoise):
    def take(self, samples: int, harmonics: int) -> Array:
        return np.random.default_rng(0).standard_normal((samples, harmonics)).astype(np.float32)


@pytest.mark.parametrize("mistake", ["slope", "reflection", "noise"])
def test_known_mistakes_of_ports_are_noticed(mistake: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The inner slope before the last convolution, no reflected step before the last stage, Gaussian noise."""

    def zeros_first(x: torch.Tensor, states: States) -> torch.Tensor:
        states.keep(states.take().clamp(min=1))
        return states.join(x[0], axis=1)[None, :, :-1]

    if mistake == "slope":
        monkeypatch.setattr(hift_net, "POST_SLOPE", hift("odd").lrelu_slope)
    if mistake == "reflection":
        monkeypatch.setattr(hift_stage, "_late", zeros_first)
    of, tensors = parts("odd")
    v, mel = vocoder(nets(of), hift("odd")), mel_of("odd", 20)
    expected = upstream(tensors, hift("odd"), mel, SineNoise(0).take(20 * v.hop, v.harmonics))
    got = v.decode(mel, Gaussian(0) if mistake == "noise" else None)
    assert np.abs(got - expected).max() > 20 * bounds.VOCODER_AUDIO.absolute


def test_no_graph_holds_noise(fixture_parts: dict[str, Part], tmp_path: Path) -> None:
    """Exported as it is, upstream's source holds 259 MB of it. Here nothing is larger than the largest weight."""
    graphs(fixture_parts, tmp_path, "cpu")
    largest = max(p.numel() for part in fixture_parts.values() for p in part.net.parameters())
    for name in fixture_parts:
        model = onnx.load(tmp_path / f"{name}.onnx")
        assert all(np.prod(tensor.dims, dtype=int) <= largest for tensor in model.graph.initializer)
        assert not [node for node in model.graph.node if node.op_type.startswith("Random")]
        assert not [node for node in model.graph.node if node.op_type == "Constant" and node.attribute[0].t.dims]
    buffers = [b for part in fixture_parts.values() for b in part.net.buffers()]
    assert sum(buffer.numel() for buffer in buffers) == 0


def test_keys_may_carry_the_prefix_of_gan_training(config: Config, fixture_parts: dict[str, Part]) -> None:
    content = torch.load(ROOT / "hift.pt", weights_only=True)
    keys = {f"generator.{key}": tensor for key, tensor in content.items()}
    again = {part.stage.name: part for part in stages.parts(Weights(ROOT, keys, keys.__getitem__), config)}
    for name, part in fixture_parts.items():
        for parameter, value in part.net.named_parameters():
            torch.testing.assert_close(again[name].net.get_parameter(parameter), value, rtol=0, atol=0)


def test_keys_that_are_left_over_are_refused(config: Config) -> None:
    content = torch.load(ROOT / "hift.pt", weights_only=True)
    keys = content | {"ups.3.bias": torch.zeros(4)}
    with pytest.raises(ValueError, match=r"holds ups\.3\.bias"):
        list(stages.parts(Weights(ROOT, keys, keys.__getitem__), config))
    more_ahead = msgspec.structs.replace(config.hift, conv_pre_look_right=5)
    wider = msgspec.structs.replace(config, hift=more_ahead)
    with pytest.raises(ValueError, match=r"shape \[32, 80, 5\], the config says \[32, 80, 6\]"):
        list(stages.parts(Weights.open(ROOT / "hift.pt"), wider))


@pytest.mark.parametrize(
    ("change", "law"),
    [
        ({"sampling_rate": 22050}, "sampling_rate 22050 has another source"),
        ({"istft_params": {"n_fft": 7, "hop_len": 2}}, "n_fft 7 is odd"),
        ({"istft_params": {"n_fft": 6, "hop_len": 4}}, "below twice hop_len 4"),
        ({"upsample_rates": [4, 3, 1]}, "upsample_rates end with 1"),
        ({"f0_predictor": {"num_class": 2}}, "num_class is 2"),
    ],
)
def test_what_upstream_cannot_run_is_refused(change: dict[str, Any], law: str, config: Config) -> None:
    wrong = msgspec.structs.replace(config, hift=msgspec.convert({**HIFTS["odd"], **change}, type(config.hift)))
    with pytest.raises(ValueError, match=law):
        list(stages.parts(Checkpoint(), wrong))
