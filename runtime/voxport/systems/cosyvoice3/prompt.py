"""What the language model reads before it speaks, in each of upstream's modes (docs/systems/cosyvoice3.md 2.1).

    zero_shot      You are a helpful assistant.<|endofprompt|>what is said in the recording | text | recording's tokens
    cross_lingual                  You are a helpful assistant.<|endofprompt|>text          |      |
    instruct2      You are a helpful assistant. how to say it<|endofprompt|>                | text |

Without `<|endofprompt|>` the model repeats itself, or says its prompt. It is put in here; upstream leaves that to its
users. What holds one already is taken as it is. Converting a voice has no prompt: no language model takes part.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

SYSTEM, END = "You are a helpful assistant.", "<|endofprompt|>"
Mode = Literal["zero_shot", "cross_lingual", "instruct2"]
MODES: tuple[Mode, ...] = get_args(Mode)
AUTO = "auto"  # the mode follows from what is given
# README: "Covers 9 common languages"; its dialects of Chinese are asked for with an instruct
LANGUAGES = ("chinese", "english", "french", "german", "italian", "japanese", "korean", "russian", "spanish")

Encode = Callable[[str], list[int]]


@dataclass(frozen=True)
class Prompt:
    """Ids of what comes before the text, and of the text; `speech`: the recording's tokens follow, said to be its own.

    Limits on the length of the speech count `text` alone, with all that a mode puts into it.
    """

    prompt_text: Sequence[int]
    text: Sequence[int]
    speech: bool


def mode_of(ref_text: str | None, instruct: str | None, mode: str = AUTO) -> Mode:
    """The mode to speak in: `mode` itself, or what follows from what is given: an instruct goes before a transcript.

    ValueError in one line: an unknown mode, one that lacks its transcript or instruct, one that hears no instruct, or
    an instruct of white space.
    """
    transcript, how = transcript_of(ref_text or "").strip(), (instruct or "").strip()
    if instruct is not None and not how:
        raise ValueError("the instruct is empty; say in it how to speak, or leave it out")
    found = next((name for name in MODES if name == mode), None)
    if found is None and mode != AUTO:
        raise ValueError(f"unknown mode {mode!r}; known are {', '.join((AUTO, *MODES))}")
    if found is None:
        found = "instruct2" if how else "zero_shot" if transcript else "cross_lingual"
    if found == "zero_shot" and not transcript:
        raise ValueError("mode zero_shot needs what is said in the recording; give --ref-text, or mode=cross_lingual")
    if found == "instruct2" and not how:
        raise ValueError("mode instruct2 needs an instruct; give --instruct, or leave the mode out")
    if found != "instruct2" and how:
        raise ValueError(f"mode {found} hears no instruct; leave it out, or give mode=instruct2")
    return found


def transcript_of(text: str) -> str:
    """A transcript without what stands before it up to `<|endofprompt|>`."""
    return text.rpartition(END)[2]


def prompt(
    encode: Encode,
    mode: Mode,
    text: str | None,
    ref_text: str | None = None,
    instruct: str | None = None,
    language: str | None = None,
) -> Prompt:
    """What is read for a text; None for a text that comes in pieces: all that is put before it is in `prompt_text`.

    `encode`: the ids of any text, special tokens read as such. `language`: of the text, a hint; "auto" is none.
    ValueError in one line: an unknown language, or no `<|endofprompt|>` in all of it.
    """
    before = {"zero_shot": ref_text, "instruct2": instruct}.get(mode) or ""
    known = END in before or END in (text or "")
    if not known and mode == "instruct2":
        before = f"{before}{END}" if before.startswith(SYSTEM) else f"{SYSTEM} {before}{END}"
    elif not known:
        before = f"{SYSTEM}{END}{before}"
    whole = (before, text or "")
    if language and language.lower() != AUTO:
        whole = _hinted(*whole, language)
    if mode == "cross_lingual" and text is not None:
        whole = ("", "".join(whole))
    prompt_ids, ids = (encode(part) if part else [] for part in whole)
    end = encode(END)
    if len(end) != 1 or end[0] not in prompt_ids + ids:
        raise ValueError(f"the prompt holds no {END}, without which the model repeats itself; export the bundle again")
    return Prompt(prompt_ids, ids, mode == "zero_shot")


def _hinted(before: str, text: str, language: str) -> tuple[str, str]:
    """Both with the language put in front of the first `<|endofprompt|>`."""
    if language.lower() not in LANGUAGES:
        raise ValueError(f"unknown language {language!r}; known are {', '.join((AUTO, *LANGUAGES))}")
    hint = f" Please speak in {language.capitalize()}.{END}"
    if END in before:
        return before.replace(END, hint, 1), text
    return before, text.replace(END, hint, 1)
