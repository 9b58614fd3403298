"""How long a text will take to say: sounds times a pace, and pauses (docs/systems/t5gemma.md 2.2).

Sounds are phonemes of English and Japanese and syllables of Chinese, counted by optional packages (`counters`); without
the package of a language, as in any other language, each character counts as one, as upstream has it.
"""

import re
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache

Count = Callable[[str], int]  # a text -> its sounds

SHORTEST, LONGEST = 0.5, 120.0  # seconds of an estimate


@dataclass(frozen=True)
class Pace:
    """Seconds per sound in a language: where nothing is known, and the least and the most that a recording may set."""

    default: float
    least: float
    most: float

    def of(self, seconds: float, sounds: int) -> float:
        """The pace of a recording."""
        return max(self.least, min(self.most, seconds / sounds))


PACES = {"en": Pace(0.085, 0.06, 0.12), "ja": Pace(0.10, 0.07, 0.15), "zh": Pace(0.27, 0.18, 0.36)}
OTHER = Pace(0.11, 0.07, 0.18)

# Seconds of a pause: at a mark that ends a sentence, at one inside it, at an ellipsis, at a dash
MAJOR, MINOR, ELLIPSIS, DASH = 0.40, 0.20, 1.0, 0.12
MOST_PAUSES = 10.0
REFERENCE_PAUSES = 0.3  # the share of the pauses that counts beside a recording, whose pace holds its own

_MAJOR = re.compile("[.!?\u3002\uff01\uff1f]")
_MINOR = re.compile("[\u3001\uff0c,;\uff1b:]")
_ELLIPSIS = re.compile("\u2026|\\.\\.\\.")
_DASH = re.compile("\u2014|--")
_LETTER = re.compile("[a-zA-Z]")


@dataclass(frozen=True)
class Recording:
    """What is said in a reference, and how long it takes in seconds; None: not known, and nothing of its pace is."""

    text: str
    seconds: float | None


def estimate(
    text: str, language: str, recording: Recording | None = None, counts: Mapping[str, Count] | None = None
) -> float:
    """Seconds that a text takes, at the pace of a recording in the same language if there is one.

    `language`: as `language.canonical` gives it; `counts`: by language, as `counters` gives them; none: characters.
    """
    count = (counts or {}).get(language, len)
    pace = PACES.get(language, OTHER)
    each, share = pace.default, 1.0
    if recording is not None:
        share = REFERENCE_PAUSES
        if recording.seconds:
            each = pace.of(recording.seconds, max(1, count(recording.text or text)))
    return max(SHORTEST, min(max(1, count(text)) * each + pauses(text) * share, LONGEST))


def pauses(text: str) -> float:
    """Seconds that a text pauses. Dots of an ellipsis end sentences too, and a mark at the end of all is no pause."""
    text = text.strip()
    major = len(_MAJOR.findall(text))
    if _MAJOR.match(text[-1:]):
        major -= 1
    seconds = major * MAJOR + len(_MINOR.findall(text)) * MINOR  # in upstream's order, to the last bit
    seconds = seconds + len(_ELLIPSIS.findall(text)) * ELLIPSIS + len(_DASH.findall(text)) * DASH
    return min(MOST_PAUSES, seconds)


@cache
def counters() -> Mapping[str, Count]:
    """How sounds are counted, by language, with those of g2p_en, pyopenjtalk and pypinyin that are installed."""
    found = {"en": _english(), "ja": _japanese(), "zh": _chinese()}
    return {language: count for language, count in found.items() if count is not None}


def _english() -> Count | None:
    try:
        from g2p_en import G2p
    except ImportError:
        return None
    model = cache(G2p)  # takes a second to load: once, when there is English to read
    lock = threading.Lock()

    def count(text: str) -> int:
        try:
            with lock:
                phonemes = model()(text)
        except LookupError:  # nltk lacks the data that the package works with: as if there were no package
            return len(text)
        return sum(1 for phoneme in phonemes if phoneme not in ("", " ", "<pad>", "<s>", "</s>", "<unk>"))

    return count


def _japanese() -> Count | None:
    try:
        import pyopenjtalk
    except ImportError:
        return None
    return lambda text: sum(1 for phone in pyopenjtalk.g2p(text).split(" ") if phone not in ("", "pau", "sil"))


def _chinese() -> Count | None:
    try:
        from pypinyin import Style, lazy_pinyin
    except ImportError:
        return None

    def count(text: str) -> int:
        syllables = lazy_pinyin(text, style=Style.NORMAL, neutral_tone_with_five=True)
        return sum(1 for syllable in syllables if syllable and _LETTER.search(syllable))

    return count
