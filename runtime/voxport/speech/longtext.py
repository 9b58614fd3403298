"""Long text: said in pieces that a model can say in one go, with pauses between them and further tries of a piece.

Every piece has draws of its own, and so has every try of it: see `address`.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from voxport.speech.limits import END, Limit
from voxport.speech.settings import Schema, Setting
from voxport.speech.speech import Ended, Event, Events, Samples

SETTINGS: Schema = {
    "split_letters": Setting(400),  # spoken_letters of a piece; 0: text is never split
    "split_pause": Setting(0.2, most=60),  # seconds of silence between two pieces
    "retries": Setting(2, most=1000),  # further tries of a piece that was cut, where nobody has heard it yet
}
SHOWN = 24  # characters of a piece that a warning repeats

# Where a sentence ends: after a mark and what closes with it, before white space (none needed in Chinese and Japanese);
# not after an initial or a title. Where a clause ends, for sentences that are too long.
_SENTENCE = re.compile(
    r"(?<!\b[A-Z])(?<!\bMr)(?<!\bMs)(?<!\bDr)(?<!\bSt)(?<!\bMrs)(?<!\bProf)[.!?…]+[\"'”’)\]]*(?=\s)"  # noqa: RUF001
    r"|[。！？]+[」』”]*|\n+"  # noqa: RUF001
)
_CLAUSE = re.compile(r"[,;:–—]+(?=\s)|[、，；：]+")  # noqa: RUF001
_SPACE = re.compile(r"\s+")


@dataclass(frozen=True)
class Piece:
    """Piece `index` of the `count` that a text is said in."""

    text: str
    index: int = 0
    count: int = 1

    def cut(self, limit: Limit) -> str:
        """A warning that its speech was cut."""
        shown = self.text if len(self.text) <= SHOWN else f"{self.text[:SHOWN]}..."
        place = f", in piece {self.index + 1} of {self.count}, {shown!r}" if self.count > 1 else ""
        return f"the model did not end: its speech was cut after {limit.tokens} tokens ({limit.why}){place}"


def split(text: str, most: int) -> list[Piece]:
    """The text as `pieces` splits it."""
    texts = pieces(text, most)
    return [Piece(piece, index, len(texts)) for index, piece in enumerate(texts)]


def address(stream: str, piece: int, attempt: int = 0) -> str:
    """The name of the draws (voxport.draws) of one try of a piece."""
    return f"{stream}.{piece}" + (f".again{attempt}" if attempt else "")


def in_pieces(pieces: Sequence[Piece], pause: int, events: Callable[[Piece], Events]) -> Events:
    """The events of every piece, with `pause` samples of silence between two."""
    for piece in pieces:
        if piece.index:
            yield Samples(np.zeros(pause, np.float32))
        yield from events(piece)


def retried(tries: int, generate: Callable[[int], Events]) -> Events:
    """The events of `generate(attempt)`; of several tries, only those of the first that the model ended by itself.

    If none did, those of the last, as they come.
    """
    for attempt in range(tries - 1):
        events: list[Event] = []
        for event in generate(attempt):
            events.append(event)
            yield Samples(np.empty(0, np.float32))
        if Ended(END) in events:
            yield from events
            return
    yield from generate(tries - 1)


def spoken_letters(text: str) -> int:
    """How long a text takes to say, in letters of an alphabet: a syllable sign or a digit counts as three."""
    return sum(3 if char.isdigit() or char >= "\u2e80" else 1 for char in text)


def pieces(text: str, most: int) -> list[str]:
    """The text in pieces of at most `most` letters (`spoken_letters`), cut after sentences.

    A sentence that is too long is cut after clauses, then between words; a word is never cut. 0: the text as it is.
    """
    if not most or spoken_letters(text) <= most:
        return [text]
    return _packed(text, most, (_SENTENCE, _CLAUSE, _SPACE)) or [text]  # white space alone is nobody's piece


def _packed(text: str, most: int, cuts: tuple[re.Pattern[str], ...]) -> list[str]:
    parts = []
    for part in _cut(text, cuts[0]):
        if spoken_letters(part) > most and len(cuts) > 1:
            parts += _packed(part, most, cuts[1:])
        else:
            parts.append(part)
    packed: list[str] = []
    for part in parts:
        if packed and spoken_letters(packed[-1]) + 1 + spoken_letters(part) <= most:
            packed[-1] += part if part[0] >= "\u2e80" else f" {part}"
        else:
            packed.append(part)
    return packed


def _cut(text: str, at: re.Pattern[str]) -> list[str]:
    ends = [0, *(match.end() for match in at.finditer(text)), len(text)]
    parts = (text[a:b].strip() for a, b in pairwise(ends))
    return [part for part in parts if part]
