"""Fun-CosyVoice3's job: which files of a folder become a bundle, and what is refused before anything is exported."""

import shutil
from pathlib import Path

import pytest
import torch
from tests.bundles import FIXTURES

from voxport_exporters.options import SystemOptions
from voxport_exporters.systems import OPTIONS, SYSTEMS
from voxport_exporters.systems.cosyvoice3.job import job

CHECKPOINT = FIXTURES / "cosyvoice3"


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return Path(shutil.copytree(CHECKPOINT, tmp_path / "model"))


def names(root: Path, llm: str = "base") -> set[str]:
    return {path.relative_to(root).as_posix() for path in job(root, llm=llm).checkpoint}


def test_the_language_model_is_the_one_that_was_asked_for(copy: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"llm\.rl\.pt"):
        job(copy, llm="rl")
    shutil.copy(copy / "llm.pt", copy / "llm.rl.pt")
    assert {"llm.rl.pt"} == {name for name in names(copy, llm="rl") if name.startswith("llm")}
    assert {"llm.pt"} == {name for name in names(copy) if name.startswith("llm")}
    assert (job(copy, llm="rl").variant, job(copy).variant) == ("rl", "base")


def test_every_file_that_counts_is_recorded(copy: Path) -> None:
    torch.save({}, copy / "spk2info.pt")
    assert names(copy) == {
        "cosyvoice3.yaml",
        "CosyVoice-BlankEN/config.json",
        "CosyVoice-BlankEN/vocab.json",
        "CosyVoice-BlankEN/merges.txt",
        "CosyVoice-BlankEN/tokenizer_config.json",
        *("llm.pt", "flow.pt", "hift.pt", "campplus.onnx", "speech_tokenizer_v3.onnx"),
    }


@pytest.mark.parametrize(
    "name",
    [
        *("cosyvoice3.yaml", "llm.pt", "flow.pt", "hift.pt", "campplus.onnx", "speech_tokenizer_v3.onnx"),
        *("CosyVoice-BlankEN/config.json", "CosyVoice-BlankEN/vocab.json", "CosyVoice-BlankEN/merges.txt"),
    ],
)
def test_a_file_that_is_missing_is_named_in_one_line(copy: Path, name: str) -> None:
    (copy / name).unlink()
    with pytest.raises(FileNotFoundError, match=Path(name).name) as error:
        job(copy)
    assert "\n" not in str(error.value)


def test_one_of_several_folders_is_chosen_by_its_name(copy: Path) -> None:
    assert job(copy.parent).root == copy
    shutil.copytree(copy, copy.parent / "other")
    with pytest.raises(ValueError, match="found model, other"):
        job(copy.parent)
    assert job(copy.parent, variant="other").root == copy.parent / "other"


def test_keys_of_gan_training_are_taken_as_they_are(copy: Path) -> None:
    weights = torch.load(copy / "hift.pt", weights_only=True)
    torch.save({f"generator.{key}": value for key, value in weights.items()}, copy / "hift.pt")
    stages = [part.stage.name for part in job(copy).parts]
    assert {"f0", "source", "vocoder"} <= set(stages)


def test_the_command_line_offers_every_recipe() -> None:
    options: SystemOptions = OPTIONS["cosyvoice3"]
    exporter = SYSTEMS["cosyvoice3"]()
    assert options.recipes.keys() == exporter.recipes.keys()
    assert options.codec_recipes.keys() == exporter.codec_recipes.keys()
