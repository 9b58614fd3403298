"""LLVC through the toolkit: other configs than the fixture's, and what the runtime promises."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from benchmarks.fullsize.llvc import randomize, speech_like
from benchmarks.references import llvc as reference
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.bundles import Export
from tests.parity.test_llvc_reference import ODD, PLAIN

from voxport import bounds
from voxport.audio import files
from voxport.bundle import Bundle
from voxport.systems.llvc.converter import Converter
from voxport.systems.llvc.stream import OFFLINE_CHUNKS, Mode
from voxport_exporters.pack import pack
from voxport_exporters.recipe import named
from voxport_exporters.systems.llvc import job as llvc
from voxport_parity.chain import chain
from voxport_parity.trace import Golden

Array = np.ndarray

CONFIGS: dict[str, dict[str, Any]] = {
    "odd": {},
    "plain blocks": {"convnet_config": PLAIN},
    "multiply and replace": {
        "convnet_config": {
            **PLAIN,
            "use_residual_blocks": True,
            "combine_residuals": "multiply",
            "skip_connection": None,
        }
    },
    "no pre-net, no positions": {"convnet_config": {"convnet_prenet": False}, "use_pos_enc": False},
    "no projections": {"proj": False, "enc_dim": 16, "skip_connection": False},
    "context longer than a chunk": {"dec_buf_len": 11, "dec_chunk_size": 4, "num_dec_layers": 3},
    "no layers": {"num_enc_layers": 0, "num_dec_layers": 0},
}


def release(folder: Path, params: dict[str, Any], rate: int = 16000) -> reference.LlvcReference:
    """A checkpoint of any config in the release layout, and its reference net."""
    net = reference.LlvcReference(**params)
    randomize(net, seed=5)
    config, weights = folder / "experiments/odd/config.json", folder / "models/checkpoints/odd/G_7.pth"
    for file in (config, weights):
        file.parent.mkdir(parents=True)
    config.write_text(json.dumps({"data": {"sr": rate}, "model_params": params}))
    torch.save({"model": net.state_dict(), "epoch": 1, "step": 7, "optimizer": {}, "learning_rate": 1e-4}, weights)
    return net


def opened(folder: Path, target: str = "cpu", recipe: str = "fp32") -> Converter:
    pack(llvc.job(folder), folder / "bundle", llvc.RECIPES[recipe], target)
    return Converter(Bundle(folder / "bundle"))


def hold(got: Array, want: torch.Tensor, bound: float = bounds.CONVERTER_AUDIO.absolute) -> None:
    assert got.shape == tuple(want.shape)
    assert np.abs(got - want.numpy()).max() <= bound


@pytest.mark.parametrize("target", ["cpu", pytest.param("portable", marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", ["odd", *(pytest.param(n, marks=pytest.mark.slow) for n in CONFIGS if n != "odd")])
def test_any_config_converts_as_the_reference_does(name: str, target: str, tmp_path: Path) -> None:
    net = release(tmp_path, {**ODD, **CONFIGS[name]})
    converter = opened(tmp_path, target)
    sound = speech_like(0.12)
    want = reference.offline(net, sound)
    assert want.std() > 0.01
    hold(converter.stream("offline").convert(sound.numpy()), want)
    for factor in (1, 3):
        hold(converter.stream("exact", factor).convert(sound.numpy()), reference.aligned(net, sound, factor))
        hold(converter.stream("upstream", factor).convert(sound.numpy()), reference.stream(net, sound, factor))


def test_without_lookahead_only_offline_runs(tmp_path: Path) -> None:
    net = release(tmp_path, {**ODD, "lookahead": False}, rate=22050)
    converter = opened(tmp_path)
    sound = speech_like(0.1)
    assert converter.sample_rate == 22050
    hold(converter.stream("offline").convert(sound.numpy()), reference.offline(net, sound))
    for mode in ("exact", "upstream"):
        with pytest.raises(ValueError, match="look-ahead cannot be streamed"):
            converter.stream(mode).feed(sound.numpy())


def test_a_long_file_is_right_to_its_end(llvc_checkpoint: Path, llvc_bundles: Export) -> None:
    """Upstream-shaped graphs go wrong silently after 1,000 windows (docs/systems/llvc.md 7): 13 s."""
    sound = speech_like(14.1)
    want = reference.offline(reference.load(llvc_checkpoint), sound)
    hold(Converter(Bundle(llvc_bundles("fp32", "cpu"))).stream("offline").convert(sound.numpy()), want)


# ----------------------------------------------------------------------------------------------------- streaming


@st.composite
def splits(draw: st.DrawFn, length: int) -> list[int]:
    """Where to cut a signal: anything from one piece to many, empty and single-sample ones among them."""
    return sorted(draw(st.lists(st.integers(0, length), max_size=12)))


@pytest.fixture(scope="module")
def converter(llvc_bundles: Export) -> Converter:
    return Converter(Bundle(llvc_bundles("fp32", "cpu")))


@settings(max_examples=25, deadline=None)
@given(data=st.data(), mode=st.sampled_from(["exact", "upstream", "offline"]), factor=st.sampled_from([1, 2, 5]))
def test_any_chunking_gives_the_same_samples(
    data: st.DataObject, mode: Mode, factor: int, converter: Converter
) -> None:
    rate = data.draw(st.sampled_from([16000, 44100, 8000]))
    sound = speech_like(0.2).numpy()[: data.draw(st.integers(1, 3200))]
    whole = converter.stream(mode, factor, rate).convert(sound)
    stream = converter.stream(mode, factor, rate)
    pieces = np.split(sound, data.draw(splits(len(sound))))
    got = np.concatenate([*(stream.feed(piece) for piece in pieces), stream.flush()])
    assert np.array_equal(got, whole)
    assert rate != 16000 or len(got) == len(sound)


def test_one_sample_at_a_time_gives_the_same_samples(converter: Converter) -> None:
    sound = speech_like(0.06).numpy()
    stream = converter.stream()
    got = np.concatenate([*(stream.feed(sound[i : i + 1]) for i in range(len(sound))), stream.flush()])
    assert np.array_equal(got, converter.convert(sound))


def test_output_comes_as_soon_as_the_lookahead_is_there(converter: Converter) -> None:
    stream = converter.stream("exact", 2)
    assert stream.latency == 2 * 208 + 16
    sound = speech_like(0.1).numpy()
    assert len(stream.feed(sound[: stream.latency - 1])) == 0
    assert len(stream.feed(sound[stream.latency - 1 : stream.latency])) == 2 * 208


def test_exact_equals_offline_on_every_full_chunk(converter: Converter) -> None:
    sound = speech_like(1.0).numpy()  # 76 full chunks and a rest; more than one offline block
    assert len(sound) > OFFLINE_CHUNKS * 208
    full = len(sound) // 208 * 208
    offline = converter.stream("offline").convert(sound)
    for factor in (1, 2, 4):
        exact = converter.stream("exact", factor).convert(sound)
        assert np.abs(exact[:full] - offline[:full]).max() <= 3e-6
        assert not np.array_equal(exact[full:], offline[full:])  # the tail is padded differently


def test_flush_and_reset_start_anew(converter: Converter) -> None:
    sound = speech_like(0.1).numpy()
    stream = converter.stream("upstream")
    first = stream.convert(sound)
    assert np.array_equal(stream.convert(sound), first)
    stream.feed(sound)
    stream.reset()
    assert np.array_equal(stream.convert(sound), first)
    assert len(stream.flush()) == 0


def test_streams_over_one_bundle_do_not_disturb_each_other(converter: Converter) -> None:
    sound = speech_like(0.1).numpy()
    alone = converter.stream().convert(sound)
    one, two = converter.stream(), converter.stream("exact", 3)
    parts = [(one.feed(piece), two.feed(-piece)) for piece in np.array_split(sound, 7)]
    assert np.array_equal(np.concatenate([*(a for a, _ in parts), one.flush()]), alone)


def test_a_small_step_is_refused_where_upstream_crashes(tmp_path: Path) -> None:
    release(tmp_path, {**ODD, "dec_chunk_size": 1})
    converter = opened(tmp_path)
    with pytest.raises(ValueError, match="raise the chunk factor"):
        converter.stream("upstream", 1)
    assert len(converter.stream("exact", 1).convert(speech_like(0.05).numpy())) == 800


@pytest.mark.parametrize("bad", [np.zeros(3, np.int16), np.zeros((2, 3), np.float32), np.array([0, np.nan])])
def test_bad_samples_are_refused_and_the_stream_goes_on(bad: Array, converter: Converter) -> None:
    sound = speech_like(0.1).numpy()
    stream = converter.stream()
    head = stream.feed(sound[:900])
    with pytest.raises(ValueError, match=r"wanted float samples|is not a number"):
        stream.feed(bad)
    assert np.array_equal(np.concatenate([head, stream.feed(sound[900:]), stream.flush()]), converter.convert(sound))


# -------------------------------------------------------------------------------------------------------- parity


@pytest.mark.parametrize("target", ["cpu", "portable"])
def test_every_golden_is_compared_and_holds(target: str, llvc_checkpoint: Path, llvc_bundles: Export) -> None:
    diffs = list(chain("llvc", llvc_checkpoint, llvc_bundles("fp32", target), None, target))
    assert all(d.ok for d in diffs), next(str(d) for d in diffs if not d.ok)
    assert list(dict.fromkeys(d.link for d in diffs)) == ["torch", "graph", "streamed"]
    golden = Golden.of(llvc_checkpoint)
    assert golden is not None
    inputs = {"audio.input_16k"} | {name for name in golden.tensors if name.endswith("chunk_in")}
    assert {d.tensor for d in diffs if d.link == "torch"} == golden.tensors.keys() - inputs


@pytest.mark.parametrize("target", ["cpu", "portable"])
def test_the_int8_graph_does_the_recipes_arithmetic(target: str, llvc_checkpoint: Path, llvc_bundles: Export) -> None:
    diffs = list(chain("llvc", llvc_checkpoint, llvc_bundles("int8", target), "int8", target))
    assert all(d.ok for d in diffs), next(str(d) for d in diffs if not d.ok)
    apart = {d.tensor: d.max_abs for d in diffs if d.link == "quantized to fp32"}
    near = {d.tensor: d.max_abs for d in diffs if d.link == "quantized"}
    assert apart["ns.out"] > 2 * near["ns.out"] > 0  # the reference rounds as the graph does, fp32 does not


def test_a_recipe_file_is_applied_as_written(llvc_checkpoint: Path, tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text('[[rule]]\nkind = "int8"\nweights = "encoder.0.*"\n')
    pack(llvc.job(llvc_checkpoint), tmp_path / "b", named(str(file), llvc.RECIPES), "cpu")
    names = {p.stem: p.read_bytes() for p in (tmp_path / "b").glob("*.onnx")}
    assert b"encoder.0.pointwise.weight.int8" in names["convert"]
    assert b"encoder.1.pointwise.weight.int8" not in names["convert"]


def test_parity_without_goldens_takes_the_net_as_reference(tmp_path: Path) -> None:
    release(tmp_path, ODD)
    diffs = list(chain("llvc", tmp_path, None, None))
    assert all(d.ok for d in diffs)
    assert {d.link for d in diffs} == {"graph", "streamed"}


def test_golden_audio_is_read_as_upstream_reads_it(llvc_checkpoint: Path, llvc_golden: dict[str, Array]) -> None:
    assert np.array_equal(files.read(llvc_checkpoint / "input_16k.wav")[0], llvc_golden["audio.input_16k"])
