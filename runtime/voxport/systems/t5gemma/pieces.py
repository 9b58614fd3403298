"""The pieces of a long text: `batch_size` of them are said in one pass over the weights, and all in one voice."""

from collections.abc import Callable, Sequence

import numpy as np

from voxport.speech.longtext import Piece, retried
from voxport.speech.speech import Events, Token
from voxport.systems.t5gemma.generation import Generation, Generator
from voxport.systems.t5gemma.prompt import Prompt
from voxport.systems.t5gemma.request import Request
from voxport.systems.t5gemma.rules import Rule
from voxport.systems.t5gemma.voice import Voice


class Pieces:
    """The generations of a text's pieces, begun together when the first of them is asked for.

    Without a voice each piece would have one of its own. So the first is said alone then, and is the recording that the
    others go on from.
    """

    def __init__(
        self,
        generator: Generator,
        rule: Rule,
        plan: Request,
        pieces: Sequence[Piece],
        prompt: Callable[[str, Voice | None], Prompt],
        voice: Voice | None,
        rate: float,
    ) -> None:
        """`prompt`: of a text in a voice; `rate`: codes per second.

        ValueError in one line, before anything is said: a piece is empty, or too long.
        """
        self._generator, self._rule, self._plan, self._pieces = generator, rule, plan, pieces
        self._prompt, self._rate = prompt, rate
        self._prompts = [prompt(piece.text, voice) for piece in pieces]
        self._leads = voice is None and len(pieces) > 1
        self._begun: dict[int, Events] = {}

    def events(self, piece: Piece, tries: int) -> Events:
        """The events of a piece: of several tries, those of the first that the model ended by itself."""
        events = retried(tries, lambda attempt: self._attempt(piece.index, attempt))
        if piece.index or not self._leads:
            yield from events
            return
        codes = []
        for event in events:
            if isinstance(event, Token):
                codes.append(int(event.value))
            yield event
        if codes:
            voice = Voice(piece.text, np.array(codes), len(codes) / self._rate)
            self._prompts[1:] = [self._prompt(other.text, voice) for other in self._pieces[1:]]

    def _attempt(self, index: int, attempt: int) -> Events:
        """One try: the first goes on together with its neighbours', others alone."""
        if attempt:
            return self._generator.run(self._generation(index, attempt), self._rule)
        if index not in self._begun:
            size = 1 if self._leads and index == 0 else int(self._plan.settings["batch_size"])
            group = range(index, min(index + size, len(self._pieces)))
            together = self._generator.together([self._generation(i) for i in group], self._rule)
            self._begun |= dict(zip(group, together, strict=True))
        return self._begun.pop(index)

    def _generation(self, index: int, attempt: int = 0) -> Generation:
        return self._generator.generation(self._prompts[index], self._plan, self._pieces[index], attempt)
