"""Fun-CosyVoice3: text made ready and cut, and the prompts of every mode (docs/systems/cosyvoice3.md 2.1)."""

import unicodedata
from itertools import pairwise

import inflect
import pytest
from hypothesis import given
from hypothesis import strategies as st

from voxport.systems.cosyvoice3.numerals import LONGEST, cardinal
from voxport.systems.cosyvoice3.text import ENOUGH, FEW, MOST, normalized, segments

ENGLISH = " ".join(f"Sentence number {i} has some seven words here." for i in range(1, 27))
CHINESE = "收到好友从远方寄来的生日礼物，那份意外的惊喜与深深的祝福让我心中充满了甜蜜的快乐，笑容如花儿般绽放。"  # noqa: RUF001
CHARACTERS = 'ab12 \n.?!;:,-"”，。、！？；：（）`é好希ア²'  # noqa: RUF001
PIECES = st.sampled_from([*CHARACTERS, " - ", "——", "<|", "|>", "[breath]", "seven words"])
TEXTS = st.lists(PIECES, max_size=200).map("".join)


def words(text: str) -> int:
    return len(text.split())


@given(st.text("0123456789", min_size=1, max_size=LONGEST))
def test_numbers_are_said_as_inflect_says_them(digits: str) -> None:
    assert cardinal(digits) == inflect.engine().number_to_words(digits)


def test_numbers_that_inflect_refuses_are_said_digit_by_digit() -> None:
    assert cardinal("9" * 40) == " ".join(["nine"] * 40)
    assert cardinal("0" * 5000) == "zero"
    assert (cardinal("٣٠"), cardinal("²")) == ("thirty", "two")


@pytest.mark.parametrize(
    ("text", "expected"),  # what upstream's frontend.py makes of them without its optional packages
    [
        ("I have 2 dogs, 1001 cats", ["I have two dogs, one thousand and one cats."]),
        ('He said "Go!" Then he went; 3.5 km.', ['He said "Go!" Then he went; three.five km.']),
        ("你好 world - 12.5 ok²（注）`x`——、，", ["你好world，12。5 ok平方注x 。"]),  # noqa: RUF001
        ("他说：“好！”然后走了", ["他说：“好！”然后走了。"]),  # noqa: RUF001
        ("Hi... there", ["Hi. there."]),
        ("a<|endofprompt|>I have 2 dogs. ", ["a<|endofprompt|>I have 2 dogs. "]),
        ("レキシ テキ セカイ", ["レキシ テキ セカイ."]),
        (CHINESE * 4, [CHINESE * 2] * 2),
    ],
)
def test_text_is_read_as_upstream_reads_it(text: str, expected: list[str]) -> None:
    assert segments(text, words) == expected


def test_a_long_text_is_cut_as_upstream_cuts_it() -> None:
    assert [len(piece) for piece in segments(ENGLISH, words)] == [478, 513, 328]
    sizes = [75, 76, 76, 76, 77, *[78] * 8]
    assert [len(piece) for piece in segments(ENGLISH.replace("number", "好"), words)] == sizes


def test_without_the_front_end_a_text_is_taken_as_it_is() -> None:
    assert segments(" I have 2 dogs.\n" * 50, words, frontend=False) == [" I have 2 dogs.\n" * 50]
    assert segments("...", words, frontend=False) == ["..."]


@pytest.mark.parametrize("text", ["", " \n", "...!?", "。", "“”", '?"', " . . "])
def test_nothing_to_say_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="the text is empty; give at least one word"):
        segments(text, words)


def letters(text: str) -> str:
    """What is said of a text: no white space, no marks and no symbols."""
    return "".join(char for char in text if unicodedata.category(char)[0] not in "PSZC")


@given(TEXTS)
def test_no_word_is_lost_or_said_twice(text: str) -> None:
    if not letters(text):
        return
    pieces = segments(text, words)
    assert letters("".join(pieces)) == letters(normalized(text))
    assert all(letters(piece) or "<|" in piece for piece in pieces)


@given(TEXTS)
def test_a_piece_is_no_longer_than_its_sentences_make_it(text: str) -> None:
    """A piece that ended with more than enough would have been too long with the next sentence; the last is no stub."""
    if not letters(text) or ("<|" in text and "|>" in text):
        return
    pieces = segments(text, words)
    length = len if any("\u4e00" <= char <= "\u9fff" for char in normalized(text)) else words
    assert all(length(piece) > ENOUGH for piece in pieces[:-1])
    if len(pieces) > 1:
        assert length(pieces[-1]) >= FEW
    joined = [a + b for a, b in pairwise(pieces)]
    assert all(length(both) > MOST for both in joined)
