"""Text on its way to a language model: ids, padded batches, and long text in pieces that a model can say in one go."""

import re
from itertools import pairwise
from pathlib import Path

from tokenizers import Regex, pre_tokenizers
from tokenizers import Tokenizer as Tokens

# Where a sentence ends: after a mark and what closes with it, before white space (none needed in Chinese and Japanese);
# not after an initial or a title. Where a clause ends, for sentences that are too long.
_SENTENCE = re.compile(
    r"(?<!\b[A-Z])(?<!\bMr)(?<!\bMs)(?<!\bDr)(?<!\bSt)(?<!\bMrs)(?<!\bProf)[.!?…]+[\"'”’)\]]*(?=\s)"  # noqa: RUF001
    r"|[。！？]+[」』”]*|\n+"  # noqa: RUF001
)
_CLAUSE = re.compile(r"[,;:–—]+(?=\s)|[、，；：]+")  # noqa: RUF001
_SPACE = re.compile(r"\s+")


class Tokenizer:
    """A tokenizer.json, with the ids it puts around a text (LFM2 and Llama put BOS before it, Qwen nothing)."""

    def __init__(self, path: Path, split: str | None = None) -> None:
        """`split`: a pattern that cuts text into words, in place of the file's (byte-level tokenizers).

        ValueError when the file is missing or is not a tokenizer.
        """
        if not path.is_file():
            raise ValueError(f"{path}: no such tokenizer; export the bundle again")
        try:
            self._tokens = Tokens.from_file(str(path))
        except Exception as error:  # the tokenizers package raises plain Exception
            raise ValueError(f"{path}: not a tokenizer.json: {str(error).splitlines()[0]}") from None
        if split is not None:
            words = pre_tokenizers.Split(Regex(split), "isolated")
            into_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
            self._tokens.pre_tokenizer = pre_tokenizers.Sequence([words, into_bytes])

    def ids(self, text: str) -> list[int]:
        """The ids of a text. ValueError for text that is empty or all white space."""
        if not text.strip():
            raise ValueError("the text is empty; give at least one word")
        return self.encode(text)

    def encode(self, text: str, special: bool = True) -> list[int]:
        """The ids of any text. `special`: the names of special tokens in it become these tokens; else plain text."""
        self._tokens.encode_special_tokens = not special
        ids: list[int] = self._tokens.encode(text).ids
        return ids


def weight(text: str) -> int:
    """How long a text takes to say, in letters of an alphabet: a syllable sign or a digit counts as three."""
    return sum(3 if char.isdigit() or char >= "\u2e80" else 1 for char in text)


def pieces(text: str, most: int) -> list[str]:
    """The text in pieces of at most `most` letters (`weight`), cut after sentences.

    A sentence that is too long is cut after clauses, then between words; a word is never cut. 0: the text as it is.
    """
    if not most or weight(text) <= most:
        return [text]
    return _packed(text, most, (_SENTENCE, _CLAUSE, _SPACE))


def _packed(text: str, most: int, cuts: tuple[re.Pattern[str], ...]) -> list[str]:
    parts = []
    for part in _cut(text, cuts[0]):
        if weight(part) > most and len(cuts) > 1:
            parts += _packed(part, most, cuts[1:])
        else:
            parts.append(part)
    packed: list[str] = []
    for part in parts:
        if packed and weight(packed[-1]) + 1 + weight(part) <= most:
            packed[-1] += part if part[0] >= "\u2e80" else f" {part}"
        else:
            packed.append(part)
    return packed


def _cut(text: str, at: re.Pattern[str]) -> list[str]:
    ends = [0, *(match.end() for match in at.finditer(text)), len(text)]
    parts = (text[a:b].strip() for a, b in pairwise(ends))
    return [part for part in parts if part]
