"""How long T5Gemma-TTS thinks that a text takes, with packages that count its sounds and without."""

# ruff: noqa: RUF001 - marks of Chinese and Japanese are what this is about

import json
import sys
from collections.abc import Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.bundles import FIXTURES

from voxport.systems.t5gemma.duration import Recording, counters, estimate, pauses

NOTES = json.loads((FIXTURES / "t5gemma" / "golden.json").read_text())
PACKAGES = ("g2p_en", "pyopenjtalk", "pypinyin")
LANGUAGES = st.sampled_from(["en", "ja", "zh", "fr", "other"])
TEXTS = st.lists(
    st.sampled_from(["a", "bcd", " ", ",", "、", ".", "。", "！", "?", "：", "；", ":", "…", "...", "—", "--"])
)


@pytest.fixture
def packages(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """None of the packages is installed, whatever there is; a test may put stand-ins into sys.modules."""
    for name in PACKAGES:
        monkeypatch.setitem(sys.modules, name, None)
    counters.cache_clear()
    yield monkeypatch
    counters.cache_clear()


def module(name: str, **contents: Any) -> ModuleType:
    stand_in = ModuleType(name)
    vars(stand_in).update(contents)
    return stand_in


@pytest.mark.parametrize("row", NOTES["duration_estimator_without_g2p_packages"], ids=lambda row: row["text"][:12])
def test_every_estimate_of_the_golden_is_upstreams_to_the_last_bit(row: dict[str, Any]) -> None:
    assert estimate(row["text"], row["lang"]) == row["seconds"]


@given(TEXTS.map("".join))
def test_pauses_are_counted_mark_by_mark(text: str) -> None:
    stripped = text.strip()
    major = sum(stripped.count(mark) for mark in ".!?。！？") - stripped.endswith((*".!?。！？",))
    minor = sum(stripped.count(mark) for mark in "、，,;；:")  # no full-width colon
    others = 1.0 * (stripped.count("…") + stripped.count("...")) + 0.12 * (stripped.count("—") + stripped.count("--"))
    assert pauses(text) == pytest.approx(min(10.0, 0.4 * major + 0.2 * minor + others))


@given(TEXTS.map("".join), LANGUAGES, st.none() | st.floats(0, 1e6), st.text(max_size=5))
def test_an_estimate_is_never_shorter_nor_longer_than_upstreams(
    text: str, language: str, seconds: float | None, transcript: str
) -> None:
    for recording in (None, Recording(transcript, seconds)):
        assert 0.5 <= estimate(text, language, recording) <= 120


@given(st.text("abc", max_size=200), LANGUAGES)
def test_without_marks_and_packages_each_character_takes_its_time(text: str, language: str) -> None:
    each = {"en": 0.085, "ja": 0.1, "zh": 0.27}.get(language, 0.11)
    expected = max(0.5, max(1, len(text)) * each)
    assert estimate(text, language) == pytest.approx(expected)
    assert estimate(text, language, Recording("", None)) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("language", "least", "most"), [("en", 0.06, 0.12), ("ja", 0.07, 0.15), ("zh", 0.18, 0.36), ("fr", 0.07, 0.18)]
)
def test_a_recording_sets_the_pace_within_bounds(language: str, least: float, most: float) -> None:
    text, middle = "abcdefghij" * 4, (least + most) / 2
    for seconds, each in ((0.001, least), (10 * middle, middle), (1e5, most)):
        assert estimate(text, language, Recording("x" * 10, seconds)) == pytest.approx(40 * each)


def test_a_recording_without_a_transcript_is_taken_to_say_the_text() -> None:
    assert estimate("abcdefghij", "en", Recording("", 1.0)) == pytest.approx(1.0)


def test_beside_a_recording_pauses_count_less_also_where_its_pace_is_not_known() -> None:
    text = "one, two. " * 5 + "three"
    letters = 0.085 * len(text)
    assert estimate(text, "en") == pytest.approx(letters + 3.0)
    assert estimate(text, "en", Recording("x", None)) == pytest.approx(letters + 0.9)


def test_counts_take_the_place_of_characters_in_text_and_transcript() -> None:
    counts = {"en": lambda text: 2 * len(text)}
    assert estimate("a" * 20, "en", None, counts) == pytest.approx(40 * 0.085)
    assert estimate("a" * 20, "en", Recording("b" * 10, 2.0), counts) == pytest.approx(40 * 0.1)
    assert estimate("a" * 20, "fr", None, counts) == pytest.approx(20 * 0.11)
    assert estimate("a" * 20, "en", Recording("b", 0.1), {"en": lambda _: 0}) == 0.5  # at least one sound


def test_without_packages_there_are_no_counters(packages: pytest.MonkeyPatch) -> None:
    assert counters() == {}


def test_one_package_is_enough_for_its_language(packages: pytest.MonkeyPatch) -> None:
    packages.setitem(sys.modules, "pyopenjtalk", module("pyopenjtalk", g2p=lambda text: "pau k o  N sil " + text))
    assert counters().keys() == {"ja"}
    assert counters()["ja"]("a") == 4


def test_english_counts_phonemes_and_loads_its_model_once(packages: pytest.MonkeyPatch) -> None:
    loaded = []

    class G2p:
        def __init__(self) -> None:
            loaded.append(self)

        def __call__(self, text: str) -> list[str]:
            return ["HH", "AY1", " ", ",", "", "<pad>", "<s>", "</s>", "<unk>", *text]

    packages.setitem(sys.modules, "g2p_en", module("g2p_en", G2p=G2p))
    count = counters()["en"]
    assert loaded == []
    assert (count("xy"), count("")) == (5, 3)
    assert len(loaded) == 1


def test_english_without_nltks_data_is_counted_as_without_the_package(packages: pytest.MonkeyPatch) -> None:
    def missing() -> None:
        raise LookupError("Resource averaged_perceptron_tagger_eng not found.")

    packages.setitem(sys.modules, "g2p_en", module("g2p_en", G2p=missing))
    assert counters()["en"]("Hello") == 5


def test_chinese_counts_syllables_and_no_marks(packages: pytest.MonkeyPatch) -> None:
    def lazy_pinyin(text: str, style: str, neutral_tone_with_five: bool) -> list[str]:
        assert (style, neutral_tone_with_five) == ("normal", True)
        return ["jin", "tian", "。", "", "12", "a5"]

    pypinyin = module("pypinyin", Style=SimpleNamespace(NORMAL="normal"), lazy_pinyin=lazy_pinyin)
    packages.setitem(sys.modules, "pypinyin", pypinyin)
    assert counters()["zh"]("any") == 3
