"""Text of T5Gemma-TTS: which language it is in, Japanese normalised, and the ids that go to the encoder."""

# ruff: noqa: RUF001 - marks of Chinese and Japanese are what this is about

import json
import string
import sys
import unicodedata
from collections.abc import Iterator
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.bundles import FIXTURES

from voxport.speech.text import Tokenizer
from voxport.systems.t5gemma import language
from voxport.systems.t5gemma.language import canonical, detect, langdetect
from voxport.systems.t5gemma.normalize import normalized
from voxport.systems.t5gemma.text import Words

NOTES = json.loads((FIXTURES / "t5gemma" / "golden.json").read_text())

# By Unicode's own names, which the code does not use
REMOVED = ["TAB", "SPACE", "IDEOGRAPHIC SPACE", "SEMICOLON", "BLACK DOWN-POINTING TRIANGLE", "FEMALE SIGN", "MALE SIGN"]
REMOVED += ["LEFT DOUBLE ANGLE BRACKET", "RIGHT DOUBLE ANGLE BRACKET", "MUCH LESS-THAN", "MUCH GREATER-THAN"]
REMOVED += [f"CIRCLED DIGIT {digit}" for digit in ("ONE", "TWO", "THREE", "FOUR", "FIVE", "SIX")]
REMOVED += ["MODIFIER LETTER MINUS SIGN", "HYPHEN", "NON-BREAKING HYPHEN", "FIGURE DASH", "EN DASH", "EM DASH"]
REMOVED += ["HORIZONTAL BAR", "HYPHEN BULLET", "MINUS SIGN", "HORIZONTAL LINE EXTENSION", "STRAIGHTNESS"]
REMOVED += ["BOX DRAWINGS LIGHT HORIZONTAL", "BOX DRAWINGS HEAVY HORIZONTAL", "TWO-EM DASH", "THREE-EM DASH"]
OTHERS = {
    "WAVE DASH": "KATAKANA-HIRAGANA PROLONGED SOUND MARK",
    "FULLWIDTH TILDE": "KATAKANA-HIRAGANA PROLONGED SOUND MARK",
    "FULLWIDTH QUESTION MARK": "QUESTION MARK",
    "FULLWIDTH EXCLAMATION MARK": "EXCLAMATION MARK",
    "BLACK CIRCLE": "WHITE CIRCLE",
    "LARGE CIRCLE": "WHITE CIRCLE",
    "IDEOGRAPHIC NUMBER ZERO": "WHITE CIRCLE",
    "BLACK HEART SUIT": "WHITE HEART SUIT",
}


def plain(char: str) -> str:
    """What becomes of one character."""
    name = unicodedata.name(char, "")
    if name in REMOVED or char in "\t\ue63e":  # the second is the sun of an old telephone
        return ""
    if name in OTHERS:
        return unicodedata.lookup(OTHERS[name])
    wide = unicodedata.normalize("NFKC", char)
    if name.startswith("FULLWIDTH") and wide in string.ascii_letters + string.digits:
        return wide
    is_letter = name.startswith("HALFWIDTH KATAKANA") and "SOUND MARK" not in name.replace("PROLONGED SOUND", "")
    return wide if is_letter and name != "HALFWIDTH KATAKANA MIDDLE DOT" else char


@pytest.mark.parametrize("row", NOTES["text_normalization"], ids=lambda row: row["lang"])
def test_every_text_of_the_golden_is_normalised_as_upstream_does(row: dict[str, str]) -> None:
    assert normalized(row["text"], row["lang"]) == row["out"]


def test_every_character_becomes_what_its_name_says() -> None:
    chars = [chr(code) for code in range(0x10000) if not 0xD800 <= code < 0xE000]
    assert [char for char in chars if normalized(char, "ja") != plain(char)] == []
    assert sum(plain(char) != char for char in chars) == len(REMOVED) + 1 + len(OTHERS) + 62 + 56


@given(st.lists(st.sampled_from(["a", "ｱ", "ﾞ", "～", " ", "—", "[", "]", "ｎ", "日", "♥", "。"])).map("".join))
def test_a_text_is_normalised_character_by_character(text: str) -> None:
    assert normalized(text, "ja") == "".join(map(plain, text))


@given(st.lists(st.sampled_from(["…", "……", "a", "。"])).map("".join))
def test_of_many_ellipses_two_are_left(text: str) -> None:
    words = normalized(text, "ja")
    assert "………" not in words
    assert [run for run in words.split("…") if run] == [run for run in text.split("…") if run]
    assert text != words or "………" not in text


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a[n]b", "ab"),
        ("a[\tn]b", "ab"),
        ("a[ n]b", "a[n]b"),
        ("[[n]n]", "[n]"),
        ("ﾀﾞ", "タﾞ"),
        ("A b", "Ab"),
        ("é", "é"),
    ],
)
def test_marks_of_line_breaks_go_before_spaces_do(text: str, words: str) -> None:
    assert normalized(text, "ja-JP") == words


