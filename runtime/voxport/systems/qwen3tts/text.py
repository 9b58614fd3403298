"""Text to the ids of Qwen3-TTS: its templates, and text that arrives piece by piece (docs/systems/qwen3tts.md 3.1).

Special tokens in a user's text are plain text here; upstream parses them, which `parse_special` turns on.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path

from voxport.speech.text import Tokenizer, settled
from voxport.systems.qwen3tts.prompt import Text

TARGET = "<|im_start|>assistant\n{}<|im_end|>\n<|im_start|>assistant\n"
REFERENCE = "<|im_start|>assistant\n{}<|im_end|>\n"
INSTRUCT = "<|im_start|>user\n{}<|im_end|>\n"

# How upstream splits words when it loads a local folder with fix_mistral_regex, which was not made for this tokenizer
_MARKED = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
MISTRAL = (
    r"[^\r\n\p{L}\p{N}]?%s*%s+|[^\r\n\p{L}\p{N}]?%s+%s*" % (_MARKED * 2)
    + r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


class Words:
    """One way to read text: `parse_special`, and which words it is split into."""

    def __init__(self, path: Path, parse_special: bool = False, fix_mistral_regex: bool = False) -> None:
        """`path`: tokenizer.json. ValueError when it is missing or is none."""
        self._tokens = Tokenizer(path, MISTRAL if fix_mistral_regex else None)
        self._parse = parse_special
        # Ids of a template before and after the text: the 3, 5 and 2 that upstream cuts off, for any tokenizer
        (before, after), (_, after_reference) = (template.split("{}") for template in (TARGET, REFERENCE))
        self._role, self._after, self._after_reference = (
            len(self._tokens.encode(part)) for part in (before, after, after_reference)
        )

    def target(self, text: str | Iterable[str]) -> Text:
        """What is to be said, whole or piece by piece. ValueError when it is a string with nothing to say."""
        if not isinstance(text, str) and self._parse:
            text = "".join(text)  # a special token may be cut between two pieces
        if isinstance(text, str):
            if not text.strip():
                raise ValueError("the text is empty; give at least one word")
            ids = self.ids(text)
            return Text(ids[: self._role], [ids[self._role : -self._after]])
        blocks = settled(text)
        before, _ = REFERENCE.split("{}")
        first = self._encode(before, next(blocks, ""))
        rest = (self._tokens.encode(block, False) for block in blocks)
        return Text(first[: self._role], _then(first[self._role :], rest))

    def ids(self, text: str) -> list[int]:
        """The ids of the whole template around what is to be said."""
        return self._ids(TARGET, text)

    def reference(self, text: str) -> list[int]:
        """What is said in a reference."""
        return self._ids(REFERENCE, text)[self._role : -self._after_reference]

    def instruct(self, text: str) -> list[int]:
        """How it is to be said; the template belongs to it."""
        return self._ids(INSTRUCT, text)

    def _ids(self, template: str, text: str) -> list[int]:
        if self._parse:
            return self._tokens.encode(template.format(text))
        before, after = template.split("{}")
        return self._encode(before, text) + self._tokens.encode(after)

    def _encode(self, before: str, text: str) -> list[int]:
        """The text as plain text. It is read together with the template's last words: a line break may join theirs."""
        start, marker, words = before.rpartition("|>")
        return self._tokens.encode(start + marker) + self._tokens.encode(words + text, False)


def _then(first: list[int], rest: Iterator[list[int]]) -> Iterator[list[int]]:
    yield first
    yield from rest
