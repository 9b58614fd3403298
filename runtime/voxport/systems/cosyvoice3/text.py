"""What a text is made ready for, and cut into, before it is said (docs/systems/cosyvoice3.md 2.1).

These are upstream's rules without its optional packages. With one of them installed (wetext, or ttsfrd in its own
cloud) upstream also writes out dates, times, sums, units and decimals in Chinese and English; here a Chinese text keeps
its digits as they are, and in any other one every run of digits is said as an English number. A text with `<|` and `|>`
in it is taken as it is, as a whole.
"""

import re
import unicodedata
from collections.abc import Callable
from itertools import groupby

from voxport.systems.cosyvoice3.numerals import cardinal

Count = Callable[[str], int]  # the length of a text

MOST, ENOUGH, FEW = (
    80,
    60,
    20,
)  # units of a segment: more, and one that has more than enough ends; a rest joins the last

# utils/frontend_utils.py: where a sentence ends, in a text with Chinese in it and in any other
CHINESE_MARKS = "。？！；：、.?!;"  # noqa: RUF001
MARKS = ".?!;:"
QUOTES = '"”'  # that end a sentence behind its mark

_CHINESE = re.compile("[\u4e00-\u9fff]")
_BLANK = re.compile(r"(?<![\x00-\x1f\x21-\x7f]) | (?![\x00-\x1f\x21-\x7f])")  # not between two of ASCII
_BRACKETS = re.compile("[（）【】`]")  # noqa: RUF001
_COMMAS = re.compile("[，,、]+$")  # noqa: RUF001


def is_plain(text: str) -> bool:
    """Whether the rules act on a text at all: it holds no special token of the kind <|...|>."""
    return not ("<|" in text and "|>" in text)


def normalized(text: str) -> str:
    """The text as it is to be said, in one piece. What is not plain comes back as it is."""
    if not is_plain(text):
        return text
    text = text.strip()
    if not _CHINESE.search(text):
        return _spelled(text)
    text = _BLANK.sub("", text.replace("\n", "")).replace("²", "平方").replace("³", "立方")
    text = text.replace(".", "。").replace(" - ", "，")  # noqa: RUF001
    return _COMMAS.sub("。", _BRACKETS.sub("", text).replace("——", " "))


def segments(text: str, tokens: Count, frontend: bool = True) -> list[str]:
    """The pieces that a text is said in, one after the other, each on its own.

    `tokens`: counts a text's tokens, in which the length of a piece is measured, that of Chinese in characters.
    `frontend`: False takes the text as it is, upstream's text_frontend. ValueError when there is nothing to say.
    """
    if frontend and is_plain(text):
        pieces = [piece for piece in _split(normalized(text), tokens) if not _is_mute(piece)]
    else:
        pieces = [text] if text.strip() else []
    if not pieces:
        raise ValueError("the text is empty; give at least one word")
    return pieces


def _spelled(text: str) -> str:
    """Every run of digits in words."""
    runs = ((digits, "".join(chars)) for digits, chars in groupby(text, str.isdigit))
    return "".join(cardinal(run) if digits else run for digits, run in runs)


def _split(text: str, tokens: Count) -> list[str]:
    """Whole sentences, as many to a piece as `MOST`, `ENOUGH` and `FEW` say."""
    is_chinese = _CHINESE.search(text) is not None
    length: Count = len if is_chinese else tokens
    pieces, piece = [], ""
    for sentence in _sentences(text, CHINESE_MARKS if is_chinese else MARKS, "。" if is_chinese else "."):
        if length(piece + sentence) > MOST and length(piece) > ENOUGH:
            pieces.append(piece)
            piece = ""
        piece += sentence
    if piece and pieces and length(piece) < FEW:
        pieces[-1] += piece
    elif piece:
        pieces.append(piece)
    return pieces


def _sentences(text: str, marks: str, stop: str) -> list[str]:
    """The text cut behind every mark, and behind a quotation mark that follows one; of several marks in a row the first
    stays. A text that ends without a mark gets `stop`."""
    if text and text[-1] not in marks:
        text += stop
    sentences, start = [], 0
    for i, char in enumerate(text):
        if char in marks:
            if i > start:
                sentences.append(text[start : i + 1])
            start = i + 1
            if sentences and start < len(text) and text[start] in QUOTES:
                sentences[-1] += text[start]
                start += 1
    return sentences


def _is_mute(text: str) -> bool:
    """Whether there is nothing in a text but white space, marks and symbols."""
    return all(char.isspace() or unicodedata.category(char)[0] in "PS" for char in text)
