"""The products link: every 4- and 8-bit product is held to its kernel's arithmetic, and an error in one is found."""

import shutil
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from onnx import numpy_helper
from tests.bundles import FIXTURES, SYSTEM_OF, Bundles
from tests.parity.goldens import wrong

from voxport.bundle import Bundle
from voxport_exporters.systems import SYSTEMS as EXPORTERS
from voxport_parity import products
from voxport_parity.compare import Diff
from voxport_parity.rounding import built
from voxport_parity.systems import SYSTEMS

SCALES = {"MatMulNBits": 2, "MatMulIntegerToFloat": 3, "DequantizeLinear": 1}  # operator -> which input

BUNDLES = [
    ("llvc", "int8", "cpu"),
    ("llvc", "int8", "portable"),
    ("vyvo", "int4+codec-int8", "cpu"),
    pytest.param("vyvo", "int4+codec-int8", "portable", marks=pytest.mark.slow),
    pytest.param("vyvo", "hqq4", "cpu", marks=pytest.mark.slow),
    pytest.param("vyvo", "int8", "cpu", marks=pytest.mark.slow),
    ("qwen3tts-base", "int4+codec-int8", "cpu"),
    pytest.param("qwen3tts-base", "int4+codec-int8", "portable", marks=pytest.mark.slow),
    pytest.param("qwen3tts-customvoice", "mixed", "cpu", marks=pytest.mark.slow),
]
STAGES = {
    "llvc": {"convert"},
    "vyvo": {"lm", "head", *(f"head.{i}" for i in range(7)), "codec_decode"},
    "qwen3tts": {"talker", "predictor", "codec_decode"},
}


def checked(fixture: str, bundle: Path, change: Callable[[Path], object]) -> list[Diff]:
    """The products of every stage, fed what parity feeds a checkpoint without goldens; `change`: of a copied graph."""
    recorder = products.Recorder()
    graph = Bundle(bundle, sessions=recorder)
    feeds, job = SYSTEMS[SYSTEM_OF[fixture]](), EXPORTERS[SYSTEM_OF[fixture]]().job(FIXTURES / fixture)
    feeds.trace(graph, feeds.without_golden(graph))
    diffs: list[Diff] = []
    for part in built(job.parts, graph.manifest.recipe):
        file = bundle / f"{part.stage.name}.onnx"
        assert part.stage.name in recorder.calls or not products.counted(file)
        change(file)
        recipe, target = graph.manifest.recipe, graph.manifest.target
        diffs += products.check(job.system, part, recipe, target, file, recorder.calls.get(part.stage.name, {}))
    return diffs


def one_scale_off(file: Path) -> None:
    """One scale of every weight is a hundredth too large."""
    model = onnx.load(file)
    constants = {i.name: i for i in model.graph.initializer}
    for name in {node.input[SCALES[node.op_type]] for node in model.graph.node if node.op_type in SCALES}:
        scale = numpy_helper.to_array(constants[name]).copy()
        scale.reshape(-1)[0] *= 1.01
        constants[name].CopyFrom(numpy_helper.from_array(scale, name))
    for node in model.graph.node:  # MatMulInteger has its scale in a product of scales
        if node.op_type == "Mul" and node.output[0].endswith(".scale") and node.input[1] in constants:
            name = node.input[1]
            scale = numpy_helper.to_array(constants[name]).copy()
            scale.reshape(-1)[0] *= 1.01
            constants[name].CopyFrom(numpy_helper.from_array(scale, name))
    onnx.save(model, file)


@pytest.mark.parametrize(("fixture", "recipe", "target"), BUNDLES)
def test_every_product_is_its_kernels_and_a_scale_that_is_off_is_found(
    fixture: str, recipe: str, target: str, bundles: Bundles, tmp_path: Path
) -> None:
    bundle = bundles(fixture, recipe, target)
    diffs = checked(fixture, bundle, lambda _: None)
    assert wrong(diffs) == []
    assert {d.stage for d in diffs} >= STAGES[SYSTEM_OF[fixture]] - (
        {"codec_decode"} if "codec" not in recipe else set()
    )
    copy = Path(shutil.copytree(bundle, tmp_path / "bundle"))
    spoilt = checked(fixture, copy, one_scale_off)
    assert [d.tensor for d in spoilt] == [d.tensor for d in diffs]
    assert all(not d.ok for d in spoilt), [d.tensor for d in spoilt if d.ok]


def test_products_of_a_layer_are_counted(bundles: Bundles) -> None:
    """Six layers of four products each, with their weights joined, and a head for every place of a frame."""
    bundle = bundles("vyvo", "int4+codec-int8", "cpu")
    assert products.counted(bundle / "lm.onnx") == 6 * 4
    assert [products.counted(bundle / f"head.{i}.onnx") for i in range(7)] == [1] * 7
    assert products.counted(bundle / "codec_decode.onnx") == 4
    assert products.counted(bundle / "codec_encode.onnx") == 0
