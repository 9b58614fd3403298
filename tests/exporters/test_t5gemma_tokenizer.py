"""The tokenizer in a bundle of T5Gemma-TTS gives upstream's ids, with none around them."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file
from tests.bundles import FIXTURES

from voxport.speech.text import Tokenizer
from voxport.systems.t5gemma.text import Words
from voxport_exporters.systems.t5gemma.config import Config, Stack, read_config
from voxport_exporters.systems.t5gemma.tokenizer import tokenizer

FIXTURE = FIXTURES / "t5gemma"
FOLDER = FIXTURE / "text_tokenizer"
CONFIG = read_config(FIXTURE / "t5gemma_tts" / "config.json")


def words(folder: Path, to: Path, config: Config = CONFIG, parse_special: bool = False) -> Words:
    """What reads text with the bundle's file of the tokenizer in `folder`."""
    path = to / "bundle.json"
    path.write_bytes(tokenizer(folder, config)[0])
    return Words(Tokenizer(path), parse_special)


def edited(tmp_path: Path, edit: Callable[[dict[str, Any]], object]) -> Path:
    """A copy of the fixture's tokenizer whose contents were changed."""
    folder = Path(shutil.copytree(FOLDER, tmp_path / "tokenizer"))
    contents = json.loads((folder / "tokenizer.json").read_text())
    edit(contents)
    (folder / "tokenizer.json").write_text(json.dumps(contents))
    return folder


def test_the_text_of_the_golden_has_upstreams_ids(tmp_path: Path) -> None:
    text = json.loads((FIXTURE / "golden.json").read_text())["settings"]["text"]
    ids = words(FOLDER, tmp_path).read(text).ids
    assert np.array_equal([ids], load_file(FIXTURE / "golden.safetensors")["t5.text_ids"])
    assert tokenizer(FOLDER, CONFIG)[1] == (FOLDER / "tokenizer.json",)


def test_every_text_has_the_ids_that_transformers_gives_it(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    upstream = AutoTokenizer.from_pretrained(FOLDER)
    reads, special = words(FOLDER, tmp_path), words(FOLDER, tmp_path, parse_special=True)
    pieces = st.sampled_from(["the ", "station", "  ", "\n", "好", "é", "▁", "<0x41>", "a", ".", "😀", "<", ">", "eos"])

    @given(st.one_of(st.text(max_size=20), st.lists(pieces, max_size=12).map("".join)).filter(str.strip))
    @settings(max_examples=100, deadline=None)
    def check(text: str) -> None:
        ids = upstream.encode(text.strip(), add_special_tokens=False)
        assert special.read(text, "en").ids == ids
        assert reads.read(text, "en").ids == ids or "<eos>" in text

    check()


def test_names_of_special_tokens_are_plain_text_unless_they_are_to_be_parsed(tmp_path: Path) -> None:
    plain, parsed = words(FOLDER, tmp_path), words(FOLDER, tmp_path, parse_special=True)
    assert parsed.read("<eos>").ids == [1]
    assert 1 not in plain.read("<eos>").ids
    assert len(plain.read("<eos>").ids) > 1


def test_no_text_holds_the_token_that_separates(tmp_path: Path) -> None:
    def add(contents: dict[str, Any]) -> None:
        names = {id: name for name, id in contents["model"]["vocab"].items()}
        flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": False}
        contents["added_tokens"] += [{"id": id, "content": names[id], **flags} for id in (510, 511)]

    folder = edited(tmp_path, add)
    names = {id: name for name, id in json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"].items()}
    assert 511 not in words(folder, tmp_path).read(names[511]).ids
    assert words(folder, tmp_path, parse_special=True).read(names[511]).ids == [511]
    assert words(folder, tmp_path).read(names[510]).ids == [510]  # one of Gemma's own stays what it is


def test_nothing_goes_around_a_text_and_nothing_is_cut(tmp_path: Path) -> None:
    def cut(contents: dict[str, Any]) -> None:
        contents["truncation"] = {"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0}
        fixed = {"strategy": {"Fixed": 9}, "direction": "Right", "pad_to_multiple_of": None}
        contents["padding"] = fixed | {"pad_id": 0, "pad_type_id": 0, "pad_token": "<pad>"}

    text = "Please send two small boxes."
    assert words(edited(tmp_path, cut), tmp_path).read(text) == words(FOLDER, tmp_path).read(text)


def test_a_tokenizer_of_another_model_is_refused() -> None:
    small = replace(CONFIG, encoder=Stack(vocab_size=511), voice=msgspec.structs.replace(CONFIG.voice, x_sep_token=510))
    with pytest.raises(
        ValueError, match=r"tokenizer.json: ids up to 511, but the text embedding has 511 rows: not its"
    ):
        tokenizer(FOLDER, small)


def test_a_missing_file_is_named_and_sentencepieces_alone_are_not_enough(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"tokenizer.json: no such tokenizer$"):
        tokenizer(tmp_path, CONFIG)
    (tmp_path / "tokenizer.model").touch()
    with pytest.raises(FileNotFoundError, match=r"tokenizer.model becomes one with transformers: AutoTokenizer"):
        tokenizer(tmp_path, CONFIG)


@pytest.mark.parametrize(
    "contents", ["[", "[]", "{}", '{"model": {}}', '{"model": {"vocab": {}}}', '{"model": {"vocab": 3}}']
)
def test_a_damaged_file_is_one_line(tmp_path: Path, contents: str) -> None:
    (tmp_path / "tokenizer.json").write_text(contents)
    with pytest.raises(ValueError, match=r"tokenizer.json: not a tokenizer.json: ") as refused:
        tokenizer(tmp_path, CONFIG)
    assert "\n" not in str(refused.value)
