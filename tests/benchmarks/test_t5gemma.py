"""The full-size writer of T5Gemma-TTS on small configs: 14 GB are too much for a test."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from benchmarks.fullsize import t5gemma, t5gemma_codec, t5gemma_tensors
from safetensors import safe_open
from safetensors.numpy import load_file
from tests.bundles import FIXTURES

from voxport.speech.text import Tokenizer
from voxport_exporters.systems.t5gemma.config import Config, read_config

FIXTURE = FIXTURES / "t5gemma"
SHARDS = 100_000  # bytes


def _shapes(path: Path) -> dict[str, tuple[int, ...]]:
    with safe_open(path, "np") as file:
        return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118


def _sizes(**fields: Any) -> t5gemma_codec.Sizes:
    configs = [json.loads((FIXTURE / name / "config.json").read_text()) for name in ("xcodec2", "w2v-bert-2.0")]
    return t5gemma_codec.Sizes.of(configs[0] | fields, configs[1])


@pytest.fixture(scope="module")
def config() -> Config:
    return read_config(FIXTURE / "t5gemma_tts" / "config.json")


def test_a_release_has_upstreams_tensors(config: Config) -> None:
    assert t5gemma_tensors.model(config) == _shapes(FIXTURE / "t5gemma_tts" / "model.safetensors")
    assert t5gemma_codec.shapes(_sizes()) == _shapes(FIXTURE / "xcodec2" / "model.safetensors")


def test_what_training_does_not_change_is_upstreams() -> None:
    upstream = load_file(FIXTURE / "xcodec2" / "model.safetensors")
    constants = t5gemma_codec.constants(t5gemma_codec.shapes(_sizes()))
    assert constants.keys() == {name for name in upstream if name.endswith((".filter", ".window"))}
    for name, value in constants.items():
        np.testing.assert_allclose(value, upstream[name].reshape(-1), atol=1e-7, rtol=0)


def test_the_codec_of_44_khz_has_an_upsampler() -> None:
    more = _sizes(hop_length=98, upsample_factors=[3, 3], upsample_kernel_sizes=[9, 7])
    shapes = t5gemma_codec.shapes(more)
    layer = "generator.upsampler.upsample_layers.1"
    assert shapes[f"{layer}.parametrizations.weight.original1"] == (32, 16, 7)
    assert (shapes[f"{layer}.parametrizations.weight.original0"], shapes[f"{layer}.bias"]) == ((32, 1, 1), (16,))
    assert shapes["generator.upsampler.out_proj.weight"] == (64, 16)
    assert shapes["generator.head.out.weight"] == (4 * 98 + 2, 64)


@pytest.mark.parametrize(
    ("variant", "model", "speech"), [("2b-2b", 5314.4, 822.7), ("2b-2b-44.1khz", 5314.4, 830.0), ("s-s", 248.9, 822.7)]
)
def test_the_real_configs_have_the_releases_size(
    variant: str, model: float, speech: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Millions of parameters; those of 2b-2b and of both codecs are counted in docs/systems/t5gemma.md 9."""
    counts: list[float] = []

    def count(_: Path, config: Config, sizes: t5gemma_codec.Sizes, __: int) -> None:
        for shapes in (t5gemma_tensors.model(config), t5gemma_codec.shapes(sizes)):
            counts.append(round(sum(math.prod(shape) for shape in shapes.values()) / 1e6, 1))

    monkeypatch.setattr(t5gemma, "write_weights", count)
    monkeypatch.setattr(t5gemma, "_tokenizer", lambda *_: None)
    t5gemma.write(tmp_path, variant, 0)
    assert counts == [model, speech]


def test_the_same_seed_writes_the_same_shards(tmp_path: Path, config: Config) -> None:
    for name in ("a", "b"):
        for part in ("t5gemma_tts", "xcodec2"):
            (tmp_path / name / part).mkdir(parents=True)
        t5gemma.write_weights(tmp_path / name, config, _sizes(), 5, SHARDS)
    model = tmp_path / "a" / "t5gemma_tts"
    for path in (tmp_path / "a").rglob("*.*"):
        assert path.read_bytes() == (tmp_path / "b" / path.relative_to(tmp_path / "a")).read_bytes()
    index = json.loads((model / "model.safetensors.index.json").read_text())
    shards = sorted(model.glob("*.safetensors"))
    assert len(shards) > 2
    assert all(path.stat().st_size < SHARDS + 10_000 for path in shards)
    placed = {name: path.name for path in shards for name in _shapes(path)}
    assert index["weight_map"] == placed
    assert placed.keys() == t5gemma_tensors.model(config).keys()
    assert index["metadata"]["total_size"] == 2 * sum(math.prod(s) for s in t5gemma_tensors.model(config).values())


def test_the_tokenizer_has_gemmas_ids(tmp_path: Path) -> None:
    t5gemma._tokenizer(tmp_path, 12000)
    content = json.loads((tmp_path / "tokenizer.json").read_text())
    vocab = content["model"]["vocab"]
    assert sorted(vocab.values()) == list(range(12000))
    assert (vocab["<bos>"], vocab["<0x00>"], vocab["<unused99>"]) == (2, 217, 11999)
    assert Tokenizer(tmp_path / "tokenizer.json").encode("the €")[-3:] == [217 + byte for byte in "€".encode()]
