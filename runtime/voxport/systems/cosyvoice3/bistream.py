"""Speech of a text that arrives in pieces: blocks of text and of speech in turn (docs/systems/cosyvoice3.md 3).

The model was trained on `[sos] instruction (5 text, 15 speech) .. rest of the text [task] rest of the speech`; the
numbers are the section's `mix`. After the speech of a block it says `fill`: it waits for text. The speech of the prompt
takes the first places, whichever text there is.

`blocks` keeps to that, and its tokens do not depend on how the text was cut. `as_upstream` is inference_bistream
(llm/llm.py) with all that it does otherwise: the input before a `fill` is fed once more when the text ends; the
prompt's speech is forgotten where the text ends before it; the first speech, without a prompt or after one of whole
blocks, does not wait for text; what is neither speech nor `fill` is an error while text may come.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from voxport.graphs.session import Array
from voxport.speech.limits import CONTEXT, END, LIMIT
from voxport.systems.cosyvoice3.lm import EOS, EXPECTED, FILL, NOTHING, SOS, TASK, LanguageModel, Rule, Walk, Watch
from voxport.systems.cosyvoice3.ras import Draws


@dataclass
class Dialogue:
    """One generation from text in pieces.

    `instruction`: text ids up to the end of the prompt's instruction; `transcript`: text ids of what the prompt says in
    `tokens`, its speech; `text`: the pieces, ids as they arrive. `least`, `most`: speech tokens per text id, before
    which it should not end and after which it is cut, once the text has ended (upstream does neither); `limit`: speech
    tokens at most, however long the text is.

    `stopped` says in the end why: "end", "max_new_tokens", or "context".
    """

    instruction: Sequence[int]
    transcript: Sequence[int]
    tokens: Sequence[int]
    text: Iterator[Sequence[int]]
    least: float
    most: float
    limit: int
    draws: Draws
    stopped: str = ""


def generate(model: LanguageModel, dialogue: Dialogue, rule: Rule, watch: Watch | None = None) -> Iterator[int]:
    """The speech tokens, one by one, as soon as there is text for them. `watch` gets what goes in and all scores.

    Raises ValueError in upstream's form when the model says something that has no place there.
    """
    speech = _Speech(model, dialogue, rule, watch)
    return as_upstream(speech, model, dialogue) if rule.compatible else blocks(speech, model, dialogue, rule)


class _Text:
    """Text ids that arrive in pieces; they are waited for only where they are needed."""

    def __init__(self, transcript: Sequence[int], pieces: Iterator[Sequence[int]]) -> None:
        self.ids, self._pieces = list(transcript), pieces
        self.total = 0  # ids that have arrived, without the transcript

    def has(self, count: int) -> bool:
        """Whether there are `count` more ids: waits until they are there, or until the text ends."""
        while len(self.ids) < count:
            piece = next(self._pieces, None)
            if piece is None:
                return False
            self.ids += piece
            self.total += len(piece)
        return True


class _Speech:
    """The generation, what it is fed next, and the speech that the prompt still has."""

    def __init__(self, model: LanguageModel, dialogue: Dialogue, rule: Rule, watch: Watch | None) -> None:
        capacity = 2 + len(dialogue.instruction) + len(dialogue.transcript) + len(dialogue.tokens) + 2 * EXPECTED
        self.walk = Walk(model, rule, dialogue.draws, capacity, watch)
        self.prompt = list(dialogue.tokens)
        self.next = [model.speech([model.control(SOS)]), model.text(dialogue.instruction)]
        self.count = 0  # speech tokens that were generated
        self._model, self._dialogue = model, dialogue

    def add_text(self, ids: list[int], count: int | None = None) -> None:
        """The first `count` text ids, or all of them; they leave `ids`."""
        self.next.append(self._model.text(_front(ids, count)))

    def add_prompt(self, count: int | None = None) -> int:
        """The next `count` tokens of the prompt's speech, or all it has; returns how many that are."""
        tokens = _front(self.prompt, count)
        self.next.append(self._model.speech(tokens))
        return len(tokens)

    def add_task(self) -> None:
        """The sign that all that comes after it is speech."""
        self.next.append(self._model.speech([self._model.control(TASK)]))

    def choose(self, barred: slice | Array, fill: bool = False) -> int | None:
        """Feeds what is next and chooses a token; None, and the dialogue says why, where there is no room for one.

        `fill`: the token is `fill`, whatever the scores are.
        """
        embeds = np.concatenate(self.next)
        if self.count == self._dialogue.limit:
            self._dialogue.stopped = LIMIT
        elif self.walk.length + len(embeds) > self._model.section.context:
            self._dialogue.stopped = CONTEXT
        else:
            self.walk.feed(embeds)
            return self.walk.force(self._model.control(FILL)) if fill else self.walk.choose(barred)
        return None

    def follow(self, token: int) -> None:
        """`token` was generated: it alone is fed next."""
        self.next = [self._model.speech([token])]
        self.count += 1


