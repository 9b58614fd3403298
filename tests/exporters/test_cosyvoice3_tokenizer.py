"""The tokenizer of Fun-CosyVoice3 is upstream's: Qwen2's with 280 more tokens in their order."""

import json
import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.bundles import FIXTURES
from tokenizers import Tokenizer

from voxport_exporters.systems.cosyvoice3.config import QWEN
from voxport_exporters.systems.cosyvoice3.tokenizer import ADDED, tokenizer

FIXTURE = FIXTURES / "cosyvoice3"
ROWS = 151936
NOTES = json.loads((FIXTURE / "golden.json").read_text())


def read(root: Path) -> Tokenizer:
    return Tokenizer.from_str(tokenizer(root, ROWS)[0].decode())


@pytest.mark.parametrize("row", NOTES["tokenization"], ids=lambda row: row["text"][:20])
def test_every_text_of_the_golden_has_upstreams_ids(row: dict[str, object]) -> None:
    assert read(FIXTURE).encode(row["text"]).ids == row["ids"]
    assert read(FIXTURE).decode(row["ids"], skip_special_tokens=False) == row["text"]


def test_the_280_tokens_have_the_releases_ids() -> None:
    ids = {name: 151644 + i for i, name in enumerate(ADDED)}
    vocab = json.loads((FIXTURE / QWEN / "vocab.json").read_text())
    assert ids == {name: i for name, i in vocab.items() if i > 151643}
    assert len(ADDED) == 280
    assert (ids["<|endofprompt|>"], ids["[AA]"], ids["[ZH]"], ids["[a]"]) == (151646, 151664, 151747, 151748)
    assert (ids["[j]"], ids["[zh]"], ids["[ǐ]"], ids["[ǜ]"]) == (151797, 151849, 151913, 151923)


def as_released(folder: Path, base: int = 360) -> Path:
    """The fixture's files as the release has them: the vocabulary without the tokens that upstream adds."""
    root = Path(shutil.copytree(FIXTURE / QWEN, folder / "checkpoint" / QWEN)).parent
    vocab = json.loads((root / QWEN / "vocab.json").read_text())
    plain = {name: i for name, i in vocab.items() if i < base}
    (root / QWEN / "vocab.json").write_text(json.dumps(plain))
    config = json.loads((root / QWEN / "tokenizer_config.json").read_text())
    added = config["added_tokens_decoder"]
    config["added_tokens_decoder"] = {str(base + i): token for i, token in enumerate(added.values())}
    (root / QWEN / "tokenizer_config.json").write_text(json.dumps(config))
    return root


def test_a_vocabulary_without_them_gets_them_at_the_next_free_ids(tmp_path: Path) -> None:
    tokens = read(as_released(tmp_path))
    assert [tokens.token_to_id(name) for name in ("<|endoftext|>", "<|im_end|>", "<|endofprompt|>")] == [360, 362, 363]
    assert [tokens.token_to_id(name) for name in ADDED] == list(range(361, 641))


def test_the_tokens_are_found_as_transformers_finds_them(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    root = as_released(tmp_path)
    upstream = AutoTokenizer.from_pretrained(root / QWEN)
    upstream.add_special_tokens({"eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"})
    upstream.add_tokens(ADDED, special_tokens=True)
    tokens = read(root)

    @given(st.lists(st.sampled_from([*ADDED, "a", " the", "好", "<", "|>", " ", "\n", "ǐ", "[", "endofprompt"])))
    @settings(max_examples=100, deadline=None)
    def check(pieces: list[str]) -> None:
        text = "".join(pieces)
        assert tokens.encode(text).ids == upstream(text)["input_ids"]

    check()


@pytest.mark.parametrize("name", ["vocab.json", "merges.txt", "tokenizer_config.json"])
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    root = as_released(tmp_path)
    (root / QWEN / name).unlink()
    with pytest.raises(FileNotFoundError, match=f"{name}: no such file; wanted tokenizer.json, or vocab.json, merges"):
        tokenizer(root, ROWS)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("vocab.json", "["),
        ("vocab.json", "[]"),
        ("vocab.json", '{"a": "b"}'),
        ("tokenizer_config.json", '{"added_tokens_decoder": {"x": {}}}'),
        ("tokenizer_config.json", '{"added_tokens_decoder": {"1": 2}}'),
        ("tokenizer_config.json", '{"added_tokens_decoder": {"1": {}}}'),
    ],
)
def test_a_damaged_file_is_one_line(tmp_path: Path, name: str, text: str) -> None:
    root = as_released(tmp_path)
    (root / QWEN / name).write_text(text)
    with pytest.raises(ValueError, match=r"its vocab.json and tokenizer_config.json make no tokenizer") as caught:
        tokenizer(root, ROWS)
    assert "\n" not in str(caught.value)


def test_a_vocabulary_of_another_model_is_refused() -> None:
    with pytest.raises(ValueError, match=r"vocab.json: ids up to 151923, but the text embedding has 360 rows"):
        tokenizer(FIXTURE, 360)
    assert len(tokenizer(FIXTURE, 151924)[1]) == 3
