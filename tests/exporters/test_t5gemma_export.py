"""T5Gemma-TTS's job: which files become a bundle, what is refused before anything is exported, what --to writes."""

import json
import shutil
from pathlib import Path

import pytest
from safetensors.numpy import load_file
from tests.bundles import FIXTURES
from tests.command import done, refusal, run

from voxport_exporters.systems import OPTIONS, SYSTEMS
from voxport_exporters.systems.t5gemma.job import job

CHECKPOINT = FIXTURES / "t5gemma"


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return Path(shutil.copytree(CHECKPOINT, tmp_path / "model"))


def test_every_file_that_counts_is_recorded() -> None:
    assert {path.relative_to(CHECKPOINT).as_posix() for path in job(CHECKPOINT).checkpoint} == {
        "t5gemma_tts/config.json",
        "t5gemma_tts/model.safetensors",
        "text_tokenizer/tokenizer.json",
        "xcodec2/config.json",
        "xcodec2/model.safetensors",
        "w2v-bert-2.0/config.json",
    }


def test_the_model_s_own_folder_is_enough(copy: Path) -> None:
    assert job(copy / "t5gemma_tts").section == job(copy).section


@pytest.mark.parametrize("folder", ["t5gemma_tts", "text_tokenizer", "xcodec2", "w2v-bert-2.0"])
def test_a_folder_that_is_missing_is_named_in_one_line(copy: Path, folder: str) -> None:
    shutil.rmtree(copy / folder)
    with pytest.raises((FileNotFoundError, ValueError)) as error:
        job(copy)
    assert "\n" not in str(error.value)
    assert str(copy) in str(error.value)


def test_a_codec_of_another_size_is_refused(copy: Path) -> None:
    config = copy / "xcodec2" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"fsq_levels": [4, 4, 4]}))
    with pytest.raises(ValueError, match="the codec has 64 codes, the model 256"):
        job(copy)


def test_the_command_line_offers_every_recipe() -> None:
    options, exporter = OPTIONS["t5gemma"], SYSTEMS["t5gemma"]()
    assert options.recipes.keys() == exporter.recipes.keys()
    assert options.codec_recipes.keys() == exporter.codec_recipes.keys()
    assert options.formats.keys() == exporter.writers.keys()
    assert not SYSTEMS["llvc"]().writers


def test_weights_are_written_back_as_a_release(tmp_path: Path) -> None:
    result = run("export", "t5gemma", CHECKPOINT, "--to", "hf", tmp_path / "hf")
    assert done(result).strip() == str(tmp_path / "hf")
    assert "trust_remote_code" in result.stderr
    written, release = (load_file(f / "model.safetensors") for f in (tmp_path / "hf", CHECKPOINT / "t5gemma_tts"))
    assert written.keys() == release.keys()
    assert all((written[key] == release[key]).all() for key in release)


def test_export_needs_a_place_to_write_to(tmp_path: Path) -> None:
    assert "'-o' / '--out', or '--to'" in refusal(run("export", "t5gemma", CHECKPOINT))
    assert "'onnx' is not 'hf'" in refusal(run("export", "t5gemma", CHECKPOINT, "--to", "onnx", tmp_path / "x"))