def _front(ids: list[int], count: int | None) -> list[int]:
    """The first `count` ids, or all; they leave `ids`."""
    front = ids[:count]
    del ids[: len(front)]
    return front


def blocks(speech: _Speech, model: LanguageModel, dialogue: Dialogue, rule: Rule) -> Iterator[int]:
    """See the top of this file."""
    text_block, speech_block = model.section.mix
    first, fill = model.section.speech_tokens, model.control(FILL)
    neither = np.setdiff1d(np.arange(first, model.ids), [fill])  # speech nor fill
    text = _Text(dialogue.transcript, dialogue.text)
    while text.has(text_block):
        speech.add_text(text.ids, text_block)
        left = speech_block - speech.add_prompt(speech_block)
        while left and not speech.prompt:
            token = speech.choose(neither)
            if token is None:
                return
            if token == fill:
                speech.next = []
                break
            yield token
            speech.follow(token)
            left -= 1
    speech.add_text(text.ids)
    speech.add_task()
    speech.add_prompt()
    least, most = (int(ratio * text.total) for ratio in (dialogue.least, dialogue.most))
    while speech.count < most:
        token = speech.choose(model.early(rule) if speech.count < least else NOTHING)
        if token is None:
            return
        if token >= first:
            dialogue.stopped = END
            return
        yield token
        speech.follow(token)
    dialogue.stopped = LIMIT


def as_upstream(speech: _Speech, model: LanguageModel, dialogue: Dialogue) -> Iterator[int]:
    """See the top of this file."""
    text_block, speech_block = model.section.mix
    first, fill, history = model.section.speech_tokens, model.control(FILL), speech.walk.history
    fill_at = speech_block - len(speech.prompt) % speech_block  # tokens before the model is made to say `fill`
    text: list[int] = list(dialogue.transcript)
    for piece in dialogue.text:
        text += piece
        while speech.prompt and len(text) >= text_block:
            speech.add_text(text, text_block)
            speech.add_prompt(speech_block)
        if speech.prompt:
            continue
        if history[-1:] == [fill]:
            if len(text) < text_block:
                continue
            speech.next = []
            speech.add_text(text, text_block)
        while True:
            token = speech.choose(slice(first, first + 1), fill=len(history) == fill_at)
            if token is None:
                return
            if token == fill:
                fill_at = len(history) + speech_block
                break
            if token >= first:
                raise ValueError(f"the model said {token} before the text ended, which is no speech")
            yield token
            speech.follow(token)
    speech.add_text(text)
    speech.add_task()
    while (token := speech.choose(NOTHING)) is not None:
        if token == model.control(EOS):
            dialogue.stopped = END
            return
        if token >= first:
            raise ValueError(f"the model said {token}, which is neither speech nor the end")
        yield token
        speech.follow(token)
