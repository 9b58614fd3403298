"""The vocoder of Fun-CosyVoice3 in int8: which products it quantizes, and what that costs."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from safetensors.numpy import load_file
from tests.bundles import FIXTURES
from tests.exporters.cosyvoice3_vocoders import HIFTS, bundle, hift, parts, vocoder

from voxport import bounds
from voxport.recipe import Recipe, Rule
from voxport.systems.cosyvoice3.section import Section
from voxport.systems.cosyvoice3.vocoder import Vocoder
from voxport_exporters.nets import ops
from voxport_exporters.pack import save
from voxport_exporters.systems.cosyvoice3.vocoder import CODEC_RECIPES
from voxport_parity.reference import TorchSession
from voxport_parity.systems.cosyvoice3.vocoder import Tile

Array = np.ndarray


def snr(got: Array, expected: Array) -> float:
    """Signal-to-noise ratio in dB."""
    return float(10 * np.log10(np.var(expected) / np.mean((got - expected) ** 2)))


@pytest.mark.parametrize("name", HIFTS)
def test_blocks_built_as_matmuls_give_the_samples_of_convolutions(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Apart from the coarser Snake. Of the stages only those that the recipe names are."""
    snake = ops.snake
    monkeypatch.setattr(ops, "snake", lambda x, alpha, beta, _exact=True: snake(x, alpha, beta))
    of, _ = parts(name)
    sessions = {stage: TorchSession(part) for stage, part in of.items()}
    last = len(hift(name).upsample_rates) - 1
    rule = Rule("int8", stage="vocoder", weights=f"stages.{last}.blocks.0.*")
    matmuls = of["vocoder"].for_recipe(Recipe("some", [rule]))
    shapes = {n: p.shape for n, p in of["vocoder"].net.named_parameters()}
    changed = {n.split(".units.")[0] for n, p in matmuls.net.named_parameters() if p.shape != shapes[n]}
    blocks = range(len(hift(name).resblock_kernel_sizes))
    assert changed == {f"stages.{last}.source", *(f"stages.{last}.blocks.{j}" for j in blocks)}
    mel = np.random.default_rng(0).standard_normal((30, hift(name).in_channels)).astype(np.float32)
    got = vocoder(sessions | {"vocoder": TorchSession(matmuls)}, hift(name)).stream().feed(mel)
    expected = vocoder(sessions, hift(name)).stream().feed(mel)
    np.testing.assert_allclose(got, expected, rtol=0, atol=bounds.VOCODER_SPLIT.absolute)
    assert of["vocoder"].for_recipe(CODEC_RECIPES["fp32"]) is of["vocoder"]


@pytest.mark.parametrize("target", ["cpu", pytest.param("portable", marks=pytest.mark.slow)])
def test_int8_keeps_the_wave(target: str, tmp_path: Path) -> None:
    """Measured 39 dB, whole and in pieces, which have other activation scales."""
    golden = load_file(FIXTURES / "cosyvoice3" / "golden.safetensors")
    graphs = bundle(target, tmp_path / "bundle", CODEC_RECIPES["int8"])
    record = graphs.manifest.stages["vocoder"]
    assert record.int8_ops > 4 * record.flops
    assert graphs.manifest.stages["f0"].int8_ops == graphs.manifest.stages["source"].int8_ops == 0
    v, noise = Vocoder(graphs, 1, graphs.section(Section).vocoder), Tile(golden["hift.sine_noise_block"])
    mel, expected = golden["flow.mel"][0].T, golden["pipeline.wav_nonstream"][0]
    assert snr(v.decode(mel, noise), expected) > 34
    stream = v.stream(noise)
    pieces = [stream.feed(mel[i : i + 3]) for i in range(0, len(mel), 3)]
    assert snr(np.concatenate([*pieces, stream.flush()]), expected) > 34


def test_f0_stays_in_float64_whatever_a_recipe_says(tmp_path: Path) -> None:
    """The phase sums it up: no rule that names every weight may touch it."""
    of, _ = parts("one stage")
    result = save(of["f0"], tmp_path, Recipe("all", [Rule("int8"), Rule("int4", stage="f0")]), "cpu")
    assert result.record.int8_ops == 0
    graph = onnx.load(tmp_path / "f0.onnx").graph
    assert {node.op_type for node in graph.node} & {"DynamicQuantizeLinear", "MatMulNBits"} == set()
    weights = [tensor for tensor in graph.initializer if len(tensor.dims) == 2]
    assert {tensor.data_type for tensor in weights} == {onnx.TensorProto.DOUBLE}
