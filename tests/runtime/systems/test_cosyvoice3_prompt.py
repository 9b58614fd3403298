"""Fun-CosyVoice3: the prompts of every mode (docs/systems/cosyvoice3.md 2.1)."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.bundles import FIXTURES

from voxport.speech.text import Tokenizer
from voxport.systems.cosyvoice3.prompt import END, LANGUAGES, MODES, SYSTEM, Mode, Prompt, mode_of, prompt
from voxport_exporters.systems.cosyvoice3.tokenizer import tokenizer

FIXTURE = FIXTURES / "cosyvoice3"
NOTES = json.loads((FIXTURE / "golden.json").read_text())


def characters(text: str) -> list[int]:
    """An id for every character, one for <|endofprompt|>."""
    return [ord(char) for char in text.replace(END, "\0")]


def read(*args: str | None) -> tuple[str, str, bool]:
    """A prompt as text again."""
    mode, *rest = args
    found = prompt(characters, mode, *rest)  # type: ignore[arg-type]
    texts = ("".join(map(chr, ids)).replace("\0", END) for ids in (found.prompt_text, found.text))
    return (*texts, found.speech)  # type: ignore[return-value]


def test_a_cloned_voice_has_the_goldens_ids(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_bytes(tokenizer(FIXTURE, 151936)[0])
    encode = Tokenizer(tmp_path / "tokenizer.json").encode
    system, end, transcript = NOTES["prompt_text"].partition(END)
    assert (system, end) == (SYSTEM, END)
    ids = {row["text"]: row["ids"] for row in NOTES["tokenization"]}
    expected = Prompt(ids[NOTES["prompt_text"]], ids[NOTES["tts_text"]], True)
    assert prompt(encode, "zero_shot", NOTES["tts_text"], transcript) == expected
    assert prompt(encode, "zero_shot", NOTES["tts_text"], NOTES["prompt_text"]) == expected
    foreign = prompt(encode, "cross_lingual", NOTES["tts_text"], transcript)
    assert foreign == Prompt([], ids[f"{SYSTEM}{END}"] + ids[NOTES["tts_text"]], False)


def test_every_mode_reads_what_upstream_reads() -> None:
    assert read("zero_shot", "Hi.", "Oh.", "no") == (f"{SYSTEM}{END}Oh.", "Hi.", True)
    assert read("cross_lingual", "Hi.", "Oh.") == ("", f"{SYSTEM}{END}Hi.", False)
    assert read("instruct2", "Hi.", "Oh.", "Be loud.") == (f"{SYSTEM} Be loud.{END}", "Hi.", False)
    assert read("instruct2", "Hi.", None, f"{SYSTEM} Be loud.") == (f"{SYSTEM} Be loud.{END}", "Hi.", False)


def test_a_text_in_pieces_finds_all_that_comes_before_it_in_the_prompt() -> None:
    assert read("zero_shot", None, "Oh.") == (f"{SYSTEM}{END}Oh.", "", True)
    assert read("cross_lingual", None) == (f"{SYSTEM}{END}", "", False)
    assert read("instruct2", None, None, "Be loud.") == (f"{SYSTEM} Be loud.{END}", "", False)


def test_what_holds_the_marker_is_taken_as_it_is() -> None:
    assert read("zero_shot", "Hi.", f"Be good.{END}Oh.") == (f"Be good.{END}Oh.", "Hi.", True)
    assert read("zero_shot", f"{END}Hi.", "Oh.") == ("Oh.", f"{END}Hi.", True)
    assert read("cross_lingual", f"Be good.{END}Hi.") == ("", f"Be good.{END}Hi.", False)
    assert read("instruct2", "Hi.", None, f"Be loud{END}") == (f"Be loud{END}", "Hi.", False)


def test_a_language_is_asked_for_before_the_marker() -> None:
    hint = f"{SYSTEM} Please speak in English.{END}"
    assert read("zero_shot", "Hi.", "Oh.", None, "English") == (f"{hint}Oh.", "Hi.", True)
    assert read("cross_lingual", "Hi.", None, None, "english") == ("", f"{hint}Hi.", False)
    assert (
        read("zero_shot", "Hi.", f"Be good.{END}Oh.", None, "german")[0] == f"Be good. Please speak in German.{END}Oh."
    )
    assert read("cross_lingual", f"{END}Hi.", None, None, "german")[1] == f" Please speak in German.{END}Hi."
    loud = f"{SYSTEM} Be loud. Please speak in Russian.{END}"
    assert read("instruct2", "Hi.", None, "Be loud.", "russian")[0] == loud
    assert read("zero_shot", "Hi.", "Oh.", None, "auto") == read("zero_shot", "Hi.", "Oh.")
    with pytest.raises(ValueError, match="unknown language 'klingon'; known are auto, chinese, english"):
        read("zero_shot", "Hi.", "Oh.", None, "klingon")


@given(
    st.sampled_from(MODES),
    *(st.text(st.sampled_from("ab.<|>好")) for _ in range(3)),
    st.sampled_from([None, *LANGUAGES]),
    *(st.booleans() for _ in range(3)),
)
def test_no_prompt_lacks_the_marker(
    mode: Mode, text: str, ref: str, how: str, language: str | None, own: bool, his: bool, pieces: bool
) -> None:
    ref, how = (f"x{END}{part}" if marked else part for part, marked in ((ref, own), (how, his)))
    found = prompt(characters, mode, None if pieces else text, ref, how, language)
    assert 0 in [*found.prompt_text, *found.text]
    if pieces:
        assert 0 in found.prompt_text
        assert found.text == []


def test_a_tokenizer_that_does_not_know_the_marker_is_refused() -> None:
    with pytest.raises(ValueError, match=r"the prompt holds no <\|endofprompt\|>, without which the model repeats"):
        prompt(lambda text: [ord(char) for char in text], "zero_shot", "Hi.", "Oh.")


@pytest.mark.parametrize(
    ("ref_text", "instruct", "mode", "expected"),
    [
        (None, None, "auto", "cross_lingual"),
        (" ", None, "auto", "cross_lingual"),
        ("Oh.", None, "auto", "zero_shot"),
        (None, "Be loud.", "auto", "instruct2"),
        ("Oh.", "Be loud.", "auto", "instruct2"),
        ("Oh.", None, "cross_lingual", "cross_lingual"),
        (f"{SYSTEM}{END}", None, "auto", "cross_lingual"),
        (f"{SYSTEM}{END}Oh.", None, "auto", "zero_shot"),
        (None, f"Be loud.{END}", "instruct2", "instruct2"),
    ],
)
def test_the_mode_follows_from_what_is_given(
    ref_text: str | None, instruct: str | None, mode: str, expected: str
) -> None:
    assert mode_of(ref_text, instruct, mode) == expected


@pytest.mark.parametrize(
    ("ref_text", "instruct", "mode", "words"),
    [
        (None, None, "zero_shot", "mode zero_shot needs what is said in the recording; give --ref-text"),
        (f"{SYSTEM}{END} ", None, "zero_shot", "mode zero_shot needs what is said in the recording"),
        ("Oh.", None, "instruct2", "mode instruct2 needs an instruct; give --instruct"),
        ("Oh.", " ", "auto", "the instruct is empty; say in it how to speak"),
        ("Oh.", "Be loud.", "zero_shot", "mode zero_shot hears no instruct"),
        ("Oh.", None, "sft", "unknown mode 'sft'; known are auto, zero_shot, cross_lingual, instruct2"),
    ],
)
def test_a_mode_that_cannot_be_is_refused(ref_text: str | None, instruct: str | None, mode: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        mode_of(ref_text, instruct, mode)
