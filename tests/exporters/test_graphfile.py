"""A released graph goes into the bundle byte for byte; a recipe that names it has it quantized, behind the gate."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from tests.command import done, run
from tests.exporters import test_pack
from tests.exporters.graphfiles import STAGE, call, graph_file, released

from voxport.bundle import Bundle
from voxport.checksums import record
from voxport.graphs.ort import OrtSession
from voxport.graphs.stage import Stage, TensorSpec
from voxport.recipe import Kind, Recipe, Rule
from voxport_exporters.graphs import agreement, measure
from voxport_exporters.graphs.part import Part
from voxport_exporters.pack import Job, pack, save, save_file
from voxport_exporters.targets import TARGETS
from voxport_parity import products
from voxport_parity.reference import TorchBundle

FP32 = Recipe("fp32")


def job(folder: Path) -> Job:
    return replace(test_pack.job(folder), graphs=(graph_file(folder),))


def recipe(kind: Kind) -> Recipe:
    return Recipe(kind, [Rule(kind, stage="ids")])


def outputs(session: OrtSession) -> dict[str, np.ndarray]:
    return session(session.start(), into=None, **call())[0]


@pytest.mark.parametrize("target", TARGETS)
def test_the_copy_is_the_file_and_the_manifest_says_which(target: str, tmp_path: Path) -> None:
    pack(job(tmp_path), tmp_path / "b", Recipe("int8", [Rule("int8", stage="convert")]), target)
    source, copy = tmp_path / "released_v3.onnx", tmp_path / "b" / "ids.onnx"
    assert copy.read_bytes() == source.read_bytes()
    manifest = Bundle(tmp_path / "b").manifest
    assert manifest.files["ids.onnx"] == manifest.source.files["released_v3.onnx"] == record(source)
    stage = manifest.stages["ids"]
    assert stage.weight_bytes == source.stat().st_size
    assert (stage.int8_ops, stage.error_db, stage.equal_ids) == (0, None, None)
    assert stage.axes == {"B": 1, "T": 40}


def test_a_graph_of_a_bundle_that_was_changed_is_refused(tmp_path: Path) -> None:
    pack(job(tmp_path), tmp_path / "b", FP32, "cpu")
    model = released()
    model.graph.node[-1].attribute[0].i = 1
    model.producer_name = "another"
    (tmp_path / "b" / "ids.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ValueError, match=r"ids\.onnx: corrupted .* export the bundle again"):
        Bundle(tmp_path / "b")


def test_outputs_of_a_size_that_no_input_has_come_back_whole(tmp_path: Path) -> None:
    for axes in (("T", "L"), (None, None)):
        session = graph_file(tmp_path, released(axes)).session()
        assert [t.name for t in session.stage.unsized] == ["indices"]
        found = outputs(session)
        assert found.keys() == {"indices", "voice"}
        assert found["indices"].shape == (1, 20)
        assert len(np.unique(found["indices"])) > 3
        again = session(session.start(), into={"voice": found["voice"]}, **call(11))[0]
        assert again["indices"].shape == (1, 5)
    assert session.stage.inputs[0].shape == ("B", 6, "feats.2")
    into = {"indices": np.zeros((1, 20), np.int64)}
    with pytest.raises(ValueError, match="known when it is computed"):
        session(session.start(), into=into, **call())


def test_a_graph_of_our_own_has_no_such_outputs(tmp_path: Path) -> None:
    x, y = (TensorSpec(name, "float32", (axis, 64)) for name, axis in (("x", "rows"), ("y", "others")))
    part = Part(Stage("net", (x,), (y,)), test_pack.Net(), {"rows": 1})
    with pytest.raises(ValueError, match=r"stage net: y float32\[others, 64\]: no input has all of its free axes"):
        save(part, tmp_path, FP32, "cpu")


def renamed() -> onnx.ModelProto:
    model = released()
    model.graph.output[1].name = model.graph.node[-1].output[0] = "vector"
    return model


def narrower() -> onnx.ModelProto:
    model = released()
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_value = 3000
    return model


def longer() -> onnx.ModelProto:
    model = released()
    model.graph.input.append(helper.make_tensor_value_info("more", TensorProto.FLOAT, [1]))
    return model


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"version https://git-lfs.github.com/spec/v1", "onnxruntime cannot load it"),
        (b"", "onnxruntime cannot load it|is not the graph of ids"),
        (renamed().SerializeToString(), r"is not the graph of ids: .*vector.*wanted .*voice float32\[1, 5\]"),
        (narrower().SerializeToString(), r"is not the graph of ids: it has feats float32\[B, 6, 3000\]"),
        (longer().SerializeToString(), r"is not the graph of ids: .*more float32\[1\]"),
    ],
)
def test_a_file_that_is_not_the_graph_is_refused_in_one_line(content: bytes, words: str, tmp_path: Path) -> None:
    packed = job(tmp_path)
    (tmp_path / "released_v3.onnx").write_bytes(content)
    with pytest.raises(ValueError, match=rf"^{tmp_path}/released_v3\.onnx: ({words})") as caught:
        pack(packed, tmp_path / "b", FP32, "cpu")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "b").exists()


def test_ids_of_either_width_are_taken_and_another_dtype_is_not(tmp_path: Path) -> None:
    model = released()
    model.graph.node[9].attribute[0].i = TensorProto.INT32
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.INT32
    assert outputs(graph_file(tmp_path, model).session())["indices"].dtype == np.int32
    model.graph.node[9].attribute[0].i = TensorProto.FLOAT
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.FLOAT
    with pytest.raises(ValueError, match=r"it has indices float32\[B, L\]"):
        graph_file(tmp_path, model).session()


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("turned", [True, False])
@pytest.mark.parametrize("kind", ["fp16", "int8", "int8r"])
def test_a_recipe_that_names_the_stage_quantizes_it(kind: Kind, turned: bool, target: str, tmp_path: Path) -> None:
    file = graph_file(tmp_path, released(turned=turned))
    folder = tmp_path / "b"
    folder.mkdir()
    result = save_file(file, folder, recipe(kind), target)
    exact, quantized = outputs(file.session()), outputs(OrtSession(folder / "ids.onnx"))
    difference = agreement.decibels(exact["voice"], quantized["voice"])
    assert {"fp16": 60, "int8": 30, "int8r": 30}[kind] < difference < 100
    assert difference == pytest.approx(result.record.output_db)
    assert result.record.equal_ids == (exact["indices"] == quantized["indices"]).mean() > 0.8
    diffs = list(products.check("llvc", file, recipe(kind), target, folder / "ids.onnx", call()))
    assert {d.tensor for d in diffs} == (set() if kind == "fp16" else {"weight", "head", "gemm"})
    assert all(d.ok for d in diffs), diffs
    domains = {node.domain for node in onnx.load(folder / "ids.onnx", load_external_data=False).graph.node}
    assert domains <= TARGETS[target].domains


def test_info_says_what_became_of_the_outputs(tmp_path: Path) -> None:
    pack(job(tmp_path), tmp_path / "b", recipe("int8r"), "cpu")
    stage = Bundle(tmp_path / "b").manifest.stages["ids"]
    assert stage.equal_ids is not None
    (line,) = (line for line in done(run("info", tmp_path / "b")).splitlines() if line.startswith("  ids: "))
    assert line.endswith(f" dB of its outputs, {stage.equal_ids:.1%} of its ids stay")
    pack(job(tmp_path), tmp_path / "b", FP32, "cpu")
    found = done(run("info", tmp_path / "b", "--tensors"))
    assert "quantized" not in found
    assert "output  indices int64[B, L]" in found


def test_weights_of_two_bytes_halve_the_stage(tmp_path: Path) -> None:
    file = graph_file(tmp_path)
    result = save_file(file, tmp_path, recipe("fp16"), "cpu")
    sizes = (tmp_path / "ids.onnx", tmp_path / "ids.onnx.data")
    assert sum(path.stat().st_size for path in sizes) < 0.9 * file.path.stat().st_size  # in pages of 4 kB
    assert result.record.weight_bytes < 0.55 * file.path.stat().st_size
    assert result.record.error_db is None


def test_a_kind_that_a_released_graph_does_not_know_is_named(tmp_path: Path) -> None:
    warnings = pack(job(tmp_path), tmp_path / "b", recipe("int4"), "cpu")
    assert warnings == ["recipe int4: rule int4, stage 'ids', weights '*' matches no weight"]
    assert (tmp_path / "b" / "ids.onnx").read_bytes() == (tmp_path / "released_v3.onnx").read_bytes()


@pytest.mark.parametrize("figure", ["equal_ids", "output_db", "speed_up"])
def test_the_gate_keeps_the_released_file(figure: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "LEAST_SPEED_UP", 1000.0 if figure == "speed_up" else 0.0)
    monkeypatch.setattr(agreement, "LEAST_EQUAL", 1.1 if figure == "equal_ids" else 0.0)
    monkeypatch.setattr(agreement, "LEAST_DB", 1000.0 if figure == "output_db" else 0.0)
    for gate in (False, True):
        (warning,) = pack(job(tmp_path), tmp_path / "b", recipe("int8r"), "cpu", gate)
        words = {"equal_ids": "of its ids stay", "output_db": "its outputs keep", "speed_up": "of fp32"}
        assert warning.startswith("stage ids, int8r: ")
        assert words[figure] in warning
        assert warning.endswith("; kept fp32") is gate
        bundle = Bundle(tmp_path / "b")
        same = (bundle.path / "ids.onnx").read_bytes() == (tmp_path / "released_v3.onnx").read_bytes()
        assert same is gate
        assert ("ids.onnx.data" in bundle.manifest.files) is not gate
        assert (bundle.manifest.stages["ids"].int8_ops == 0) is gate
        assert bundle.manifest.recipe.kind("ids", "weight") == ("fp32" if gate else "int8r")


def test_operators_of_onnxruntime_are_not_for_every_target(tmp_path: Path) -> None:
    model = released()
    model.graph.node[3].CopyFrom(helper.make_node("QuickGelu", ["mixed"], ["hidden"], domain="com.microsoft"))
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    file = graph_file(tmp_path, model)
    save_file(file, tmp_path, FP32, "cpu")
    with pytest.raises(
        ValueError, match=r"released_v3\.onnx: has operators of com\.microsoft, not for target portable"
    ):
        save_file(file, tmp_path, FP32, "portable")


def test_parity_runs_the_graph_where_there_is_no_net(tmp_path: Path) -> None:
    packed = job(tmp_path)
    parts = list(packed.parts)
    pack(packed, tmp_path / "b", FP32, "cpu")
    nets = TorchBundle(Bundle(tmp_path / "b"), parts)
    session = nets.session(STAGE.name)
    found = session(session.start(), into=None, **call())[0]
    assert found["indices"].shape == (1, 20)


def test_parity_holds_the_products_of_a_bundles_copy(tmp_path: Path) -> None:
    packed = job(tmp_path)
    pack(packed, tmp_path / "b", recipe("int8r"), "cpu")
    recorder = products.Recorder()
    bundle = Bundle(tmp_path / "b", sessions=recorder)
    session = bundle.session(STAGE.name)
    session(session.start(), into=None, **call())
    (file,), applied = packed.graphs, bundle.manifest.recipe
    diffs = list(products.check("llvc", file, applied, "cpu", bundle.path / "ids.onnx", recorder.calls["ids"]))
    assert len(diffs) == 3
    assert all(d.ok for d in diffs), diffs
