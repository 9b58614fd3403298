"""Text to the ids of T5Gemma-TTS: language, Japanese normalisation, Gemma's tokenizer (docs/systems/t5gemma.md 2.1)."""

from dataclasses import dataclass

from voxport.speech.text import Tokenizer
from voxport.systems.t5gemma import language
from voxport.systems.t5gemma.normalize import normalized

UNNAMED = ("", "auto", "none", "null")  # the last two are upstream's


@dataclass(frozen=True)
class Text:
    """A text as it is said: `words` are those whose length is estimated, `ids` those that the model reads.

    `language`: as the caller named it, in small letters, or as it was found.
    """

    words: str
    language: str
    ids: list[int]


class Words:
    """Reads text for one model. Any number of threads may use it."""

    def __init__(self, tokens: Tokenizer, parse_special: bool = False, package: bool = True) -> None:
        """`tokens`: puts no ids around a text. `parse_special`: names of special tokens in a text become these tokens;
        else they are plain text. `package`: langdetect is asked where it is installed."""
        self._tokens = tokens
        self._special = parse_special
        self._package = language.langdetect() if package else None

    def language_of(self, text: str, name: str | None = None) -> str:
        """`name` in small letters; None or auto: the language that the text is found to be in."""
        known = (name or "").strip().lower()
        return language.detect(text, self._package) if known in UNNAMED else known

    def read(self, text: str, name: str | None = None) -> Text:
        """A text in the language `name`; see `language_of`. ValueError in one line when nothing is left to say.

        Upstream normalises what goes to the tokenizer a second time, which takes away an `[n]` that the first brought
        together.
        """
        known = self.language_of(text, name)
        words = normalized(text, known)
        rest = normalized(words, known).strip()
        if not rest:
            raise ValueError("the text is empty; give at least one word")
        return Text(words, known, self._tokens.encode(rest, self._special))
