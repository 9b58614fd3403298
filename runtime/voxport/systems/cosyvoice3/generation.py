"""One generation of Fun-CosyVoice3: what the language model is fed, its draws and its limit, and the events of it."""

from collections.abc import Iterator, Sequence

from voxport import draws
from voxport.speech.limits import END, LIMIT, Limit, smallest
from voxport.speech.longtext import Piece, address
from voxport.speech.speech import Ended, Events, Token, Warned
from voxport.systems.cosyvoice3 import bistream
from voxport.systems.cosyvoice3.bistream import Dialogue
from voxport.systems.cosyvoice3.flowstream import Reference
from voxport.systems.cosyvoice3.lm import LanguageModel, Row
from voxport.systems.cosyvoice3.noise import FRAMES
from voxport.systems.cosyvoice3.prompt import Prompt
from voxport.systems.cosyvoice3.ras import Draws
from voxport.systems.cosyvoice3.request import Request
from voxport.systems.cosyvoice3.section import Section


class Generator:
    """Makes generations, and runs them one at a time."""

    def __init__(self, model: LanguageModel, section: Section, end_of_prompt: int) -> None:
        """`end_of_prompt`: the id of <|endofprompt|>."""
        self.model, self._section, self._end_of_prompt = model, section, end_of_prompt

    def room(self, prompt: Prompt, reference: Reference) -> int:
        """How many speech tokens fit behind a prompt. ValueError when there is no room for any.

        Upstream has noise for 300 s of prompt and speech; beyond it, and beyond the context, speech would be garbled.
        """
        read = 2 + len(prompt.prompt_text) + len(prompt.text) + len(_prompt_speech(prompt, reference))
        room = min(self._section.llm.context - read, FRAMES // self._section.flow.ratio - len(reference.tokens))
        if room < 1:
            raise ValueError(f"{read} tokens of text and voice leave no room for speech; say the text in several calls")
        return room

    def events(self, prompt: Prompt, reference: Reference, plan: Request, piece: Piece, attempt: int = 0) -> Events:
        """One try of a piece of text."""
        least, guard = plan.limits(len(prompt.text))
        limit = smallest(plan.settings, self.room(prompt, reference), guard)
        embeds = self.model.prompt([*prompt.prompt_text, *prompt.text], _prompt_speech(prompt, reference))
        row = Row(embeds, least, limit.tokens, _draws(plan, piece.index, attempt))
        for token in self.model.generate(row, plan.rule):
            yield Token(token)
        yield from _ended(row.stopped, limit, plan, piece)

    def typed(self, text: Iterator[Sequence[int]], prompt: Prompt, reference: Reference, plan: Request) -> Events:
        """A text that comes in pieces of ids. `prompt`: all that is read before it."""
        limit = smallest(plan.settings, self.room(prompt, reference), None)
        instruction, transcript = _cut(prompt.prompt_text, self._end_of_prompt)
        dialogue = Dialogue(
            instruction,
            transcript,
            _prompt_speech(prompt, reference),
            text,
            float(plan.settings["min_token_text_ratio"]),
            float(plan.settings["max_token_text_ratio"]),
            limit.tokens,
            _draws(plan, 0, 0),
        )
        for token in bistream.generate(self.model, dialogue, plan.rule):
            yield Token(token)
        yield from _ended(dialogue.stopped, limit, plan, Piece(""))


def _prompt_speech(prompt: Prompt, reference: Reference) -> list[int]:
    """The recording's tokens that the language model reads."""
    return reference.tokens.tolist() if prompt.speech else []


def _cut(ids: Sequence[int], end: int) -> tuple[Sequence[int], Sequence[int]]:
    """Ids up to the end of the instruction, and what comes after it: the transcript."""
    place = list(ids).index(end) + 1
    return ids[:place], ids[place:]


def _draws(plan: Request, piece: int, attempt: int) -> Draws:
    stream = address("cosyvoice3.tokens", piece, attempt)
    return lambda step, size: draws.exponentials(plan.seed, stream, step, size)


def _ended(stopped: str, limit: Limit, plan: Request, piece: Piece) -> Iterator[Ended | Warned]:
    """Why a generation ended, and a warning where it was cut and nobody asked for that."""
    if stopped == END:
        yield Ended(END)
        return
    why = limit.why if stopped == LIMIT else stopped
    yield Ended(why)
    if why != LIMIT or not plan.limited:
        yield Warned(piece.cut(limit))
