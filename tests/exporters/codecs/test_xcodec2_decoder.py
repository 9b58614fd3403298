"""XCodec2's decoder computes what upstream's does: net and graphs, the released kinds of config and others."""

import json
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from safetensors.torch import save_file
from tests.bundles import FIXTURES
from tests.exporters.codecs.xcodec2_cases import ODD, TINY, WIDE, release, upstreams

from voxport.bounds import XCODEC2_AUDIO, XCODEC2_LAYER
from voxport.codecs.xcodec2 import Codec
from voxport.graphs.ort import OrtSession
from voxport_exporters.checkpoints.weights import Weights
from voxport_exporters.codecs.xcodec2 import stages as xcodec2
from voxport_exporters.codecs.xcodec2.config import CodecConfig
from voxport_exporters.codecs.xcodec2.trial import STREAMED
from voxport_exporters.nets.taps import tapped
from voxport_exporters.pack import save
from voxport_parity import products
from voxport_parity.compare import compare

Array = np.ndarray

FIXTURE = FIXTURES / "t5gemma"
CASES: dict[str, tuple[dict[str, Any], tuple[int, ...]]] = {  # config, kernels of the upsampler
    "16 kHz": (TINY, ()),
    "44.1 kHz": (WIDE, (9, 7)),
    "kernels of upstream's code": (WIDE, (8, 8)),
    "odd": (ODD, (5,)),
}
QUICK = [("16 kHz", "portable"), ("44.1 kHz", "cpu"), ("kernels of upstream's code", "cpu"), ("odd", "portable")]
CROSS = [
    pytest.param(name, target, marks=pytest.mark.slow)
    for name in CASES
    for target in ("cpu", "portable")
    if (name, target) not in QUICK
]


def fixture() -> tuple[CodecConfig, Weights]:
    config, weights = xcodec2.find(FIXTURE / "xcodec2")
    return xcodec2.read_config(config), xcodec2.open_weights(weights)


def random(name: str, folder: Path) -> tuple[CodecConfig, Weights, dict[str, torch.Tensor]]:
    fields, kernels = CASES[name]
    config = CodecConfig.of(fields)
    tensors = release(config, kernels=kernels)
    save_file(tensors, folder / "model.safetensors")
    return config, Weights.open(folder), tensors


def codec_at(folder: Path, config: CodecConfig) -> Codec:
    return Codec(OrtSession(folder / "codec_decode.onnx"), xcodec2.section(config))


def random_codes(config: CodecConfig, frames: int) -> Array:
    return np.random.default_rng(frames).integers(0, config.codes, frames)


def nearness_of_a_stream(codec: Codec) -> float:
    """In dB, of the codes that export takes."""
    codes = np.random.default_rng(1).integers(0, codec.section.codes, STREAMED)
    exact, stream = codec.decode(codes), codec.stream()
    wave = np.concatenate((stream.feed(codes), stream.flush()))
    return float(10 * np.log10(np.var(exact) / np.mean((wave - exact) ** 2)))


def close(name: str, got: Array, expected: Array) -> None:
    bound = XCODEC2_AUDIO if name.endswith("wav") else XCODEC2_LAYER
    diff = compare("t5gemma", "codec_decode", "test", name, got, expected, bound)
    assert diff.ok, str(diff)


# ------------------------------------------------------------------------------------------------------- goldens


@pytest.fixture(scope="module")
def golden() -> dict[str, Array]:
    return load_file(FIXTURE / "golden.safetensors")


def test_every_layer_of_the_net_is_upstreams(golden: dict[str, Array]) -> None:
    config, weights = fixture()
    part = xcodec2.decoder_part(weights, config)
    with torch.no_grad(), tapped() as taps:
        (wave,) = part.net(torch.from_numpy(golden["codec.dec.codes"].reshape(-1)))
    names = [name for name in golden if name.startswith("codec.dec.") and name not in ("codec.dec.codes",)]
    assert len(names) == 13
    for name in names:
        got = wave.reshape(1, 1, -1) if name == "codec.dec.wav" else taps[name.removesuffix(".first8")]
        close(name, (got[..., :8] if name.endswith(".first8") else got).numpy(), golden[name])


