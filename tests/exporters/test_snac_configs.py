"""SNAC of any config: net and graphs against the `snac` package, and what cannot be is refused."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import snac as upstream  # type: ignore[import-untyped]
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.exporters.test_snac import FIXTURE, close, codec_of, decode_once, encode_once
from torch import Tensor

from voxport.codecs.noise import from_arrays
from voxport_exporters.checkpoints.weights import Weights
from voxport_exporters.codecs.snac import stages as snac
from voxport_exporters.codecs.snac.config import SnacConfig

Array = np.ndarray

RELEASED = json.loads((FIXTURE / "snac_24khz/config.json").read_text())
SMALL = {**RELEASED, "encoder_dim": 6, "decoder_dim": 20, "codebook_size": 37, "codebook_dim": 3}
CONFIGS: dict[str, dict[str, Any]] = {
    "odd rates, four levels": {
        **SMALL, "encoder_rates": [3, 2], "decoder_rates": [3, 5, 2], "decoder_dim": 27, "vq_strides": [8, 4, 2, 1]
    },
    "attention": {
        **SMALL, "encoder_rates": [2, 2], "encoder_dim": 16, "decoder_dim": 128, "decoder_rates": [3, 2],
        "attn_window_size": 8, "vq_strides": [4, 2, 1], "depthwise": False,
    },
    "attention wider than the frame, two levels": {
        **SMALL, "encoder_rates": [3, 2], "encoder_dim": 32, "decoder_dim": 64, "decoder_rates": [2],
        "attn_window_size": 3, "vq_strides": [2, 1],
    },
    "no noise, dense, one level": {
        **SMALL, "noise": False, "depthwise": False, "decoder_rates": [2, 4], "vq_strides": [2]
    },
}  # fmt: skip


def release(params: dict[str, Any], folder: Path, seed: int = 7) -> tuple[Any, SnacConfig, Weights]:
    """(upstream's net, config, weights) of a random checkpoint, audible and with every bias and alpha in play."""
    torch.manual_seed(seed)
    net = upstream.SNAC(**params).eval()
    for name, weight in net.named_parameters():
        if name.endswith("alpha"):
            weight.data.uniform_(0.3, 2)
        elif weight.ndim == 1:
            weight.data += 0.1 * torch.randn_like(weight)
    (folder / "config.json").write_text(json.dumps(params))
    torch.save(net.state_dict(), folder / "pytorch_model.bin")
    config, weights = snac.find(folder)
    return net, snac.read_config(config), Weights.open(weights)


def utterance(config: SnacConfig, blocks: int) -> tuple[list[Array], list[Array]]:
    """Random codes of some whole attention windows, and draws."""
    rng = np.random.default_rng(blocks)
    columns = blocks * math.lcm(config.frame, config.unit)
    draws = [rng.standard_normal(columns * r).astype(np.float32) for r in config.upsampled] if config.noise else []
    return [rng.integers(0, config.codebook_size, columns // s) for s in config.vq_strides], draws


def upstream_decode(net: Any, levels: list[Array], draws: list[Array]) -> Array:
    left = [torch.from_numpy(x)[None, None] for x in draws]
    with torch.no_grad(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "randn", lambda *_, **__: left.pop(0))
        audio: Tensor = net.decode([torch.from_numpy(x)[None] for x in levels])
    return audio.reshape(-1).numpy()


def assert_net_is_upstreams(params: dict[str, Any], folder: Path) -> None:
    net, config, weights = release(params, folder)
    decoder, encoder = snac.parts(weights, config)
    for blocks in (1, 5):
        levels, draws = utterance(config, blocks)
        want = upstream_decode(net, levels, draws)
        close(decode_once(decoder, config, levels, draws), want, 1e-5)
    unit = int(encoder.stage.inputs[0].shape[1])
    audio = (0.3 * np.random.default_rng(0).standard_normal(3 * unit - 1)).astype(np.float32)
    with torch.no_grad():
        expected = net.encode(torch.from_numpy(audio)[None, None])
    for got, codes in zip(encode_once(encoder, audio), expected, strict=True):
        assert np.array_equal(got, codes.reshape(-1).numpy())


@pytest.mark.parametrize("name", CONFIGS)
def test_net_is_upstreams(name: str, tmp_path: Path) -> None:
    assert_net_is_upstreams(CONFIGS[name], tmp_path)


@st.composite
def configs(draw: st.DrawFn) -> dict[str, Any]:
    """Any small config that upstream takes."""
    rates = st.lists(st.integers(2, 5), min_size=1, max_size=3)
    encoder_rates, decoder_rates = draw(rates), draw(rates)
    window = draw(st.sampled_from([None, None, 1, 2, 3, 4, 7]))
    width = 64 // 2 ** len(encoder_rates) if window else draw(st.integers(1, 9))
    return {
        "sampling_rate": 16000,
        "encoder_dim": width,
        "encoder_rates": encoder_rates,
        "decoder_dim": 64 * draw(st.integers(1, 2)) if window else draw(st.integers(2 ** len(decoder_rates), 40)),
        "decoder_rates": decoder_rates,
        "attn_window_size": window,
        "codebook_size": draw(st.integers(1, 40)),
        "codebook_dim": draw(st.integers(1, 9)),
        "vq_strides": draw(st.sampled_from([[1], [3], [2, 1], [4, 2], [6, 3, 1], [8, 4, 2, 1]])),
        "noise": draw(st.booleans()),
        "depthwise": draw(st.booleans()),
    }


@settings(deadline=None, max_examples=40)
@given(params=configs())
def test_net_is_upstreams_for_any_config(params: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> None:
    assert_net_is_upstreams(params, tmp_path_factory.mktemp("any"))


@pytest.mark.parametrize("target", ["cpu", pytest.param("portable", marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", [n if n == "attention" else pytest.param(n, marks=pytest.mark.slow) for n in CONFIGS])
def test_graphs_are_upstreams_for_any_config(name: str, target: str, tmp_path: Path) -> None:
    net, config, weights = release(CONFIGS[name], tmp_path)
    codec = codec_of(snac.parts(weights, config), config, target, tmp_path)
    levels, draws = utterance(config, 6)
    want = upstream_decode(net, levels, draws)
    assert want.std() > 0.01
    close(codec.decode(levels, from_arrays(draws)), want, 2e-5)
    stream, codes = codec.stream(from_arrays(draws)), codec.interleave(levels).reshape(-1)
    assert all(np.array_equal(a, b) for a, b in zip(codec.deinterleave(codes), levels, strict=True))
    pieces = [stream.feed(codes[i : i + 3]) for i in range(0, len(codes), 3)]
    close(np.concatenate([*pieces, stream.flush()]), want, 2e-5)
    audio = (0.3 * np.random.default_rng(0).standard_normal(60 * codec.frame * 6)).astype(np.float32)
    with torch.no_grad():
        expected = net.encode(torch.from_numpy(audio)[None, None])
    for got, level in zip(codec.encode(audio), expected, strict=True):
        assert np.array_equal(got, level.reshape(-1).numpy())


@pytest.mark.parametrize("name", [n for n in CONFIGS if CONFIGS[n].get("attn_window_size")])
def test_audio_that_ends_inside_an_attention_window_is_kept(name: str, tmp_path: Path) -> None:
    net, config, weights = release(CONFIGS[name], tmp_path)
    codec = codec_of(snac.parts(weights, config), config, "cpu", tmp_path)
    levels, draws = utterance(config, 3)
    per_frame = len(codec.order)
    codes = codec.interleave(levels)[:-1].reshape(-1)
    filled = codec.deinterleave(np.concatenate((codes, np.zeros(per_frame, np.int64))))
    samples = len(codes) // per_frame * config.frame * config.hop
    want = upstream_decode(net, filled, draws)[:samples]
    close(codec.decode(codec.deinterleave(codes), from_arrays(draws)), want, 2e-5)
    stream = codec.stream(from_arrays(draws))
    for _ in range(2):
        pieces = [stream.feed(codes[i : i + 5]) for i in range(0, len(codes), 5)]
        close(np.concatenate([*pieces, stream.flush()]), want, 2e-5)
    for frames in range(len(codes) // per_frame):  # also where upstream has no such length
        short = codes[: frames * per_frame]
        offline = codec.decode(codec.deinterleave(short), from_arrays(draws))
        pieces = [stream.feed(short[i : i + 2]) for i in range(0, len(short), 2)]
        close(np.concatenate([*pieces, stream.flush()]), offline, 2e-5)
        assert len(offline) == frames * config.frame * config.hop


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"attn_window": 3}, "unknown key attn_window"),
        ({"vq_strides": [4, 3]}, "each of vq_strides must divide the first"),
        ({"vq_strides": []}, "vq_strides is empty"),
        ({"latent_dim": 63}, "latent_dim is"),
        ({"attn_window_size": 8}, "a multiple of 64"),
        ({"decoder_dim": 7}, "decoder_dim"),
        ({"decoder_rates": [8, 1]}, r"decoder_rates\[1\] is 1: expected int >= 2"),
    ],
)
def test_configs_that_cannot_be_are_refused(change: dict[str, Any], reason: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({**RELEASED, **change}))
    with pytest.raises(ValueError, match=reason):
        snac.read_config(tmp_path / "config.json")
