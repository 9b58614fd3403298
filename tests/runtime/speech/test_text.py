"""Text to ids, and long text in pieces."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from voxport.speech.longtext import pieces, spoken_letters
from voxport.speech.text import Tokenizer

WORDS = st.lists(st.text("abcdefgh", min_size=1, max_size=12), min_size=1, max_size=60)
MARKS = st.sampled_from(["", "", "", ",", ".", "!", "?", ";", "...", ".\n"])


def test_ids_are_upstreams(vyvo_checkpoint: Path, vyvo_golden: dict[str, np.ndarray]) -> None:
    texts = json.loads((vyvo_checkpoint / "golden.json").read_text())["texts"]
    tokenizer = Tokenizer(vyvo_checkpoint / "lm" / "tokenizer.json")
    assert tokenizer.ids(texts["text"]) == vyvo_golden["prompt_ids"][0, 1:-2].tolist()
    named = tokenizer.ids(f"{texts['voice']}: {texts['text']}")
    assert named == vyvo_golden["prompt_ids_voice"][0, 1:-2].tolist()


@pytest.mark.parametrize("text", ["", "  \n\t "])
def test_no_words_are_refused(text: str, vyvo_checkpoint: Path) -> None:
    with pytest.raises(ValueError, match="the text is empty"):
        Tokenizer(vyvo_checkpoint / "lm" / "tokenizer.json").ids(text)


def test_a_file_that_is_no_tokenizer_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"tokenizer\.json: no such tokenizer"):
        Tokenizer(tmp_path / "tokenizer.json")
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match=r"not a tokenizer\.json"):
        Tokenizer(tmp_path / "tokenizer.json")


@settings(max_examples=200, deadline=None)
@given(words=WORDS, most=st.integers(1, 80), data=st.data())
def test_pieces_hold_every_word_once_and_keep_the_limit(words: list[str], most: int, data: st.DataObject) -> None:
    text = " ".join(word + data.draw(MARKS) for word in words)
    expected = pieces(text, most)
    assert " ".join(expected).split() == text.split()
    assert all(spoken_letters(piece) <= most or len(piece.split()) == 1 for piece in expected)


@pytest.mark.parametrize(
    ("text", "most", "expected"),
    [
        ("One two. Three four.", 100, ["One two. Three four."]),
        ("One two. Three four.", 0, ["One two. Three four."]),
        ("One two. Three four.", 14, ["One two.", "Three four."]),
        ("I saw Dr. Who. He left.", 16, ["I saw Dr. Who.", "He left."]),
        ("Written by J. R. Ewing. In 1980.", 24, ["Written by J. R. Ewing.", "In 1980."]),
        ('"Go!" she said. He went.', 17, ['"Go!" she said.', "He went."]),
        ("First, the long part, then the rest of it", 22, ["First, the long part,", "then the rest of it"]),
        ("It costs 3.50 or so, I think.", 40, ["It costs 3.50 or so, I think."]),
        ("今日は元気です。明日も来ます。", 24, ["今日は元気です。", "明日も来ます。"]),
        ("Ten 1234567890 ten", 20, ["Ten", "1234567890", "ten"]),
    ],
)
def test_text_is_cut_where_a_reader_would_breathe(text: str, most: int, expected: list[str]) -> None:
    assert pieces(text, most) == expected