# ------------------------------------------------------------------------------------------- other configs


@pytest.mark.parametrize(("name", "target"), [*QUICK, *CROSS])
def test_releases_of_other_shapes_decode_as_upstreams_code_does(name: str, target: str, tmp_path: Path) -> None:
    config, weights, tensors = random(name, tmp_path)
    result = save(xcodec2.decoder_part(weights, config), tmp_path, xcodec2.RECIPES["fp32"], target)
    codec = codec_at(tmp_path, config)
    for frames in (1, 2, 37):
        codes = random_codes(config, frames)
        wave = codec.decode(codes)
        beyond = {"kernels of upstream's code": 4, "odd": 1}.get(name, 0)  # steps that uneven kernels add
        assert len(wave) == frames * config.frame + beyond * config.hop_length
        close(f"{name}.wav", wave, upstreams(tensors, config, codes))
    assert result.record.streamed_db == pytest.approx(nearness_of_a_stream(codec), abs=0.1)


# ---------------------------------------------------------------------------------------- what export measures


@pytest.mark.parametrize(("name", "target"), [("16 kHz", "cpu"), ("44.1 kHz", "portable")])
def test_the_int8_recipe_rounds_as_its_kernels_say_and_export_says_what_that_costs(
    name: str, target: str, tmp_path: Path
) -> None:
    config, weights, _ = random(name, tmp_path)
    part, recipe = xcodec2.decoder_part(weights, config), xcodec2.RECIPES["int8"]
    result = save(part, tmp_path, recipe, target)
    kinds = {step.weight: step.rule.kind for step in result.plan.products}
    assert set(kinds.values()) == {"int8", "int8r"}
    assert all(result.plan.matches(rule) for rule in recipe.rule)
    matrices = {n for n, p in part.net.named_parameters() if p.dim() > 1 and not n.startswith("istft")}
    assert matrices - kinds.keys() == {"dequantizer.project.weight", "out.weight"}
    codes = random_codes(config, 30)
    codec = codec_at(tmp_path, config)
    with torch.no_grad():
        exact = part.net(torch.from_numpy(codes))[0].reshape(-1).numpy()
    assert not np.array_equal(codec.decode(codes), exact)
    graph = tmp_path / "codec_decode.onnx"
    diffs = list(products.check("t5gemma", part.for_recipe(recipe), recipe, target, graph, {"codes": codes}))
    assert len(diffs) >= len(kinds)
    assert all(diff.ok for diff in diffs), [str(diff) for diff in diffs if not diff.ok]
    assert result.record.output_db is not None
    assert result.record.streamed_db is not None


# ------------------------------------------------------------------------------------------------------ refusals


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"use_vocos": False}, "use_vocos is false, only true is supported"),
        ({"sample_rate": 24000}, "sample_rate is 24000, hop_length and upsample_factors make 50 * 320"),
        ({"hop_length": 98, "sample_rate": 44100}, "sample_rate is 44100"),
        ({"hop_length": 10**6}, "make 50000000 Hz"),
        ({"up_ratios": [2, 2]}, "up_ratios make 4 samples per code, wanted 320"),
        ({"heads": 5}, "codec_decoder_hidden_size 1024 is no multiple of heads 5"),
        ({"codec_decoder_hidden_size": 48, "heads": 1}, "leaves 48 channels after 0 halvings, wanted a multiple of 32"),
        ({"upsample_factors": [1] * 6, "hop_length": 320}, "leaves 16 channels after 6 halvings"),
        ({"fsq_levels": [1]}, "fsq_levels"),
        ({"fsq_levels": [1024] * 4}, "fsq_levels make 1099511627776 codes"),
        ({"depth": "many"}, "depth"),
    ],
)
def test_configs_that_do_not_hold_together_are_refused(fields: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=problem.replace("*", r"\*")) as raised:
        CodecConfig.of(fields, "config.json")
    assert str(raised.value).startswith("config.json")
    assert "\n" not in str(raised.value)


