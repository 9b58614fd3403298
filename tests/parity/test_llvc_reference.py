"""The PyTorch reference of LLVC says what upstream said, and full-size checkpoints load into it."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from benchmarks.fullsize.__main__ import main
from benchmarks.fullsize.llvc import VARIANTS, config_text, randomize, speech_like
from benchmarks.references.llvc import LlvcReference, aligned, load, offline, stream
from click.testing import CliRunner
from safetensors.torch import load_file
from torch import Tensor

FIXTURE = Path(__file__).parents[1] / "fixtures/llvc"
BOUND = 5e-6
EDGES = (1, 15, 16, 17, 207, 208, 209, 400, 624)

# Far from the releases: a wide pre-net, a deep decoder, odd sizes.
ODD: dict[str, Any] = {
    "label_len": 1,
    "L": 4,
    "enc_dim": 48,
    "num_enc_layers": 3,
    "dec_dim": 16,
    "num_dec_layers": 3,
    "dec_buf_len": 5,
    "dec_chunk_size": 7,
    "out_buf_len": 1,
    "skip_connection": False,
    "convnet_config": {
        "convnet_prenet": True,
        "out_channels": [3, 2, 1],
        "kernel_sizes": [5, 2, 3],
        "dilations": [1, 3, 2],
        "dropout": 0.5,
        "combine_residuals": None,
        "skip_connection": "multiply",
        "use_residual_blocks": True,
    },
}
PLAIN = {**ODD["convnet_config"], "use_residual_blocks": False, "out_channels": [1, 1, 1], "combine_residuals": "add"}


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def net() -> LlvcReference:
    return load(FIXTURE)


@pytest.fixture(scope="module")
def golden() -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = load_file(FIXTURE / "golden.safetensors")
    return tensors


def hold(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=BOUND)


def test_keys_are_the_released_ones_in_the_released_order(net: LlvcReference) -> None:
    released = torch.load(FIXTURE / "models/checkpoints/llvc/G_500000.pth", weights_only=True)["model"]
    assert list(net.state_dict()) == list(released)


def test_offline_is_upstreams(net: LlvcReference, golden: dict[str, Tensor]) -> None:
    audio = golden["audio.input_16k"]
    hold(offline(net, audio), golden["ns.out"])
    hold(offline(net, audio[:1331]), golden["nst.output"])


@pytest.mark.parametrize("factor", [1, 2])
def test_streaming_is_upstreams(net: LlvcReference, golden: dict[str, Tensor], factor: int) -> None:
    hold(stream(net, golden["audio.input_16k"], factor), golden[f"s{factor}.out"])


@pytest.mark.parametrize("factor", [1, 2])
def test_aligned_streaming_is_its_golden(net: LlvcReference, golden: dict[str, Tensor], factor: int) -> None:
    hold(aligned(net, golden["audio.input_16k"], factor), golden[f"al{factor}.out"])


@pytest.mark.parametrize("length", EDGES)
def test_lengths_around_the_grid_are_upstreams(net: LlvcReference, golden: dict[str, Tensor], length: int) -> None:
    audio = golden["audio.input_16k"][500 : 500 + length]
    hold(offline(net, audio), golden[f"edge.{length}.ns"])
    hold(stream(net, audio, 1), golden[f"edge.{length}.s1"])
    hold(stream(net, audio, 2), golden[f"edge.{length}.s2"])


def test_no_samples_stream_to_no_samples(net: LlvcReference) -> None:
    assert len(stream(net, torch.zeros(0), 1)) == 0
    assert len(aligned(net, torch.zeros(0), 1)) == 0


def test_silence_is_upstreams(net: LlvcReference, golden: dict[str, Tensor]) -> None:
    silence = torch.zeros(624)
    hold(offline(net, silence), golden["silence.ns.out"])
    hold(stream(net, silence, 1), golden["silence.s1.out"])


def test_resampled_input_is_upstreams(net: LlvcReference, golden: dict[str, Tensor]) -> None:
    audio = golden["resample.audio_16k"]
    hold(offline(net, audio), golden["resample.ns.out"])
    hold(stream(net, audio, 1), golden["resample.s1.out"])


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"convnet_config": PLAIN},
        {"convnet_config": {**PLAIN, "combine_residuals": "multiply", "skip_connection": None}},
        {"convnet_config": {"convnet_prenet": False}, "use_pos_enc": False},
        {"proj": False, "enc_dim": 16, "lookahead": False},
    ],
)
def test_aligned_streaming_equals_offline_for_any_config(change: dict[str, Any]) -> None:
    net = LlvcReference(**{**ODD, **change})
    randomize(net, seed=1)
    audio = speech_like(0.05)
    whole = len(audio) // (2 * net.chunk) * 2 * net.chunk
    expected = offline(net, audio)
    assert expected.std() > 0.01
    for factor in (1, 2):
        torch.testing.assert_close(aligned(net, audio, factor)[:whole], expected[:whole], rtol=0, atol=2e-5)


def test_upstream_streaming_without_lookahead_is_refused() -> None:
    net = LlvcReference(**{**ODD, "lookahead": False})
    with pytest.raises(ValueError, match="lookahead"):
        stream(net, torch.zeros(100), 1)


@pytest.mark.parametrize("variant", VARIANTS)
def test_fullsize_writes_a_release(variant: str, tmp_path: Path, golden: dict[str, Tensor]) -> None:
    out = tmp_path / "new/release"
    assert CliRunner().invoke(main, ["llvc", str(out), "--variant", variant]).exit_code == 0
    assert [path.name for path in out.parent.iterdir()] == ["release"]
    net = load(out)
    assert sum(weight.numel() for weight in net.parameters()) == (3_258_624 if variant == "llvc_nc" else 3_258_720)
    assert len(net.state_dict()) == (99 if variant == "llvc_nc" else 147)
    for audio in (speech_like(0.5), golden["audio.input_16k"]):
        assert 0.05 < offline(net, audio).square().mean().sqrt() < 0.5


def test_the_same_seed_writes_the_same_weights(net: LlvcReference) -> None:
    def weights(seed: int) -> Tensor:
        randomized = LlvcReference(**json.loads(config_text("llvc"))["model_params"])
        randomize(randomized, seed)
        return torch.cat([weight.detach().flatten() for weight in randomized.parameters()])

    assert torch.equal(weights(3), weights(3))
    assert not torch.equal(weights(3), weights(4))


def test_fullsize_refuses_a_folder_in_use(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("mine")
    result = CliRunner().invoke(main, ["llvc", str(tmp_path)])
    assert result.exit_code == 2
    assert len(result.stderr.splitlines()) == 1
    assert file.read_text() == "mine"


def test_fullsize_refuses_an_unknown_variant(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["llvc", str(tmp_path / "new"), "--variant", "llvc_xl"])
    assert result.exit_code == 2
    assert "llvc_hfg" in result.stderr
    assert not (tmp_path / "new").exists()
