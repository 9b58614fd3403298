"""Japanese text as T5Gemma-TTS was trained on it (docs/systems/t5gemma.md 2.1; upstream's inference_tts_utils.py)."""

import re

# Applied in this order. The tables hold code points, since most of these characters look like others.
_TABS = re.compile("\t")
_BREAKS = re.compile(r"\[n\]")  # how the training data marked a line break
_SPACES = re.compile("[ \u3000]")
_MARKS = re.compile(
    "[;\u25bc\u2640\u2642\u300a\u300b\u226a\u226b\ue63e\u2460-\u2465]"
)  # a phone's sun, 1 .. 6 in circles
_DASHES = re.compile("[\u02d7\u2010-\u2015\u2043\u2212\u23af\u23e4\u2500\u2501\u2e3a\u2e3b]")
_ELLIPSES = re.compile("\u2026{3,}")

_LONG_VOWEL, _CIRCLE = "\u30fc", "\u25cb"
_LETTERS = {0xFEE0 + code: code for code in (*range(0x30, 0x3A), *range(0x41, 0x5B), *range(0x61, 0x7B))}  # full width
_HALF = "ｦｧｨｩｪｫｬｭｮｯｰｱｲｳｴｵｶｷｸｹｺｻｼｽｾｿﾀﾁﾂﾃﾄﾅﾆﾇﾈﾉﾊﾋﾌﾍﾎﾏﾐﾑﾒﾓﾔﾕﾖﾗﾘﾙﾚﾛﾜﾝ"
_FULL = (
    "ヲァィゥェォャュョッーアイウエオカキクケコサシスセソタチツテトナニヌネノハヒフヘホマミムメモヤユヨラリルレロワン"
)
_TABLE = str.maketrans(
    {
        **dict.fromkeys("\uff5e\u301c", _LONG_VOWEL),  # waves
        "\uff1f": "?",
        "\uff01": "!",
        **dict.fromkeys("\u25cf\u25ef\u3007", _CIRCLE),
        "\u2665": "\u2661",
        **dict(zip(_HALF, _FULL, strict=True)),
        **{chr(full): chr(half) for full, half in _LETTERS.items()},
    }
)


def normalized(text: str, language: str) -> str:
    """The text as the model reads it: in Japanese (`language` begins with ja) with its marks, widths and spaces made
    one; in any other language as it is.

    Half-width katakana keep their voicing marks apart. What is left of a text may be empty.
    """
    if not language.lower().startswith("ja"):
        return text
    for removed in (_TABS, _BREAKS, _SPACES, _MARKS, _DASHES):
        text = removed.sub("", text)
    return _ELLIPSES.sub("\u2026\u2026", text.translate(_TABLE))
