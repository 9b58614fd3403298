"""SNAC says what upstream says: net, graphs and streams, for the released kind of config and for others."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file

from voxport.bounds import SNAC_AUDIO, SNAC_LAYER, SNAC_SPLIT
from voxport.codecs.noise import from_arrays, seeded, silent
from voxport.codecs.snac import Codec
from voxport.graphs.ort import OrtSession
from voxport_exporters.checkpoints.weights import Weights
from voxport_exporters.codecs.snac import stages as snac
from voxport_exporters.codecs.snac.config import SnacConfig
from voxport_exporters.graphs import int8 as quantize
from voxport_exporters.graphs import products as graph_products
from voxport_exporters.graphs.part import Part
from voxport_exporters.graphs.store import Store
from voxport_exporters.graphs.trace import trace
from voxport_exporters.nets import ops
from voxport_exporters.nets.taps import tapped
from voxport_exporters.targets import TARGETS
from voxport_parity import products

Array = np.ndarray

FIXTURE = Path(__file__).parents[1] / "fixtures/vyvo"


@pytest.fixture(scope="module")
def golden() -> dict[str, Array]:
    return load_file(FIXTURE / "golden.safetensors")


def config_and_weights() -> tuple[SnacConfig, Weights]:
    config, weights = snac.find(FIXTURE / "snac_24khz")
    return snac.read_config(config), Weights.open(weights)


def session(model: ir.Model, name: str, folder: Path) -> OrtSession:
    ir.save(model, folder / f"{name}.onnx")
    return OrtSession(folder / f"{name}.onnx")


def codec_of(parts: Iterator[Part], config: SnacConfig, target: str, folder: Path) -> Codec:
    decoder, encoder = (session(trace(part, target), part.stage.name, folder) for part in parts)
    return Codec(decoder, encoder, snac.section(config))


@pytest.fixture(scope="module", params=["cpu", "portable"])
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Codec, str, Path]:
    """(codec, target, folder of its graphs) of the fixture."""
    config, weights = config_and_weights()
    folder = tmp_path_factory.mktemp(request.param)
    return codec_of(snac.parts(weights, config), config, request.param, folder), request.param, folder


@pytest.fixture(scope="module")
def codec(exported: tuple[Codec, str, Path]) -> Codec:
    return exported[0]


def decode_once(part: Part, config: SnacConfig, levels: list[Array], draws: list[Array]) -> Array:
    """The torch net in one step, from the start to past the end."""
    delay = snac.section(config).delay
    columns = len(levels[0]) * config.frame
    past = -(-delay // config.hop // config.unit) * config.unit
    codes = np.stack([np.pad(x.repeat(s), (0, past)) for x, s in zip(levels, config.vq_strides, strict=True)])
    real = np.pad(np.ones(columns, np.float32), (0, past))
    noise = [np.pad(x, (0, past * len(x) // columns)) for x in draws]
    feed = [
        codes.reshape(len(codes), -1, config.unit),
        *(x.reshape(len(real) // config.unit, -1) for x in (real, *noise)),
    ]
    with torch.no_grad():
        audio = part.net(*map(torch.from_numpy, feed), *(torch.zeros(t.sized({})) for t in part.stage.state))[0]
    audio_out: Array = audio.reshape(-1).numpy()
    return audio_out[delay:][: columns * config.hop]


def encode_once(part: Part, audio: Array) -> list[Array]:
    unit = int(part.stage.inputs[0].shape[1])
    whole = np.pad(audio, (0, -len(audio) % unit)).reshape(-1, unit)
    with torch.no_grad():
        return [x.reshape(-1).numpy() for x in part.net(torch.from_numpy(whole))]


def levels_of(golden: dict[str, Array], name: str) -> list[Array]:
    return [golden[f"{name}.codes{i}"][0].astype(np.int64) for i in range(3)]


def noise_of(golden: dict[str, Array], name: str) -> list[Array]:
    return [golden[f"{name}.noise{i}"].reshape(-1) for i in range(4)]


def close(got: Array, want: Array, bound: float) -> None:
    np.testing.assert_allclose(got, want, rtol=0, atol=bound)


# ------------------------------------------------------------------------------------------------------- goldens


def test_every_layer_is_upstreams(golden: dict[str, Array]) -> None:
    config, weights = config_and_weights()
    decoder, encoder = snac.parts(weights, config)
    with tapped() as taps:
        audio = decode_once(decoder, config, levels_of(golden, "greedy"), noise_of(golden, "decode"))
        close(audio, golden["decode.wav"].reshape(-1), SNAC_AUDIO.absolute)
        encode_once(encoder, golden["ref.wav24k"])
    names = [n for n in golden if n.startswith(("decode.layer", "decode.z", "encode.block", "encode.z"))]
    assert len(names) == 10
    for name in names:
        want = golden[name]
        close(taps[name][..., : want.shape[-1]].numpy(), want, SNAC_LAYER.of_peak * np.abs(want).max())


def test_decoded_audio_is_upstreams(codec: Codec, golden: dict[str, Array]) -> None:
    for levels, draws in (("greedy", "decode"), ("clone.row0", "clone.row0")):
        audio = codec.decode(levels_of(golden, levels), from_arrays(noise_of(golden, draws)))
        close(audio, golden[f"{draws}.wav"].reshape(-1), SNAC_AUDIO.absolute)


def test_codes_are_upstreams(codec: Codec, golden: dict[str, Array]) -> None:
    levels = codec.encode(golden["ref.wav24k"])
    for got, want in zip(levels, levels_of(golden, "encode"), strict=True):
        assert np.array_equal(got, want)
    offsets = np.arange(7) * codec.size
    assert np.array_equal((codec.interleave(levels) + offsets).reshape(-1), golden["encode.interleaved"])


def test_orpheus_schedule_is_its_golden(codec: Codec, golden: dict[str, Array]) -> None:
    stream = codec.stream(from_arrays(noise_of(golden, "decode")), "orpheus")
    codes = codec.interleave(levels_of(golden, "greedy")).reshape(-1)
    streamed = np.concatenate([stream.feed(codes[i : i + 5]) for i in range(0, len(codes), 5)])
    close(streamed, golden["stream.window_chunks"].reshape(-1), SNAC_AUDIO.absolute)
    assert len(stream.flush()) == 0


def test_int8_transposed_convolutions_are_products_of_rounded_numbers(
    exported: tuple[Codec, str, Path], golden: dict[str, Array], tmp_path: Path
) -> None:
    """Each is held to what its kernel makes of the graph's own activations. What their rounding does to the audio of
    random weights says nothing but that it is the same speech: 10 dB."""
    _, target, folder = exported
    config, weights = config_and_weights()
    model = ir.load(folder / "codec_decode.onnx")
    names = [product.name for product in graph_products.products(model.graph)]
    recipe = snac.RECIPES["int8"]
    int8_weights = {name for name in names if recipe.kind("codec_decode", name) == "int8"}
    assert int8_weights == {f"blocks.{i}.up.weight" for i in range(4)}
    quantize.int8(model, int8_weights, TARGETS[target], Store(model.graph))
    ir.save(model, tmp_path / "codec_decode.onnx")
    recorder = products.Recorder()
    codec = Codec(recorder(tmp_path / "codec_decode.onnx"), None, snac.section(config))
    audio = codec.decode(levels_of(golden, "greedy"), from_arrays(noise_of(golden, "decode")))
    part = next(snac.parts(weights, config))
    call = recorder.calls["codec_decode"]
    diffs = list(products.check("vyvo", part, recipe, target, tmp_path / "codec_decode.onnx", call))
    assert {diff.tensor for diff in diffs} == int8_weights
    assert [str(diff) for diff in diffs if not diff.ok] == []
    want = golden["decode.wav"].reshape(-1)
    assert 10 * np.log10(np.mean(want**2) / np.mean((audio - want) ** 2)) > 10
    with pytest.raises(ValueError, match="codec_encode"):
        codec.encode(np.zeros(10, np.float32))


# ----------------------------------------------------------------------------------------------------- streaming


@settings(deadline=None, max_examples=25)
@given(frames=st.integers(0, 20), seed=st.integers(0, 9), cuts=st.lists(st.integers(1, 60), max_size=20))
def test_streamed_is_offline_for_every_split(codec: Codec, frames: int, seed: int, cuts: list[int]) -> None:
    codes = np.random.default_rng(seed).integers(0, codec.size, frames * 7)
    offline = codec.decode(codec.deinterleave(codes), seeded(seed))
    assert len(offline) == frames * 2048
    stream = codec.stream(seeded(seed))
    pieces = np.split(codes, np.minimum(np.cumsum(cuts), len(codes)))
    for _ in range(2):  # flush leaves it as new
        close(np.concatenate([*(stream.feed(piece) for piece in pieces), stream.flush()]), offline, SNAC_SPLIT.absolute)


def test_first_audio_leaves_as_early_as_exactness_allows(codec: Codec) -> None:
    codes = np.random.default_rng(0).integers(0, codec.size, 28)
    stream = codec.stream(seeded(0))
    lengths = [len(stream.feed(codes[i : i + 1])) for i in range(28)]
    # After 18 codes ten columns are complete: 5120 samples less the 4757 that the decoder looks ahead.
    assert [i + 1 for i, n in enumerate(lengths) if n] == [18, 25]
    assert lengths[17] == 10 * 512 - 4757
    # A different code after them may not change what was played, one column earlier it must.
    for changed, same in ((18, True), (17, False)):
        other = codes.copy()
        other[changed] = (other[changed] + 1) % codec.size
        first, again = (codec.decode(codec.deinterleave(x), silent)[: lengths[17]] for x in (codes, other))
        assert np.array_equal(first, again) == same


def test_streams_do_not_disturb_each_other(codec: Codec) -> None:
    codes = np.random.default_rng(3).integers(0, codec.size, (2, 70))
    alone = [codec.decode(codec.deinterleave(x), seeded(i)) for i, x in enumerate(codes)]
    streams = [codec.stream(seeded(i)) for i in range(2)]
    pieces: list[list[Array]] = [[], []]
    for at in range(0, 70, 7):
        for mine, stream, x in zip(pieces, streams, codes, strict=True):
            mine.append(stream.feed(x[at : at + 7]))
    for mine, stream, want in zip(pieces, streams, alone, strict=True):
        close(np.concatenate([*mine, stream.flush()]), want, SNAC_SPLIT.absolute)


def test_the_seed_is_heard_and_silence_is_deterministic(codec: Codec) -> None:
    levels = codec.deinterleave(np.random.default_rng(1).integers(0, codec.size, 35))
    first, again, other = (codec.decode(levels, seeded(s)) for s in (1, 1, 2))
    assert np.array_equal(first, again)
    assert np.abs(first - other).max() > 0.01
    zeros = [np.zeros(20 * rate, np.float32) for rate in codec.rates]
    assert np.array_equal(codec.decode(levels, silent), codec.decode(levels, from_arrays(zeros)))


def test_encoding_in_windows_is_encoding_at_once(codec: Codec) -> None:
    audio = np.random.default_rng(2).standard_normal(2048 * 40 - 100).astype(np.float32) * 0.3
    levels = codec.encode(audio)
    decided = encode_once(list(snac.parts(config_and_weights()[1], config_and_weights()[0]))[1], audio)
    for got, want in zip(levels, decided, strict=True):
        assert np.array_equal(got, want)


def test_bad_codes_and_samples_are_refused(codec: Codec) -> None:
    stream = codec.stream(silent)
    stream.feed(np.zeros(3, np.int64))
    with pytest.raises(ValueError, match="code 4 is 4096"):
        stream.feed(np.array([1, 4096]))
    with pytest.raises(ValueError, match="float64"):
        stream.feed(np.zeros(2))
    with pytest.raises(ValueError, match="8 codes are not whole frames of 7"):
        codec.deinterleave(np.zeros(8, np.int64))
    with pytest.raises(ValueError, match="exact, orpheus"):
        codec.stream(silent, "fast")  # type: ignore[arg-type]
    for bad in (np.zeros(0, np.float32), np.full(9, np.nan, np.float32), np.zeros((2, 9), np.float32)):
        with pytest.raises(ValueError, match="finite float samples"):
            codec.encode(bad)


# ----------------------------------------------------------------------------------------------------------- net


def test_noise_blocks_can_be_left_out(golden: dict[str, Array]) -> None:
    config, weights = config_and_weights()
    loud, _ = snac.parts(weights, config)
    quiet, _ = snac.parts(config_and_weights()[1], config, noise=False)
    assert not any("noise" in t.name for t in quiet.stage.feeds)
    levels = levels_of(golden, "greedy")
    zeros = [np.zeros_like(x) for x in noise_of(golden, "decode")]
    close(decode_once(quiet, config, levels, []), decode_once(loud, config, levels, zeros), 1e-6)


def test_both_namings_of_weight_norm_load(tmp_path: Path) -> None:
    config, weights = config_and_weights()
    new = next(snac.parts(weights, config)).net.state_dict()
    tensors = torch.load(FIXTURE / "snac_24khz/pytorch_model.bin", weights_only=True)
    for i, name in enumerate(("weight_g", "weight_v")):
        tensors = {k.replace(f"parametrizations.weight.original{i}", name): v for k, v in tensors.items()}
    torch.save(tensors, tmp_path / "old.bin")
    decoder, _ = snac.parts(Weights.open(tmp_path / "old.bin"), config)
    for name, weight in decoder.net.state_dict().items():
        assert torch.equal(weight, new[name])


def test_snake_polynomial_is_the_sine(monkeypatch: pytest.MonkeyPatch) -> None:
    x, alpha = torch.randn(1, 5, 4000) * 4, torch.rand(5, 1) * 2 + 0.5
    want = ops.snake(x.double(), alpha.double())
    close(ops.snake(x, alpha).numpy(), want.numpy(), 5e-6)
    monkeypatch.setattr(ops, "emits_contrib", lambda: True)
    close(ops.snake(x, alpha).numpy(), want.numpy(), 5e-6)
