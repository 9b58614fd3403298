"""What a Qwen3-TTS folder says, and what its silence means."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from voxport.speech.chunks import Grouping
from voxport_exporters.checkpoints import lockfile
from voxport_exporters.systems.qwen3tts import config as qwen3tts_config
from voxport_exporters.systems.qwen3tts import job as qwen3tts

KIND = {"model_type": "qwen3_tts", "tts_model_type": "base", "tts_model_size": "0b6"}
BASE = Path(__file__).parents[1] / "fixtures" / "qwen3tts-base"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(BASE, tmp_path / "model", ignore=shutil.ignore_patterns("golden*")))


def rewrite(path: Path, **changes: Any) -> dict[str, Any]:
    """Changes keys, `talker__x` for one inside talker_config; None removes it."""
    config: dict[str, Any] = json.loads(path.read_text())
    for name, value in changes.items():
        fields, key = (config["talker_config"], name[8:]) if name.startswith("talker__") else (config, name)
        fields.pop(key, None)
        if value is not None:
            fields[key] = value
    path.write_text(json.dumps(config))
    return config


def test_an_absent_key_is_upstreams_default(folder: Path) -> None:
    rewrite(
        folder / "config.json",
        talker__head_dim=None,
        talker__num_key_value_heads=None,
        talker__num_attention_heads=8,
        talker__hidden_size=96,
        talker__codec_pad_id=None,
        tts_pad_token_id=None,
        speaker_encoder_config=None,
    )
    config = qwen3tts_config.read_config(folder / "config.json")
    talker = config.talker_layers
    assert (talker.head_size, talker.kv_heads) == (12, 2)
    assert qwen3tts.tokens(config)["codec.pad"] == 4196
    assert qwen3tts.tokens(config)["tts_pad"] == 151671


def test_a_sliding_talker_slides_in_every_layer(folder: Path) -> None:
    rewrite(folder / "config.json", talker__use_sliding_window=True, talker__sliding_window=5)
    config = qwen3tts_config.read_config(folder / "config.json")
    assert set(config.talker_layers.mixers) == {"sliding"}
    assert config.talker_layers.window == 5
    assert set(config.predictor_layers.mixers) == {"full"}


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("generation_config.json", "{", "generation_config.json: not JSON"),
        ("generation_config.json", "[]", "generation_config.json: wanted a JSON object"),
        ("generation_config.json", '{"temperature": "hot"}', 'temperature is "hot": expected float, got str'),
        ("generation_config.json", '{"top_k": 2.5}', "top_k is 2.5: expected int, got float"),
        ("generation_config.json", '{"do_sample": 1}', "do_sample is 1: expected bool, got int"),
        ("config.json", json.dumps(KIND | {"talker_config": 3}), "talker_config is no object"),
        ("config.json", json.dumps(KIND), "talker_config is absent"),
        ("config.json", json.dumps({"model_type": "qwen3_tts"}), "config.json: no tts_model_type"),
        ("speech_tokenizer/config.json", '{"encoder_config": {}}', "no decoder_config"),
    ],
)
def test_one_line_names_the_file_and_the_key(name: str, text: str, words: str, folder: Path) -> None:
    (folder / name).write_text(text)
    with pytest.raises(ValueError, match=r"^[^\n]*$") as error:
        qwen3tts.job(folder)
    assert words in str(error.value)
    assert name in str(error.value)


def test_null_in_generation_config_is_absence(folder: Path) -> None:
    (folder / "generation_config.json").write_text('{"top_k": null, "temperature": 1}')
    settings = qwen3tts_config.sampling(folder / "generation_config.json")
    assert (settings["top_k"], settings["temperature"]) == (50, 1.0)
    assert isinstance(settings["temperature"], float)


def test_a_codec_that_is_missing_or_another_models_is_named_at_once(folder: Path) -> None:
    path = folder / "speech_tokenizer" / "config.json"
    config = json.loads(path.read_text())
    config["decoder_config"]["num_quantizers"] += 1
    path.write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"they do not belong together; name the model's own codec with --codec"):
        qwen3tts.job(folder)
    shutil.rmtree(path.parent)
    with pytest.raises(FileNotFoundError, match=r"speech_tokenizer: no such folder; .* name yours with --codec"):
        qwen3tts.job(folder)


def test_shards_are_part_of_the_source(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "model-00001-of-00001.safetensors")
    index = {"weight_map": {"a": "model-00001-of-00001.safetensors", "b": "model-00001-of-00001.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    names = [path.name for path in qwen3tts.job(folder).checkpoint]
    assert names.count("model-00001-of-00001.safetensors") == 1
    assert "model.safetensors.index.json" in names


def test_the_released_config_alone_is_no_release() -> None:
    files = [file for model in lockfile.read().values() for repo in model.repo for file in repo.files if file.sha256]
    for suffix, found in ((".json", False), (".safetensors", True)):
        hashes = {file.sha256 for file in files if file.sha256 and file.path.endswith(suffix)}
        assert hashes
        assert bool(lockfile.holding(hashes)) == found


@pytest.mark.parametrize(
    ("first", "most", "sizes"),
    [(1, 4, [1, 1, 1, 1, 1, 1, 2, 2, 3, 4, 4]), (3, 7, [3, 3, 3, 3, 4, 5])],
)
def test_chunks_grow_from_the_first(first: int, most: int, sizes: list[int]) -> None:
    groups = Grouping[int](first, most, first)
    assert [len(group) for item in range(sum(sizes)) if (group := groups.add(item))] == sizes
    groups.add(0)
    assert groups.rest() == [0]


def test_two_models_of_one_variant_are_both_named(folder: Path) -> None:
    shutil.copytree(folder, folder.parent / "tuned")
    with pytest.raises(
        ValueError, match=r"found 0[.]6b-base in model, 0[.]6b-base in tuned; .* the folder of one"
    ) as error:
        qwen3tts.job(folder.parent)
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match=r"wanted 0[.]6b-base, found 0[.]6b-base in model, 0[.]6b-base in tuned"):
        qwen3tts.job(folder.parent, variant="0.6b-base")
    assert qwen3tts.job(folder.parent / "tuned").root == folder.parent / "tuned"


def test_of_two_variants_the_named_one_is_taken(folder: Path) -> None:
    other = Path(shutil.copytree(folder, folder.parent / "large"))
    rewrite(other / "config.json", tts_model_size="1b7")
    with pytest.raises(ValueError, match=r"wanted one model, found 1[.]7b-base, 0[.]6b-base; choose one"):
        qwen3tts.job(folder.parent)
    assert qwen3tts.job(folder.parent, variant="1.7b-base").root == other
