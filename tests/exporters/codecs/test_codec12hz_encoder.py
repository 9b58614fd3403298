"""The encoder of the 12 Hz codec computes what upstream's does: net and graphs."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.bundles import FIXTURES
from tests.exporters.codecs.codec12hz_cases import (
    BASE,
    CROSS,
    CUSTOM,
    ENCODER,
    QUICK,
    Array,
    Sessions,
    close,
    parts,
    recording,
    session,
    zeros,
)
from torch import Tensor

from voxport.codecs.codec12hz import Encoder
from voxport_exporters.checkpoints.weights import Weights
from voxport_exporters.codecs.codec12hz import encoder as codec12hz_encoder
from voxport_exporters.codecs.codec12hz import stages as codec12hz
from voxport_exporters.codecs.codec12hz.config import EncoderConfig
from voxport_exporters.graphs.part import Part
from voxport_exporters.nets.taps import tapped


@pytest.mark.parametrize("name", [CUSTOM, BASE])
def test_every_layer_of_the_encoder_is_upstreams(name: str, goldens: dict[str, dict[str, Array]]) -> None:
    golden, stage_parts = goldens[name], parts(name)
    samples = recording(name)
    frames = -(-len(samples) // 1920)
    sound = torch.zeros(frames * 1920)
    sound[: len(samples)] = torch.from_numpy(samples)
    analyse, encode = stage_parts["codec_analyse"], stage_parts["codec_encode"]
    with torch.no_grad(), tapped() as taps:
        features, *_ = analyse.net(sound.view(frames, 1920), torch.tensor([len(samples)]), *zeros(analyse))
        codes = encode.net(features, torch.tensor([-(-len(samples) // 960)]))
    for key in ("enc.conv_out", "enc.transformer_out", "enc.latent"):
        close(taps[key][..., : golden[key].shape[-1]], golden[key], 1e-5)
    assert np.array_equal(codes, golden["enc.codes"])


@pytest.mark.parametrize(("name", "target"), [*QUICK, *CROSS])
def test_the_graph_encodes_to_upstreams_codes(
    name: str, target: str, goldens: dict[str, dict[str, Array]], sessions: Sessions
) -> None:
    encoder = Encoder(sessions(name, target, "codec_analyse"), sessions(name, target, "codec_encode"))
    assert np.array_equal(encoder.encode(recording(name)), goldens[name]["enc.codes"])


def test_all_levels_of_the_quantizer_are_upstreams(goldens: dict[str, dict[str, Array]]) -> None:
    folder = FIXTURES / BASE / "speech_tokenizer"
    config = EncoderConfig.of(json.loads((folder / "config.json").read_text())["encoder_config"])
    net = codec12hz_encoder.Encoder(Weights.open(folder).at("encoder"), config, config.num_quantizers)
    latent = torch.from_numpy(goldens[BASE]["enc.latent"][0].T)
    with torch.no_grad():
        codes = torch.stack(net.first(latent) + net.rest(latent))
    assert np.array_equal(codes, goldens[BASE]["enc.codes_all"][0])


@pytest.mark.parametrize("length", [1, 7, 15, 16, 29, 30, 31, 60, 200, 211])
def test_the_encoder_of_any_config_is_transformers(length: int) -> None:
    ours, theirs = mimi()
    wave = 0.3 * torch.randn(length, generator=torch.Generator().manual_seed(length))
    with torch.no_grad():
        expected = theirs.encode(wave[None, None]).audio_codes[0].T
        got = encoded(*ours, wave)
    assert torch.equal(got, expected)


def mimi() -> tuple[tuple[Part, Part], Any]:
    """Our two nets and transformers' model with the same random weights."""
    from transformers import MimiConfig, MimiModel

    torch.manual_seed(0)
    their: dict[str, Any] = {k: v for k, v in ENCODER.items() if k != "_frame_rate"} | {"frame_rate": 10}
    model = MimiModel(MimiConfig(**their, codebook_dim=5, upsample_groups=12, sliding_window=10**6)).eval()
    state = {}
    for key, value in model.state_dict().items():
        random = torch.randn(value.shape) * 0.4
        state[key] = random.abs() + 0.5 if "cluster_usage" in key else random if value.ndim else value
    model.load_state_dict(state)
    # transformers 5 moved the transformer and the downsampling into its encoder; the release has them beside it.
    released = {k.replace("encoder.encoder_seanet.", "encoder."): v for k, v in state.items()}
    released = {k.replace("encoder.encoder_", "encoder_"): v for k, v in released.items()}
    released = {k.replace("encoder.downsample", "downsample"): v for k, v in released.items()}
    own = {k: v for k, v in released.items() if not k.startswith(("decoder", "upsample"))}
    weights = Weights(Path("mimi"), own, own.__getitem__)
    config, books = EncoderConfig.of(ENCODER), 6
    stage_parts = (
        Part(codec12hz.analyse_stage(config), codec12hz_encoder.Analysis(weights, config), axes={"frames": 2}),
        Part(codec12hz.encode_stage(config, books), codec12hz_encoder.Encoder(weights, config, books), {"frames": 5}),
    )
    weights.finish()
    return stage_parts, model


def encoded(analyse: Part, encode: Part, wave: Tensor) -> Tensor:
    frame = 30
    frames = -(-len(wave) // frame)
    sound = torch.zeros(frames * frame)
    sound[: len(wave)] = wave
    features, *_ = analyse.net(sound.view(frames, frame), torch.tensor([len(wave)]), *zeros(analyse))
    codes: Tensor = encode.net(features, torch.tensor([-(-len(wave) * 2 // frame)]))
    return codes


@pytest.mark.parametrize("target", ["cpu", pytest.param("portable", marks=pytest.mark.slow)])
def test_the_encoder_graphs_of_any_config_are_their_nets(target: str, tmp_path: Path) -> None:
    stage_parts, _ = mimi()
    encoder = Encoder(*(session(part, target, tmp_path) for part in stage_parts))
    for length in (1, 30, 31, 211, 700):
        wave = 0.3 * torch.randn(length, generator=torch.Generator().manual_seed(length))
        with torch.no_grad():
            expected = encoded(*stage_parts, wave)
        assert np.array_equal(encoder.encode(wave.numpy()), expected)


def test_a_recording_without_samples_is_refused(sessions: Sessions) -> None:
    encoder = Encoder(sessions(BASE, "cpu", "codec_analyse"), sessions(BASE, "cpu", "codec_encode"))
    with pytest.raises(ValueError, match="wanted float samples"):
        encoder.encode(np.empty(0, np.float32))
    with pytest.raises(ValueError, match="sample 2 is not a number"):
        encoder.encode(np.array([0, 0, np.nan], np.float32))
