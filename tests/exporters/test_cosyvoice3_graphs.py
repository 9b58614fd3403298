"""The two front-end graphs that Fun-CosyVoice3's release holds: found, checked, copied as they are."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace
from safetensors.numpy import load_file
from tests.bundles import FIXTURES

from voxport.graphs.ort import OrtSession
from voxport.recipe import Recipe, Rule
from voxport_exporters.graphs.graphfile import GraphFile
from voxport_exporters.pack import save_file
from voxport_exporters.recipe import named
from voxport_exporters.systems.cosyvoice3.config import read_config
from voxport_exporters.systems.cosyvoice3.frontend import FRONTEND_RULES, SPEAKER_FILE, TOKENIZER_FILE, graphs
from voxport_exporters.targets import TARGETS

ROOT = FIXTURES / "cosyvoice3"


def found(root: Path = ROOT) -> dict[str, GraphFile]:
    return {file.stage.name: file for file in graphs(root, read_config(ROOT))}


@pytest.mark.parametrize("target", TARGETS)
def test_the_copies_are_the_files_and_give_the_goldens(target: str, tmp_path: Path) -> None:
    golden = load_file(ROOT / "golden.safetensors")
    for name, file in found().items():
        record = save_file(file, tmp_path, Recipe("int8", [Rule("int8", stage="flow")]), target).record
        assert (tmp_path / f"{name}.onnx").read_bytes() == file.path.read_bytes()
        assert record.axes == {"B": 1, "T": 300}
    tokenizer, speaker = (OrtSession(tmp_path / f"{name}.onnx") for name in ("speech_tokenizer", "campplus"))
    feats = golden["frontend.whisper_mel"]
    length = np.array([feats.shape[2]], np.int32)
    tokens = tokenizer(tokenizer.start(), feats=feats, feats_length=length)[0]["indices"]
    np.testing.assert_array_equal(tokens, golden["frontend.speech_token_full"])
    voice = speaker(speaker.start(), input=golden["frontend.fbank"])[0]["output"]
    np.testing.assert_allclose(voice, golden["frontend.spk_embedding"], rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", [TOKENIZER_FILE, SPEAKER_FILE])
def test_a_graph_that_is_missing_is_named(name: str, tmp_path: Path) -> None:
    for file in {TOKENIZER_FILE, SPEAKER_FILE} - {name}:
        shutil.copyfile(ROOT / file, tmp_path / file)
    with pytest.raises(FileNotFoundError, match=rf"^{tmp_path}: no {name}$"):
        found(tmp_path)


def test_graphs_in_each_others_place_are_refused(tmp_path: Path) -> None:
    shutil.copyfile(ROOT / SPEAKER_FILE, tmp_path / TOKENIZER_FILE)
    shutil.copyfile(ROOT / TOKENIZER_FILE, tmp_path / SPEAKER_FILE)
    for file in found(tmp_path).values():
        with pytest.raises(ValueError, match=f"{file.path}: is not the graph of {file.stage.name}: "):
            save_file(file, tmp_path, Recipe("fp32"), "cpu")


def test_a_voice_of_another_width_than_the_flow_takes_is_refused() -> None:
    config = read_config(ROOT)
    speaker, _ = graphs(ROOT, replace(config, flow=replace(config.flow, spk_embed_dim=256)))
    with pytest.raises(ValueError, match=r"is not the graph of campplus: .*wanted .*output float32\[1, 256\]"):
        speaker.session()


def test_a_recipe_file_stores_the_tokenizer_in_two_bytes(tmp_path: Path) -> None:
    rules = tmp_path / "small.toml"
    rules.write_text('[[rule]]\nkind = "fp16"\nstage = "speech_tokenizer"\n')
    recipe = named(str(rules), {})
    for name, file in found().items():
        record = save_file(file, tmp_path, recipe, "cpu").record
        assert record.equal_ids == (1.0 if name == "speech_tokenizer" else None)
        same = (tmp_path / f"{name}.onnx").read_bytes() == file.path.read_bytes()
        assert same is (name == "campplus")
    stored = sum(path.stat().st_size for path in tmp_path.glob("speech_tokenizer.*"))
    assert stored < 0.7 * (ROOT / TOKENIZER_FILE).stat().st_size


@pytest.mark.parametrize("name", FRONTEND_RULES)
def test_rules_of_the_front_end_name_its_stages(name: str, tmp_path: Path) -> None:
    recipe = Recipe(name, FRONTEND_RULES[name])
    for file in found().values():
        plan = save_file(file, tmp_path, recipe, "cpu").plan
        assert (plan.kinds == []) is (name == "fp32" or (name == "int8" and file.stage.name == "speech_tokenizer"))
