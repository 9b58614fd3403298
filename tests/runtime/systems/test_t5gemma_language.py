"""T5Gemma-TTS: a text has one language, however it is cut, and the same on every machine where no package is asked."""

from typing import Any

import pytest

from voxport.systems.t5gemma import duration, language
from voxport.systems.t5gemma.prompt import Prompt
from voxport.systems.t5gemma.request import Request
from voxport.systems.t5gemma.speaker import Speaker
from voxport.systems.t5gemma.voice import Voice

TEXT = "東京都千代田区。これは音声合成のテストです。"  # whose first sentence has no kana


@pytest.fixture
def prompts(t5gemma: Speaker, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str | None]]:
    """The texts that are read, and the languages they are read in."""
    monkeypatch.setattr(language, "langdetect", lambda: None)
    calls: list[tuple[str, str | None]] = []
    prompt = t5gemma.prompt

    def recording(text: str, speaker: Voice | None, name: str | None, plan: Request) -> Prompt:
        calls.append((text, name))
        return prompt(text, speaker, name, plan)

    monkeypatch.setattr(t5gemma, "prompt", recording)
    return calls


@pytest.mark.parametrize(("name", "expected"), [(None, "ja"), ("auto", "ja"), ("ZH", "zh")])
def test_every_piece_is_read_in_the_language_of_the_whole(
    t5gemma: Speaker, prompts: list[tuple[str, str | None]], name: str | None, expected: str
) -> None:
    t5gemma.say(TEXT, language=name, split_letters=40, g2p=False)
    assert prompts == [("東京都千代田区。", expected), ("これは音声合成のテストです。", expected)]


def test_packages_are_asked_where_they_may_be(t5gemma: Speaker, monkeypatch: pytest.MonkeyPatch) -> None:
    def total(**settings: Any) -> int:
        return t5gemma.prompt("Hello there, friend.", None, None, t5gemma.request(settings)).target_total

    monkeypatch.setattr(language, "langdetect", lambda: lambda _: "zh-cn")
    monkeypatch.setattr("voxport.systems.t5gemma.speaker.counters", lambda: {"zh": lambda _: 7, "en": len})
    pause = 0.2
    assert total(g2p=False) == int(50 * (20 * duration.PACES["en"].default + pause))
    assert total() == int(50 * (7 * duration.PACES["zh"].default + pause))
