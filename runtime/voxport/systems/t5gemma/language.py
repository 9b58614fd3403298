"""Which language a text is in, as far as T5Gemma-TTS cares: Japanese, Chinese, or English where nothing else is found
(docs/systems/t5gemma.md 2.1).

Upstream asks the package langdetect where it is installed, and else goes by the writing. So does this module;
langdetect is one of the optional packages of the extra voxport[g2p].
"""

import re
import threading
from collections.abc import Callable
from functools import cache

OTHER = "other"  # of a text of white space alone

Detect = Callable[[str], str | None]  # a text -> its language as langdetect names it; None where it finds none

_KANA = re.compile("[\u3040-\u30ff]")
_IDEOGRAPHS = re.compile("[\u4e00-\u9fff]")
_LOCK = threading.Lock()  # langdetect loads its profiles at the first call


def canonical(language: str) -> str:
    """ja, zh or en for what begins so (zh for yue), and any other language in small letters."""
    language = language.lower()
    known = next((name for name in ("ja", "zh", "en") if language.startswith(name)), language)
    return "zh" if language == "yue" else known


def detect(text: str, package: Detect | None = None) -> str:
    """ja, zh, en, or `other` for a text of white space alone. `package`: asked first, as `langdetect` gives it."""
    text = text.strip()
    if not text:
        return OTHER
    found = canonical(package(text) or "") if package is not None else ""
    if found in ("ja", "zh", "en"):
        return found
    if _KANA.search(text):
        return "ja"
    return "zh" if _IDEOGRAPHS.search(text) else "en"


@cache
def langdetect() -> Detect | None:
    """langdetect's detector, its seed 0 as upstream's; None where the package is not installed."""
    try:
        from langdetect import DetectorFactory, LangDetectException
        from langdetect import detect as language_of
    except ImportError:
        return None
    DetectorFactory.seed = 0

    def language(text: str) -> str | None:
        try:
            with _LOCK:
                return str(language_of(text))
        except LangDetectException:
            return None

    return language
