"""Finding a VyvoTTS checkpoint: token tables, the codec beside the language model, and what does not fit together."""

import json
import shutil
from pathlib import Path

import pytest
from tests.command import refusal, run

from voxport.audio.files import File
from voxport.systems.vyvo.section import Section
from voxport_exporters.checkpoints.later import deferring
from voxport_exporters.systems.vyvo import job as vyvo
from voxport_exporters.systems.vyvo import tokens as vyvo_tokens


@pytest.fixture
def checkpoint(vyvo_checkpoint: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(vyvo_checkpoint, tmp_path / "checkpoint"))


def edit(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


def refused(checkpoint: Path, *options: File) -> str:
    line = refusal(run("export", "vyvo", checkpoint, "-o", checkpoint.parent / "bundle", *map(str, options)))
    assert not (checkpoint.parent / "bundle").exists()
    return line


@pytest.mark.parametrize(
    ("name", "start", "stop", "pad", "audio", "last"),
    [
        ("lfm2", 64401, 64402, 64407, 64410, 93081),
        ("qwen3", 151670, 151671, 151676, 151679, 180350),
        ("llama3", 128257, 128258, 128263, 128266, 156937),
    ],
)
def test_built_in_tables_are_upstreams(name: str, start: int, stop: int, pad: int, audio: int, last: int) -> None:
    table = vyvo_tokens.TABLES[name]
    assert (table["START_OF_SPEECH"], table["END_OF_SPEECH"], table["PAD_TOKEN"]) == (start, stop, pad)
    assert table["AUDIO_TOKENS_START"] == audio
    codes = vyvo_tokens.CodeIds(audio, places=7, size=4096)
    vyvo_tokens.check(table, last + 1, codes, name)
    with pytest.raises(ValueError, match="do not fit the vocabulary"):
        vyvo_tokens.check(table, last, codes, name)


def test_the_layout_of_the_release_is_found(checkpoint: Path) -> None:
    job = vyvo.job(checkpoint)
    assert (job.system, job.variant, job.sample_rate) == ("vyvo", "lfm2", 24000)
    assert job.tokens["AUDIO_TOKENS_START"] == 410  # the yaml wins over the table of the family
    assert job.sampling["top_k"] == 50  # transformers' default, as the checkpoint has none
    assert isinstance(job.section, Section)
    assert job.section.context == 128000
    assert {p.relative_to(checkpoint).as_posix() for p in job.checkpoint} >= {
        "inference.yaml",
        "lm/model.safetensors",
        "lm/tokenizer.json",
        "snac_24khz/pytorch_model.bin",
    }
    edit(checkpoint / "lm" / "generation_config.json", '"bos_token_id"', '"top_k": 20, "bos_token_id"')
    apart = vyvo.job(checkpoint / "lm", codec=checkpoint / "snac_24khz", tokens=str(checkpoint / "inference.yaml"))
    assert apart.tokens == job.tokens
    assert apart.sampling["top_k"] == 20


def test_tables_that_do_not_fit_are_refused(checkpoint: Path) -> None:
    yaml = checkpoint / "inference.yaml"
    line = refused(checkpoint, "--tokens", "lfm2")
    assert "audio ids 64410..93081 (7 codes of 4096 per frame) do not fit the vocabulary of 29083" in line
    assert "--tokens (lfm2, qwen3, llama3, a yaml)" in line
    edit(yaml, "AUDIO_TOKENS_START: 410", "AUDIO_TOKENS_START: 412")
    assert "audio ids 412..29083 (7 codes of 4096 per frame) do not fit the vocabulary of 29083" in refused(checkpoint)
    edit(yaml, "AUDIO_TOKENS_START: 412", "AUDIO_TOKENS_START: 405")
    assert "START_OF_AI 405 is taken" in refused(checkpoint)
    edit(yaml, "AUDIO_TOKENS_START: 405", "AUDIO_START: 410")
    assert "inference.yaml: lacks AUDIO_TOKENS_START" in refused(checkpoint, "--tokens", yaml)
    yaml.unlink()
    assert "do not fit the vocabulary" in refused(checkpoint)  # the family's own table


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ("CODEC_TYPE: snac", "CODEC_TYPE: mimi", "CODEC_TYPE mimi: this language model speaks another codec"),
        ("END_OF_TEXT: 7", "END_OF_TEXT: seven", "END_OF_TEXT 'seven' is not an id"),
        ("END_OF_TEXT: 7", "END_OF_TEXT: " + "7" * 5000, "is not an id"),
        ("END_OF_TEXT: 7", "END_OF_TEXT: 7\nSTART_OF_SONG: 8", "holds unknown START_OF_SONG"),
        ("END_OF_TEXT: 7", "END_OF_TEXT: 7\nEND_OF_TEXT: 8", "line 7 is not a new `NAME: value`"),
        ("END_OF_TEXT: 7", "- 7", "line 6 is not a new `NAME: value`"),
    ],
)
def test_a_yaml_that_is_no_table_is_one_line(old: str, new: str, why: str, checkpoint: Path) -> None:
    edit(checkpoint / "inference.yaml", old, new)
    assert why in refused(checkpoint)