def test_a_release_writes_few_of_its_sizes() -> None:
    config = CodecConfig.of({"model_type": "xcodec2", "architectures": ["XCodec2Model"]})
    assert (config.codes, config.rate, config.frame, config.factors) == (65536, 16000, 320, ())
    variant = CodecConfig.of({"hop_length": 98, "sample_rate": 44100, "upsample_factors": [3, 3]})
    assert (variant.codes, variant.rate, variant.frame, variant.widths) == (65536, 44100, 882, [1024, 512, 256])


@pytest.mark.parametrize("kind", ["even kernel", "short kernel", "other width", "another key"])
def test_weights_of_another_config_are_refused(kind: str, tmp_path: Path) -> None:
    config, _, tensors = random("44.1 kHz", tmp_path)
    if kind == "even kernel":
        tensors["generator.backbone.embed.weight"] = torch.zeros(128, 128, 6)
    elif kind == "short kernel":
        name = "generator.upsampler.upsample_layers.1.parametrizations.weight.original1"
        tensors[name] = torch.zeros(64, 32, 2)
    elif kind == "other width":
        tensors["fc_post_a.weight"] = torch.zeros(64, 48)
    else:
        tensors["generator.mystery"] = torch.zeros(1)
    words = {
        "even kernel": "embed.weight has kernel 6, only odd ones",
        "short kernel": "original1 has kernel 2, wanted its stride 3 or more",
        "other width": r"fc_post_a.weight has shape \[64, 48\], the config says \[128, 48\]",
        "another key": "holds generator.mystery, which this net does not know",
    }
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=words[kind]):
        list(xcodec2.parts(Weights.open(tmp_path), config))


# -------------------------------------------------------------------------------------------------- checkpoints


def test_a_checkpoint_of_upstreams_trainer_is_the_release(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, weights, tensors = random("16 kHz", tmp_path)
    trainer = tmp_path / "trainer"
    (trainer / "ckpt").mkdir(parents=True)
    (trainer / "config.json").write_text(json.dumps(CASES["16 kHz"][0]))
    omegaconf = types.ModuleType("omegaconf")  # not installed where the checkpoint is read
    settings = type("DictConfig", (), {"__module__": "omegaconf"})
    monkeypatch.setitem(sys.modules, "omegaconf", omegaconf)
    monkeypatch.setattr(omegaconf, "DictConfig", settings, raising=False)
    cfg = settings()
    cfg.content = {"ngf": 48, "parent": cfg}
    others = {"discriminator.conv.weight": torch.zeros(3), "spec_discriminator.conv.weight": torch.zeros(3)}
    file = trainer / "ckpt" / "epoch=4-step=1400000.ckpt"
    torch.save({"state_dict": tensors | others, "hyper_parameters": {"cfg": cfg, "epoch": 4}}, file)
    monkeypatch.delitem(sys.modules, "omegaconf")
    _, path = xcodec2.find(trainer)
    assert path == file
    (part,) = xcodec2.parts(xcodec2.open_weights(path), xcodec2.read_config(trainer / "config.json"))
    codes = torch.from_numpy(random_codes(config, 20))
    with torch.no_grad():
        torch.testing.assert_close(part.net(codes), xcodec2.decoder_part(weights, config).net(codes), rtol=0, atol=0)


def test_a_folder_without_config_or_weights_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"config.json: no such file; is this an XCodec2 folder\?"):
        xcodec2.find(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(FileNotFoundError, match=r"wanted one \.safetensors file or an index, found none"):
        xcodec2.find(tmp_path)
