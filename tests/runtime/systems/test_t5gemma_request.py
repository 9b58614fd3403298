"""Settings of T5Gemma-TTS: upstream's names and defaults, and refusals in one line."""

from typing import Any

import pytest

from voxport.systems.t5gemma.request import SCHEMA, Request, request

STORED = {"extra_cutoff": 0.4}


def ask(greedy: bool = False, stream: bool = True, **options: Any) -> Request:
    return request(STORED, options, 7, greedy, stream)


def test_defaults_are_those_of_upstreams_command_line() -> None:
    settings = ask().settings
    upstream = {"top_k": 30, "top_p": 0.9, "min_p": 0.0, "temperature": 0.8, "stop_repetition": 3, "repeat_prompt": 0}
    assert {name: settings[name] for name in upstream} == upstream
    assert settings["extra_cutoff"] == 0.4
    assert (ask().silence, ask().target_duration, ask().seed) == ((), None, 7)


def test_the_cutoff_is_the_checkpoints() -> None:
    with pytest.raises(ValueError, match="unknown setting 'extra_cutoff'"):
        request({}, {"extra_cutoff": 1.0}, 0, False, True)


@pytest.mark.parametrize(
    ("value", "codes"),
    [
        ("[]", ()),
        ("", ()),
        ("[79]", (79,)),
        ("79", (79,)),
        (79, (79,)),
        ("[79, 80]", (79, 80)),
        ("79,80", (79, 80)),
        (" 1 , 2 ", (1, 2)),
        ([3, 4], (3, 4)),
    ],
)
def test_silence_is_a_list_of_codes_in_any_writing(value: Any, codes: tuple[int, ...]) -> None:
    assert ask(silence_tokens=value).silence == codes


@pytest.mark.parametrize(("value", "copies"), [(0, 0), ("3", 3), (2, 2), ("max", None)])
def test_a_recording_is_repeated_so_often_or_as_often_as_it_fits(value: Any, copies: int | None) -> None:
    assert ask(repeat_prompt=value).repeat == copies


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("target_duration", 0, "wanted a number from 0.02 to 120 seconds (left out: estimated from the text), got 0"),
        ("target_duration", "-1.5", "got '-1.5'"),
        ("target_duration", 120.5, "got 120.5"),
        ("target_duration", "nan", "got 'nan'"),
        ("target_duration", "inf", "got 'inf'"),
        ("silence_tokens", "silence", "wanted codes, such as [79, 80], got 'silence'"),
        ("silence_tokens", "[1, -2]", "wanted codes, such as [79, 80]"),
        ("silence_tokens", "9" * 5000, "wanted codes, such as [79, 80]"),
        ("repeat_prompt", "most", "wanted a whole number from 0 to 1000 or max, got 'most'"),
        ("repeat_prompt", -1, "wanted a whole number from 0 to 1000 or max, got -1"),
        ("min_p", 1.5, "wanted a number from 0 to 1 (0 is none; with one top_k and top_p do nothing), got 1.5"),
        ("temperature", 0, "wanted a number from 1e-09 to 1e+09 (for the best token every time use --greedy), got 0"),
        ("extra_cutoff", "x", "wanted a number from 0 to 1e+09, got 'x'"),
    ],
)
def test_a_value_that_cannot_be_is_one_line(name: str, value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"^setting {name}: ") as refused:
        ask(**{name: value})
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match="unknown setting 'speed'; known are batch_size, ") as refused:
        ask(speed=1)
    assert all(name in str(refused.value) for name in SCHEMA)


def test_a_text_stays_whole_where_its_length_its_tokens_or_the_best_of_each_is_asked_for() -> None:
    assert ask().split_letters == 200
    assert ask(split_letters=50).split_letters == 50
    whole = [ask(greedy=True), ask(max_new_tokens=20), ask(target_duration=2)]
    assert [r.split_letters for r in whole] == [0, 0, 0]
    assert [r.limited for r in whole] == [False, True, False]
    assert [r.target_duration for r in whole] == [None, None, 2.0]


def test_what_is_not_streamed_is_decoded_at_once_unless_it_is_not_to_be() -> None:
    assert ask().settings["schedule"] == "chunks"
    assert ask(stream=False).settings["schedule"] == "whole"
    assert ask(stream=False, schedule="chunks").settings["schedule"] == "chunks"
