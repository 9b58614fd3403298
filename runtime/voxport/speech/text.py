"""Text to the ids of a language model."""

import threading
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path

from tokenizers import Regex, pre_tokenizers
from tokenizers import Tokenizer as Tokens


class Tokenizer:
    """A tokenizer.json, with the ids it puts around a text (LFM2 and Llama put BOS before it, Qwen nothing).

    Any number of threads may use it.
    """

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
        self._lock = threading.Lock()  # whether special tokens are parsed is a flag of the tokenizer, not of a call

    def ids(self, text: str) -> list[int]:
        """The ids of a text. ValueError for text that is empty or all white space."""
        if not text.strip():
            raise ValueError("the text is empty; give at least one word")
        return self.encode(text)

    def encode(self, text: str, special: bool = True) -> list[int]:
        """The ids of any text. `special`: the names of special tokens in it become these tokens; else plain text."""
        with self._lock:
            self._tokens.encode_special_tokens = not special
            ids: list[int] = self._tokens.encode(text).ids
        return ids


def settled(pieces: Iterable[str]) -> Iterator[str]:
    """Text that comes in any pieces, cut where whatever comes later changes no id before: at the end of a word.

    A space or a mark after a letter or a digit begins a new word in either way of splitting; what follows it decides
    which, so the cut is before it. Of white space alone nothing is left.
    """
    pending, begun = "", False
    for piece in pieces:
        pending += piece
        kinds = [unicodedata.category(char)[0] for char in pending]
        cuts = (i for i in range(len(pending) - 1, 0, -1) if kinds[i - 1] in "LN" and kinds[i] in "ZPS")
        cut = next(cuts, 0)
        if cut:
            yield pending[:cut]
            pending, begun = pending[cut:], True
    if pending and (begun or pending.strip()):
        yield pending
