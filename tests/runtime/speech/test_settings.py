"""Settings: read, checked and refused in one form."""

from typing import Any

import pytest

from voxport.speech.settings import Setting, parse
from voxport.systems.qwen3tts.request import SCHEMA as QWEN3TTS
from voxport.systems.vyvo.request import SCHEMA as VYVO

SCHEMA = {
    "count": Setting(3, 1, 9),
    "share": Setting(0.5, most=1, layers={"clone": 0.25, "old": 0.75}),
    "way": Setting("slow", choices=("slow", "fast"), note=" (or none)"),
    "loud": Setting(False),
    "copies": Setting(1, most=9, choices=("max",), note=" (of it)"),
    "codes": Setting("1", pattern=r"\d(,\d)*", note="codes, such as 1,2"),
    "of_model": Setting(0, from_checkpoint=True),
}
OTHERS = {"copies": 1, "codes": "1"}


def read(**options: Any) -> dict[str, Any]:
    return parse(SCHEMA, {"of_model": 5}, options)


def test_defaults_come_from_the_options_the_manifest_the_layers_and_the_schema_in_this_order() -> None:
    assert read() == {"count": 3, "share": 0.5, "way": "slow", "loud": False, "of_model": 5} | OTHERS
    assert parse(SCHEMA, {}, {}, ["old", "clone"])["share"] == 0.25
    assert parse(SCHEMA, {}, {}, ["clone", "old"])["share"] == 0.75
    assert parse(SCHEMA, {"share": 0.1}, {}, ["clone"])["share"] == 0.1
    assert parse(SCHEMA, {"share": 0.1}, {"share": 1}, ["clone"])["share"] == 1


def test_text_is_read_as_the_type_of_the_default() -> None:
    settings = read(count="4", share="1", loud="TRUE", way="fast")
    assert settings == {"count": 4, "share": 1.0, "way": "fast", "loud": True, "of_model": 5} | OTHERS
    assert type(settings["share"]) is float
    assert read(count=4.0)["count"] == 4


def test_a_number_may_be_one_of_some_words_and_a_text_what_a_pattern_says() -> None:
    assert [read(copies=value)["copies"] for value in ("max", "3", 0)] == ["max", 3, 0]
    assert [read(codes=value)["codes"] for value in ("2,3", 4)] == ["2,3", "4"]


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("count", 0, "setting count: wanted a whole number from 1 to 9, got 0"),
        ("count", "10", "setting count: wanted a whole number from 1 to 9, got '10'"),
        ("count", 1.5, "setting count: wanted a whole number from 1 to 9, got 1.5"),
        ("count", True, "setting count: wanted a whole number from 1 to 9, got True"),
        ("count", float("nan"), "setting count: wanted a whole number from 1 to 9, got nan"),
        ("count", 10**400, "setting count: wanted a whole number from 1 to 9, got a number of more than 40 digits"),
        ("count", "9" * 9999, f"setting count: wanted a whole number from 1 to 9, got '{'9' * 39}..."),
        ("share", "inf", "setting share: wanted a number from 0 to 1, got 'inf'"),
        ("share", float("nan"), "setting share: wanted a number from 0 to 1, got nan"),
        ("share", 10**400, "setting share: wanted a number from 0 to 1, got a number of more than 40 digits"),
        ("way", "x", "setting way: wanted one of slow, fast (or none), got 'x'"),
        ("copies", "many", "setting copies: wanted a whole number from 0 to 9 or max (of it), got 'many'"),
        ("copies", 10, "setting copies: wanted a whole number from 0 to 9 or max (of it), got 10"),
        ("codes", "1,,2", "setting codes: wanted codes, such as 1,2, got '1,,2'"),
        ("codes", "1,2\n", "setting codes: wanted codes, such as 1,2, got '1,2\\n'"),
        ("loud", "maybe", "setting loud: wanted true or false, got 'maybe'"),
        ("colour", 1, "unknown setting 'colour'; known are codes, copies, count, loud, of_model, share, way"),
    ],
)
def test_a_value_that_cannot_be_is_refused_in_one_line(name: str, value: Any, message: str) -> None:
    with pytest.raises(ValueError) as refused:
        read(**{name: value})
    assert str(refused.value) == message


def test_a_number_that_python_refuses_to_print_is_refused_in_the_same_words() -> None:
    with pytest.raises(ValueError, match=r"^setting count: wanted .*, got a number of more than 40 digits$"):
        read(count=10**9999)


def test_a_setting_of_the_checkpoint_is_unknown_where_the_manifest_has_none() -> None:
    assert "of_model" not in parse(SCHEMA, {}, {})
    with pytest.raises(
        ValueError, match="unknown setting 'of_model'; known are codes, copies, count, loud, share, way"
    ):
        parse(SCHEMA, {}, {"of_model": 1})


def test_a_manifest_with_settings_of_nobody_is_refused() -> None:
    with pytest.raises(ValueError, match=r"manifest.json: sampling: unknown setting 'colour'; export"):
        parse(SCHEMA, {"colour": 1}, {})


def test_both_speakers_refuse_the_same_values_with_the_same_words() -> None:
    common = VYVO.keys() & QWEN3TTS.keys()
    assert {"temperature", "top_k", "max_new_tokens", "split_pause", "retries", "runaway_seconds"} <= common

    def message(setting: Setting, name: str, value: Any) -> str:
        with pytest.raises(ValueError) as refused:
            setting.parse(name, value)
        return str(refused.value)

    for name in common - {"codec_schedule"}:
        for value in ("x", "-1", "inf", "9" * 400):
            assert message(VYVO[name], name, value) == message(QWEN3TTS[name], name, value)
