"""The speaker encoder of Qwen3-TTS computes what upstream's does: mel, net and graph."""

from pathlib import Path

import numpy as np
import pytest
import torch
from tests.exporters.codecs.codec12hz_cases import (
    BASE,
    EMBEDDING,
    LAYER,
    MEL,
    SPEAKER,
    Array,
    RandomWeights,
    Sessions,
    close,
    parts,
    recording,
    session,
)

from voxport.systems.qwen3tts.xvector import SpeakerEncoder, speaker_mel
from voxport_exporters.graphs.part import Part
from voxport_exporters.nets.taps import tapped
from voxport_exporters.systems.qwen3tts import xvector as speaker
from voxport_exporters.systems.qwen3tts.stages import speaker_stage


def test_the_reference_is_resampled_as_upstream_does(goldens: dict[str, dict[str, Array]]) -> None:
    close(recording(BASE), goldens[BASE]["ref.wav_24k"], 1e-6)


def test_the_mel_is_upstreams(goldens: dict[str, dict[str, Array]]) -> None:
    close(speaker_mel(goldens[BASE]["ref.wav_24k"], 24000).T[None], goldens[BASE]["spk.mel"], MEL)


def test_every_layer_of_the_speaker_encoder_is_upstreams(goldens: dict[str, dict[str, Array]]) -> None:
    golden, part = goldens[BASE], parts(BASE)["speaker_encode"]
    with torch.no_grad(), tapped() as taps:
        embedding = part.net(torch.from_numpy(golden["spk.mel"][0].T))
    close(embedding, golden["spk.embedding"], EMBEDDING)
    expected = {k for k in golden if k.startswith("spk.")} - {"spk.mel", "spk.embedding"}
    assert expected == taps.keys()
    for key in expected:
        close(taps[key], golden[key], LAYER)


@pytest.mark.parametrize("target", ["cpu", pytest.param("portable", marks=pytest.mark.slow)])
def test_a_voice_is_cloned_without_torch(target: str, goldens: dict[str, dict[str, Array]], sessions: Sessions) -> None:
    encoder = SpeakerEncoder(sessions(BASE, target, "speaker_encode"), 24000)
    close(encoder.embed(recording(BASE)), goldens[BASE]["spk.embedding"], 1e-4)
    with pytest.raises(ValueError, match="at least 2400"):
        encoder.embed(np.zeros(2399, np.float32))
    assert np.isfinite(encoder.embed(np.zeros(2400, np.float32))).all()


@pytest.mark.parametrize("target", ["cpu", pytest.param("portable", marks=pytest.mark.slow)])
def test_the_speaker_graph_of_any_config_is_its_net(target: str, tmp_path: Path) -> None:
    config = speaker.SpeakerConfig.of(SPEAKER)
    net = speaker.SpeakerEncoder(RandomWeights(), config)
    graph = session(Part(speaker_stage(config), net, axes={"frames": 9}), target, tmp_path)
    for frames in (config.least, 50):
        mel = torch.randn(frames, 5, generator=torch.Generator().manual_seed(frames))
        with torch.no_grad():
            outputs, _ = graph(graph.start(), mel=mel.numpy())
            close(outputs["embedding"], net(mel), 1e-5)