@pytest.mark.parametrize("name", ["en", "zh", "other", "fr"])
def test_other_languages_stay_as_they_are(name: str) -> None:
    assert normalized(" a b！～…………♥", name) == " a b！～…………♥"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("これは音声", "ja"),
        ("漢字とカナ", "ja"),
        ("ー", "ja"),
        ("今天天气", "zh"),
        ("Bonjour tout le monde", "en"),
        ("Привет", "en"),
        ("123", "en"),
        ("  \n", "other"),
        ("", "other"),
    ],
)
def test_without_a_package_the_writing_says_the_language(text: str, expected: str) -> None:
    assert detect(text) == expected


@pytest.mark.parametrize(
    ("found", "text", "expected"),
    [
        ("ja", "今天", "ja"),
        ("zh-cn", "abc", "zh"),
        ("zh-tw", "abc", "zh"),
        ("yue", "abc", "zh"),
        ("en", "これ", "en"),
        ("fr", "Bonjour", "en"),
        ("ko", "これ", "ja"),
        (None, "今天", "zh"),
        ("ja", "  ", "other"),
    ],
)
def test_a_package_is_believed_where_it_names_one_of_the_three(found: str | None, text: str, expected: str) -> None:
    assert detect(text, lambda _: found) == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("JA-jp", "ja"),
        ("zh-Hant", "zh"),
        ("yue", "zh"),
        ("YUE", "zh"),
        ("yue-HK", "yue-hk"),
        ("EN", "en"),
        ("Fr", "fr"),
    ],
)
def test_names_of_languages_are_those_of_the_estimate(name: str, expected: str) -> None:
    assert canonical(name) == expected


@pytest.fixture
def no_package(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """langdetect is not installed, whatever there is."""
    monkeypatch.setitem(sys.modules, "langdetect", None)
    langdetect.cache_clear()
    yield
    langdetect.cache_clear()


@pytest.fixture
def tokens() -> Tokenizer:
    return Tokenizer(FIXTURES / "t5gemma" / "text_tokenizer" / "tokenizer.json")


@pytest.fixture
def words(tokens: Tokenizer) -> Words:
    return Words(tokens)


def stand_in() -> ModuleType:
    """A langdetect that says `fr` of text with letters, and refuses any other as the package does."""

    class LangDetectException(Exception):  # noqa: N818 - the package's name
        pass

    class DetectorFactory:
        seed: int | None = None

    def of(text: str) -> str:
        if not text.isalpha():
            raise LangDetectException
        return {"oui": "fr", "ja": "ja"}[text] if DetectorFactory.seed == 0 else "random"

    module = ModuleType("langdetect")
    vars(module).update(LangDetectException=LangDetectException, DetectorFactory=DetectorFactory, detect=of)
    return module


def test_the_package_is_used_where_it_is_installed(no_package: None, monkeypatch: pytest.MonkeyPatch) -> None:
    assert langdetect() is None
    langdetect.cache_clear()
    monkeypatch.setitem(sys.modules, "langdetect", stand_in())
    package = langdetect()
    assert package is not None
    assert [package(text) for text in ("oui", "123", "ja")] == ["fr", None, "ja"]
    assert [detect(text, package) for text in ("oui", "今3", "ja")] == ["en", "zh", "ja"]


def test_a_text_is_read_in_the_language_that_is_named_or_found(no_package: None, words: Words) -> None:
    text = words.read("ａ b です")
    assert (text.language, text.words) == ("ja", "abです")
    assert text.ids == words.read("abです", "JA-jp").ids
    for name in (None, "", "auto", "none", "NULL"):
        assert words.read("ａ b です", name) == text
    english = words.read("ａ b です", "En")
    assert (english.language, english.words) == ("en", "ａ b です")
    assert words.read("  a b ", "en").ids == words.read("a b", "en").ids
    assert words.read("  a b ", "en").words == "  a b "  # whose length is estimated, as upstream has it


def test_what_the_tokenizer_gets_is_normalised_twice_as_upstream_does(no_package: None, words: Words) -> None:
    text = words.read("か[ n]a", "ja")
    assert text.words == "か[n]a"
    assert text.ids == words.read("かa", "ja").ids


@pytest.mark.parametrize(("text", "name"), [("", None), (" \n ", None), (" ", "ja"), ("♀ ― ①", "ja"), ("[ n]", "ja")])
def test_a_text_of_which_nothing_is_left_is_refused(
    no_package: None, words: Words, text: str, name: str | None
) -> None:
    with pytest.raises(ValueError, match=r"^the text is empty; give at least one word$"):
        words.read(text, name)


def test_a_package_may_be_left_out(monkeypatch: pytest.MonkeyPatch, tokens: Tokenizer) -> None:
    monkeypatch.setattr(language, "langdetect", lambda: lambda _: "zh")
    assert Words(tokens).read("abc").language == "zh"
    assert Words(tokens, package=False).read("abc").language == "en"
