"""The full-size writer of Fun-CosyVoice3 on small configs: 4 GB are too much for a test."""

import json
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import onnxruntime as ort
import pytest
import torch
from benchmarks.fullsize import cosyvoice3, cosyvoice3_tensors
from benchmarks.fullsize.cosyvoice3_frontend import Size
from tests.bundles import FIXTURES

from voxport_exporters.systems.cosyvoice3.config import Config, read_config

FIXTURE = FIXTURES / "cosyvoice3"
SMALL = Size(width=16, layers=2, heads=2, channels=8, blocks=2)


@pytest.fixture(scope="module")
def config() -> Config:
    return read_config(FIXTURE)


@pytest.mark.parametrize("name", ["llm", "flow", "hift"])
def test_a_release_has_upstreams_tensors(name: str, config: Config) -> None:
    keys = json.loads((FIXTURE / "golden.json").read_text())["state_dict_keys"][f"{name}.pt"]
    shapes = {"llm": cosyvoice3_tensors.llm, "flow": cosyvoice3_tensors.flow, "hift": cosyvoice3_tensors.hift}[name]
    assert shapes(config) == {key: tuple(shape) for key, shape in keys.items()}


def test_the_real_config_has_the_releases_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("write_weights", "write_frontend"):
        monkeypatch.setattr(cosyvoice3, name, lambda *_: None)
    cosyvoice3.write(tmp_path, "0.5b", 0)
    config = read_config(tmp_path)
    count = {
        shapes.__name__: sum(int(np.prod(shape)) for shape in shapes(config).values())
        for shapes in (cosyvoice3_tensors.llm, cosyvoice3_tensors.flow, cosyvoice3_tensors.hift)
    }
    assert round(count["llm"] / 1e6, 1) == 642.3  # the tied table counted twice
    assert round(count["flow"] / 1e6, 1) == 332.3
    assert round(count["hift"] / 1e6, 1) == 20.8


def test_the_same_seed_writes_the_same_values(tmp_path: Path, config: Config) -> None:
    # The fixture's text table has 151936 rows, too many for a quick test.
    small = msgspec.structs.replace(config, decoder=replace(config.decoder, vocab=100))
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        cosyvoice3.write_weights(tmp_path / name, small, 5)
        cosyvoice3.write_frontend(tmp_path / name, small, 5, SMALL)
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()
    state = torch.load(tmp_path / "a" / "llm.pt", weights_only=True)
    assert state[cosyvoice3_tensors.LM_HEAD].data_ptr() == state[cosyvoice3_tensors.EMBEDDINGS].data_ptr()


@pytest.mark.parametrize("frames", [1, 4, 5, 102])
def test_the_front_end_has_the_releases_signatures(frames: int, tmp_path: Path, config: Config) -> None:
    cosyvoice3.write_frontend(tmp_path, config, 1, SMALL)
    tokenizer = ort.InferenceSession(tmp_path / "speech_tokenizer_v3.onnx")
    feats = np.random.default_rng(0).uniform(-1, 1.5, (1, SMALL.mels, frames)).astype(np.float32)
    (indices,) = tokenizer.run(["indices"], {"feats": feats, "feats_length": np.array([frames], np.int32)})
    assert indices.shape == (1, -(-frames // 4))
    assert indices.min() >= 0
    assert indices.max() < config.llm.speech_token_size
    speaker = ort.InferenceSession(tmp_path / "campplus.onnx")
    (vector,) = speaker.run(["output"], {"input": np.zeros((1, frames, SMALL.fbanks), np.float32)})
    assert vector.shape == (1, config.flow.spk_embed_dim)


def test_what_follows_a_sounds_end_does_not_change_its_tokens(tmp_path: Path, config: Config) -> None:
    """feats_length is read; the two frames before the end are what the first convolutions smear."""
    cosyvoice3.write_frontend(tmp_path, config, 1, SMALL)
    tokenizer = ort.InferenceSession(tmp_path / "speech_tokenizer_v3.onnx")
    feats = np.random.default_rng(0).uniform(-1, 1.5, (1, SMALL.mels, 80)).astype(np.float32)
    short = feats.copy()
    short[:, :, 44:] = 0
    runs = [tokenizer.run(None, {"feats": f, "feats_length": np.array([40], np.int32)})[0] for f in (feats, short)]
    assert np.array_equal(runs[0][:, :10], runs[1][:, :10])
