"""What one call of T5Gemma-TTS is asked for: its settings, checked before it begins (docs/systems/t5gemma.md 5)."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from voxport.speech import limits, longtext
from voxport.speech.settings import SAMPLING, SECONDS, Schema, Setting, Settings, Value, parse
from voxport.systems.t5gemma.duration import LONGEST

SHORTEST = 0.02  # seconds that a speech may be asked to take: one frame of the released model
MAX = "max"  # of repeat_prompt: as often as the recording fits
CHUNKS, WHOLE = "chunks", "whole"  # schedules; the second is also the layer of a call whose audio is not streamed
_IDS = r"\[?\s*(\d{1,9}\s*(,\s*\d{1,9}\s*)*,?)?\s*\]?"  # with or without brackets: upstream's command line takes a list

# Every setting of `say` by upstream's name, with the default of its inference_commandline_hf.py.
SCHEMA: Schema = {
    "target_duration": Setting(SHORTEST, SHORTEST, LONGEST, note=" seconds (left out: estimated from the text)"),
    "temperature": replace(SAMPLING["temperature"], default=0.8),
    "top_k": replace(SAMPLING["top_k"], default=30),
    "top_p": replace(SAMPLING["top_p"], default=0.9),
    "min_p": Setting(0.0, most=1, note=" (0 is none; with one top_k and top_p do nothing)"),
    "stop_repetition": Setting(3, -1),  # silence that may follow upon itself; 0 or less: as much as there is
    "silence_tokens": Setting("[]", pattern=_IDS, note="codes, such as [79, 80]"),
    "extra_cutoff": Setting(5.0, most=SECONDS, from_checkpoint=True),  # seconds of speech beyond what is expected
    "repeat_prompt": Setting(0, most=1000, choices=(MAX,)),  # further copies of the recording in the prompt
    "max_new_tokens": limits.SETTINGS["max_new_tokens"],
    "min_new_tokens": Setting(0),
    "parse_special": Setting(False),  # upstream's: names of special tokens in the text are not plain text
    "g2p": Setting(True),  # find the language and the length with those packages of voxport[g2p] that are installed
    "schedule": Setting(CHUNKS, choices=(CHUNKS, WHOLE), layers={WHOLE: WHOLE}),  # how codes are decoded
    "batch_size": Setting(4, 1, 64),  # pieces of a long text that are said together
    **longtext.SETTINGS,
    # Of a piece: 17 s. A recording and what goes on from it were 40 s at the most when the model was trained.
    "split_letters": replace(longtext.SETTINGS["split_letters"], default=200),
}


@dataclass(frozen=True)
class Request:
    """One call of `say`. `target_duration`: seconds; None: to be estimated."""

    settings: Settings
    seed: int
    greedy: bool
    target_duration: float | None
    limited: bool  # max_new_tokens was given and has upstream's meaning

    @property
    def repeat(self) -> int | None:
        """Further copies of the recording's codes; None: as many as fit."""
        value = self.settings["repeat_prompt"]
        return None if value == MAX else int(value)

    @property
    def silence(self) -> tuple[int, ...]:
        """The codes that say nothing, of which only so many may follow each other."""
        listed = str(self.settings["silence_tokens"]).strip("[] ").split(",")
        return tuple(int(code) for code in listed if code.strip())

    @property
    def split_letters(self) -> int:
        """Letters of a piece that a long text is cut into; 0: it stays whole, as it does where its length, its tokens
        or upstream's own choice at every step is asked for."""
        whole = self.greedy or self.limited or self.target_duration is not None
        return 0 if whole else int(self.settings["split_letters"])


def request(
    stored: Mapping[str, Value], options: Mapping[str, Value], seed: int, greedy: bool, stream: bool
) -> Request:
    """`stored`: the manifest's defaults; `options`: what the caller set; `stream`: audio leaves while it is made.

    ValueError in one line: an unknown setting, or a value that cannot be.
    """
    settings = parse(SCHEMA, stored, options, [WHOLE] * (not stream))
    seconds = float(settings.pop("target_duration"))
    known = "target_duration" in options
    return Request(settings, seed, greedy, seconds if known else None, "max_new_tokens" in options)
