"""XCodec2's decoder computes what upstream's does: net and graphs, the released kinds of config and others."""

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
from voxport_exporters.graphs.part import Part
from voxport_exporters.nets.taps import tapped
from voxport_exporters.pack import save
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


def codec_of(part: Part, config: CodecConfig, target: str, folder: Path) -> Codec:
    save(part, folder, xcodec2.RECIPES["fp32"], target)
    return Codec(OrtSession(folder / "codec_decode.onnx"), xcodec2.section(config))


def random_codes(config: CodecConfig, frames: int) -> Array:
    return np.random.default_rng(frames).integers(0, config.codes, frames)


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


@pytest.mark.parametrize("target", ["cpu", "portable"])
def test_the_graphs_samples_are_upstreams(golden: dict[str, Array], target: str, tmp_path: Path) -> None:
    config, weights = fixture()
    codec = codec_of(xcodec2.decoder_part(weights, config), config, target, tmp_path)
    wave = codec.decode(golden["codec.dec.codes"].reshape(-1)).reshape(1, 1, -1)
    close("codec.dec.wav", wave, golden["codec.dec.wav"])
    start = codec.decode(golden["codec.enc.codes"].reshape(-1)).reshape(1, 1, -1)[..., :6000]
    close("codec.roundtrip.wav", start, golden["codec.roundtrip.wav.first6000"])


# ------------------------------------------------------------------------------------------- other configs


@pytest.mark.parametrize(("name", "target"), [*QUICK, *CROSS])
def test_releases_of_other_shapes_decode_as_upstreams_code_does(name: str, target: str, tmp_path: Path) -> None:
    config, weights, tensors = random(name, tmp_path)
    codec = codec_of(xcodec2.decoder_part(weights, config), config, target, tmp_path)
    for frames in (1, 2, 37):
        codes = random_codes(config, frames)
        wave = codec.decode(codes)
        beyond = {"kernels of upstream's code": 4, "odd": 1}.get(name, 0)  # steps that uneven kernels add
        assert len(wave) == frames * config.frame + beyond * config.hop_length
        close(f"{name}.wav", wave, upstreams(tensors, config, codes))
