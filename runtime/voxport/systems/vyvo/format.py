"""How VyvoTTS writes prompts and reads speech tokens, in its two dialects (docs/systems/vyvo.md 3, 4).

A dialect is what a generation of upstream's code did: `classic` before its rewrite, `current` since. They differ in the
prompt of a cloned voice, and in how forgiving the generated ids are read. The names of the ids are upstream's.
"""

from collections.abc import Mapping
from typing import Literal

import numpy as np

from voxport.graphs.session import Array
from voxport.systems.vyvo.lm import Grammar

Dialect = Literal["current", "classic"]


class Format:
    """Prompts and grammar over a token table; `size` codes at each of `frame` places."""

    def __init__(self, ids: Mapping[str, int], frame: int, size: int) -> None:
        self.ids, self.frame, self.size = ids, frame, size
        self.starts = tuple(ids["AUDIO_TOKENS_START"] + place * size for place in range(frame))
        self.end = ids["END_OF_SPEECH"]

    def plain(self, text: list[int]) -> list[int]:
        """text: the ids of a tokenizer, BOS included where it writes one."""
        ids = self.ids
        return [ids["START_OF_HUMAN"], *text, ids["END_OF_TEXT"], ids["END_OF_HUMAN"]]

    def clone(self, reference: list[int], codes: Array, text: list[int], dialect: Dialect) -> list[int]:
        """reference, text: ids of the transcript and of what is to be said; codes [frames, frame]."""
        ids = self.ids
        before = [ids["START_OF_AI"]] + ([ids["START_OF_SPEECH"]] if dialect == "current" else [])
        after = [] if dialect == "current" else [ids["START_OF_AI"]]
        speech = self.codes_to_ids(codes)
        return [*self.plain(reference), *before, *speech, self.end, ids["END_OF_AI"], *self.plain(text), *after]

    def grammar(self, clone: bool, dialect: Dialect, least: int) -> Grammar:
        """What may follow a prompt. A classic clone prompt ends in START_OF_AI, and knows no START_OF_SPEECH."""
        bare = clone and dialect == "classic"
        forced = () if bare else (self.ids["START_OF_AI"], self.ids["START_OF_SPEECH"])
        return Grammar(forced, self.starts, self.size, least)

    def codes_to_ids(self, codes: Array) -> list[int]:
        """codes [frames, frame], each 0 .. size - 1 -> ids. ValueError when a code is none."""
        if codes.ndim != 2 or codes.shape[1] != self.frame or ((codes < 0) | (codes >= self.size)).any():
            raise ValueError(
                f"codes {list(codes.shape)} are not frames of {self.frame} codes below {self.size}: "
                "this voice belongs to another codec; enroll the reference with this bundle"
            )
        ids: list[int] = (codes + np.array(self.starts)).reshape(-1).tolist()
        return ids

    def ids_to_codes(self, ids: Array) -> Array:
        """Ids int64 [n], whole frames -> codes [frames, frame]; out of 0 .. size - 1 where an id is out of place."""
        codes: Array = ids.reshape(-1, self.frame) - np.array(self.starts)
        return codes

    def parse_generation(self, generated: Array, clone: bool, dialect: Dialect, strict: bool) -> Array:
        """The codes int64 [frames, frame] in a complete generation. ValueError says why there are none.

        current: between the last START_OF_SPEECH and the END_OF_SPEECH after it; `strict` wants both, and whole frames.
        classic: all after the last START_OF_SPEECH (none in a clone), END_OF_SPEECH taken out wherever it stands.
        Unlike upstream, a reference in the prompt is never read as the answer, and a START_OF_SPEECH in a classic clone
        does not shift the frames.
        """
        start = self.ids["START_OF_SPEECH"]
        begins = np.flatnonzero(generated == start)
        if len(begins):
            generated = generated[begins[-1] + 1 :]
        elif not (clone and dialect == "classic"):
            raise ValueError(f"the model did not begin to speak (no {start} among {len(generated)} ids)")
        ends = np.flatnonzero(generated == self.end)
        if dialect == "classic":
            generated = generated[generated != self.end]
        elif len(ends):
            generated = generated[: ends[0]]
        elif strict:
            raise ValueError(f"strict: the model did not end within {len(generated)} speech ids")
        if strict and dialect == "current" and len(generated) % self.frame:
            raise ValueError(f"strict: {len(generated)} speech ids are not whole frames of {self.frame}")
        codes = self.ids_to_codes(generated[: len(generated) // self.frame * self.frame])
        wrong = ((codes < 0) | (codes >= self.size)).reshape(-1)
        if wrong.any() or not len(codes):
            at = f"speech id {int(np.argmax(wrong))} is out of place" if len(codes) else "less than one frame"
            raise ValueError(f"the model did not speak: {at}")
        return codes

    def load_codes(self, array: Array) -> Array:
        """What `tokenize` or `--save-tokens` wrote, int [n] -> codes [frames, frame]. ValueError when it is neither."""
        flat = np.asarray(array).reshape(-1)
        if flat.dtype.kind not in "iu":
            raise ValueError(f"wanted whole-numbered tokens, got {flat.dtype}")
        flat = flat.astype(np.int64)
        if len(flat) and len(flat) % self.frame == 0:
            codes: Array = flat.reshape(-1, self.frame) - self.size * np.arange(self.frame)
            if ((codes >= 0) & (codes < self.size)).all():
                return codes
        try:
            return self.parse_generation(flat, clone=True, dialect="classic", strict=False)
        except ValueError as error:
            raise ValueError(f"neither tokens of `tokenize` nor of `say`: {error}") from None

    def offset_codes(self, codes: Array) -> Array:
        """codes [frames, frame] -> int64 [n], each place in a range of its own: ids counted from AUDIO_TOKENS_START."""
        flat: Array = (codes + self.size * np.arange(self.frame)).reshape(-1)
        return flat