def test_two_tables_are_listed(checkpoint: Path) -> None:
    shutil.copy(checkpoint / "inference.yaml", checkpoint / "other.yaml")
    assert "several token tables (inference.yaml, other.yaml); choose one with --tokens" in refused(checkpoint)


def test_a_codec_that_does_not_belong_is_refused(checkpoint: Path) -> None:
    config = checkpoint / "snac_24khz" / "config.json"
    params = json.loads(config.read_text())
    config.write_text(json.dumps(params | {"vq_strides": [8, 4, 2, 1]}))
    line = refused(checkpoint)
    assert "audio ids 410..61849 (15 codes of 4096 per frame) do not fit the vocabulary of 29083" in line
    assert "give the codec's own folder with --codec" in line
    config.write_text(json.dumps(params | {"codebook_size": 1024}))
    line = refused(checkpoint)
    assert "the codec makes 7 codes of 1024 per frame, and the vocabulary of 29083 has room for more" in line
    assert "they do not belong together; give the codec's own folder with --codec" in line


def test_the_heads_follow_the_codec_and_the_token_table(checkpoint: Path) -> None:
    """Two levels make three codes per frame: three heads, each with the codes of its place and the end."""
    config = checkpoint / "snac_24khz" / "config.json"
    fields = json.loads(config.read_text())
    config.write_text(json.dumps(fields | {"vq_strides": [4, 2], "codebook_size": 28673 // 3}))
    nets = {}
    with deferring():
        for part in vyvo.job(checkpoint).parts:
            nets[part.stage.name] = part
            if part.stage.name == "head":
                break
    assert list(nets) == ["lm", "head.0", "head.1", "head.2", "head"]
    assert [part.stage.outputs[0].shape[1] for name, part in nets.items() if "." in name] == [9558] * 3


def test_what_is_missing_is_named(checkpoint: Path, tmp_path: Path) -> None:
    assert "no such folder" in refused(tmp_path / "nowhere")
    assert "holds variant lfm2, not qwen3" in refused(checkpoint, "--variant", "qwen3")
    assert "No such option '--weights'" in refused(checkpoint, "--weights", "x.pth")
    assert "nothing.yaml: No such file" in refused(checkpoint, "--tokens", "nothing.yaml")
    (checkpoint / "lm" / "tokenizer.json").rename(checkpoint / "tokenizer.json")
    assert "tokenizer.json: no such tokenizer; give the folder that holds it with --tokenizer" in refused(checkpoint)
    assert vyvo.job(checkpoint, tokenizer=checkpoint).files["tokenizer.json"] == checkpoint / "tokenizer.json"
    shutil.rmtree(checkpoint / "snac_24khz")
    assert "wanted one SNAC folder below it, found none; give it with --codec" in refused(checkpoint)
