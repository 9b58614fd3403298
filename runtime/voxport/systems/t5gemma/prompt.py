"""What T5Gemma-TTS reads before it speaks, and how long the speech is expected to be (docs/systems/t5gemma.md 2).

text                 [what is said in the recording  x_sep]  what is to be said
audio      empty     [the recording's codes ..       y_sep]  the codes that are generated
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from voxport.graphs.session import Array
from voxport.systems.t5gemma.section import Section

PARALLEL = 2  # frames that upstream adds to the expected length of a model with parallel_pattern


@dataclass(frozen=True)
class Reference:
    """A recording the speech goes on from: the ids of what is said in it, and its codes int64 [frames]."""

    ids: Sequence[int]
    codes: Array


@dataclass(frozen=True)
class Prompt:
    """`text`: ids for the encoder; `audio`: ids int64 [1 + frames] for the decoder, `empty` first.

    `target_total`: frames of the prompt (y_sep among them, `empty` not) and of the speech that is expected.
    """

    text: list[int]
    audio: Array
    target_total: int

    @property
    def frames(self) -> int:
        """Frames before the speech: the recording's and y_sep; 0 without a recording."""
        return len(self.audio) - 1

    @property
    def codes(self) -> Array:
        """int64 [frames], y_sep last."""
        return self.audio[1:]

    @property
    def expected(self) -> int:
        """Tokens of the decoder, `empty` among them, at the last of which the progress is complete."""
        return max(self.target_total + 1, len(self.audio))


class Prompts:
    """Makes prompts for one model."""

    def __init__(self, section: Section, tokens: Mapping[str, int]) -> None:
        """`tokens`: special ids by name, as the manifest has them: empty, y_sep and x_sep are used."""
        self._section, self._tokens = section, tokens

    def prompt(
        self, text: Sequence[int], seconds: float, reference: Reference | None = None, repeat: int | None = 0
    ) -> Prompt:
        """The prompt for a text as ids, whose speech is expected to take `seconds`.

        `repeat`: further copies of the recording's codes; None: as many as fit the longest audio of the training.
        ValueError in one line when the text does not fit the context, or the copies are far too many.
        """
        ids = self.text(text, reference)
        codes = self._codes(reference, seconds, repeat)
        frames = len(codes) + self._section.frame_rate * seconds + PARALLEL * self._section.parallel
        return Prompt(ids, np.array([self._tokens["empty"], *codes], np.int64), int(frames))

    def text(self, text: Sequence[int], reference: Reference | None) -> list[int]:
        """The ids that the encoder reads. ValueError in one line when they do not fit the context."""
        section = self._section
        before = [*reference.ids, self._tokens["x_sep"]] if reference is not None else []
        begin, end = ([token] if token else [] for token in (section.bos, section.eos))
        ids = [*begin, *before, *text, *end]
        if len(ids) > section.context:
            raise ValueError(
                f"{len(ids)} tokens of text do not fit the context of {section.context}; say the text in several calls"
            )
        return ids

    def _codes(self, reference: Reference | None, seconds: float, repeat: int | None) -> list[int]:
        if reference is None or not len(reference.codes):
            return []
        one = [int(code) for code in reference.codes]
        most = self._section.most_seconds * self._section.frame_rate
        if repeat is None:
            speech = self._section.frame_rate * seconds
            repeat = 0
            while len(one) * (1 + repeat) + speech + len(one) < most:  # upstream's sum, in its order
                repeat += 1
        elif repeat and len(one) * (1 + repeat) > max(most, self._section.context):  # caches would fill the memory
            raise ValueError(f"repeat_prompt {repeat}: {1 + repeat} times {len(one)} frames are too long for a prompt")
        return [*one * (1 + repeat), self._tokens["y_sep"]]
