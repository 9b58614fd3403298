"""VyvoTTS: how generated ids are read, and which settings and voices are refused."""

import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest

from voxport.bundle import Bundle
from voxport.systems.vyvo.format import Dialect
from voxport.systems.vyvo.request import SCHEMA
from voxport.systems.vyvo.speaker import Speaker
from voxport.systems.vyvo.voice import Voice

Array = np.ndarray
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def test_generations_are_read_as_the_dialects_read_them(vyvo: Speaker) -> None:
    form = vyvo.format
    frame = [410 + p * 4096 + p for p in range(7)]
    want = [[0, 1, 2, 3, 4, 5, 6]]

    def read(ids: list[int], dialect: Dialect, strict: bool = True, clone: bool = False) -> list[list[int]]:
        values: list[list[int]] = form.parse_generation(np.array(ids), clone, dialect, strict).tolist()
        return values

    assert read([405, 401, *frame, 402], "current") == want
    assert read([401, 5, 401, *frame, 402, 9, 9], "current") == want  # the last start, the first end after it
    assert read([401, *frame, frame[0]], "current", strict=False) == want
    assert read([401, *frame[:3], 402, *frame[3:], 402], "classic") == want  # ends are taken out
    assert read([*frame, *frame[:2], 402], "classic", clone=True) == want
    for ids, why in (
        ([405, *frame, 402], "did not begin"),
        ([401, *frame], "did not end"),
        ([401, *frame[:6], 402], "not whole frames"),
        ([401, 402], "less than one frame"),
        ([401, *frame[:6], 99, 402], "speech id 6 is out of place"),
    ):
        with pytest.raises(ValueError, match=why):
            read(ids, "current")


@pytest.mark.parametrize(
    ("name", "value", "range_"),
    [
        ("runaway_seconds", "inf", "a number from 0 to 1e+09"),
        ("runaway_seconds_per_letter", "1e308", "a number from 0 to 1e+09"),
        ("runaway_seconds", "nan", "a number from 0 to 1e+09"),
        ("split_pause", "inf", "a number from 0 to 60"),
        ("fade_out", "inf", "a number from 0 to 1e+09"),
        ("fade_out", "-0.1", "a number from 0 to 1e+09"),
        ("min_audio_frames", "-1", "a whole number from 0 to 1e+09"),
    ],
)
def test_a_setting_that_cannot_be_is_named(name: str, value: str, range_: str, vyvo: Speaker) -> None:
    with pytest.raises(ValueError, match=rf"^setting {name}: wanted {re.escape(range_)}, got '{value}'$"):
        vyvo.say("Hi.", **{name: value})  # type: ignore[arg-type]


def test_a_number_of_400_digits_is_refused_in_one_line(vyvo: Speaker) -> None:
    for name, setting in SCHEMA.items():
        if type(setting.default) is int:
            for value in ("9" * 400, 10**400, 10**5000):
                with pytest.raises(ValueError, match=rf"^setting {name}: wanted a whole number .*, got .{{1,50}}$"):
                    vyvo.say("Hi.", **{name: value})  # type: ignore[arg-type]


def test_any_name_is_accepted_and_an_unknown_one_is_said(vyvo: Speaker) -> None:
    with pytest.warns(UserWarning, match=r"'zoe' is not known.*EN_B00000_S00110"):
        speech = vyvo.say("Hi.", voice="zoe", max_new_tokens=16)
    assert "zoe" in speech.warnings[0]
    assert vyvo.say("Hi.", voice="EN_B00000_S00010", max_new_tokens=16).warnings == []
    named = vyvo.say("Hi.", use_random_voice=True, max_new_tokens=16)
    assert named.warnings == []


def test_a_voice_is_enrolled_once_and_reused(vyvo_friend: Voice, tmp_path: Path, vyvo_copy: Path) -> None:
    vyvo_friend.save(tmp_path / "friend.safetensors")
    (vyvo_copy / "voices").mkdir()
    vyvo_friend.save(vyvo_copy / "voices" / "ann.safetensors")
    loaded = Speaker(Bundle(vyvo_copy))
    assert loaded.voices[-1] == "ann"

    def tokens(voice: str | Voice) -> list[int]:
        speech = loaded.say("Hi.", voice=voice, greedy=True)
        speech.samples()
        values: list[int] = speech.tokens.tolist()
        assert speech.warnings == []
        return values

    assert tokens(vyvo_friend) == tokens(str(tmp_path / "friend.safetensors")) == tokens("ann")


def test_a_voice_of_another_codec_is_refused(vyvo: Speaker, vyvo_friend: Voice) -> None:
    for codes in (vyvo_friend.codes + 4096, vyvo_friend.codes[:, :6]):
        with pytest.raises(ValueError, match="belongs to another codec"):
            vyvo.say("Hi.", voice=dataclasses.replace(vyvo_friend, codes=codes))
