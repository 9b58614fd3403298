"""The language model of Fun-CosyVoice3: text and a prompt's speech to speech tokens (docs/systems/cosyvoice3.md 3).

A prompt is `[sos] text [task] speech`; every token that comes is fed back until one of the ids behind the speech
tokens comes, which end it.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from voxport.bundle import Bundle
from voxport.graphs.session import Array, Session
from voxport.speech.limits import END, LIMIT
from voxport.speech.rows import Rows, Stopwatch
from voxport.systems.cosyvoice3.ras import Draws, Ras
from voxport.systems.cosyvoice3.section import LlmSection

# Control ids, counted from the first id behind the speech tokens (llm/llm.py, CosyVoice3LM).
SOS, EOS, TASK, FILL = range(4)
NOTHING = slice(0)  # no ids
EXPECTED = 256  # tokens that caches have room for at first: ten seconds of speech

Watch = Callable[[str, Array], None]  # "embeds" [tokens, width] that are fed, "scores" [ids] of a choice


@dataclass(frozen=True)
class Rule:
    """How a token follows from its scores. `ras`: the sampler; None: the best token.

    `compatible`: as upstream, which bars sos instead of the end while a generation is too short, so that nothing keeps
    it from ending at once. Otherwise no id that would end it may come before.
    """

    ras: Ras | None
    compatible: bool = False


@dataclass
class Row:
    """One generation: before `least` tokens it should not end (see Rule), `most` is all it gets.

    `stopped` says in the end why: "end", or "max_new_tokens" for any limit.
    """

    prompt: Array
    least: int
    most: int
    draws: Draws
    stopped: str = ""


class LanguageModel:
    """Prompts to tokens. Several threads may use one at once; `clock` times the steps of all (without prefill)."""

    def __init__(self, bundle: Bundle, threads: int, section: LlmSection) -> None:
        self.section = section
        self._lm = bundle.session("lm", threads)
        self._text, self._speech = (bundle.session(f"{kind}_embed", threads) for kind in ("text", "speech"))
        self.ids = int(self._lm.stage.outputs[0].sized({"batch": 1})[1])  # that have a score
        self.clock = Stopwatch()

    def text(self, ids: Sequence[int]) -> Array:
        """Text ids -> float32 [ids, width]."""
        return _rows(self._text, ids)

    def speech(self, ids: Sequence[int]) -> Array:
        """Speech tokens -> float32 [ids, width]."""
        return _rows(self._speech, ids)

    def control(self, name: int) -> int:
        """The id of SOS, EOS, TASK or FILL."""
        return self.section.speech_tokens + name

    def prompt(self, text: Sequence[int], tokens: Sequence[int]) -> Array:
        """Text ids, those of the prompt's transcript or instruction first, and the prompt's speech tokens, if any
        -> float32 [2 + ids + tokens, width]."""
        start, task = self.speech([self.control(SOS), self.control(TASK)])[:, None]
        return np.concatenate((start, self.text(text), task, self.speech(tokens)))

    def generate(self, row: Row, rule: Rule, watch: Watch | None = None) -> Iterator[int]:
        """The speech tokens of a row, one by one; none of them ends it. `watch` gets what goes in and all scores."""
        walk = Walk(self, rule, row.draws, len(row.prompt) + min(row.most, EXPECTED), watch)
        early = self.early(rule)
        embeds = row.prompt
        for step in range(row.most):
            walk.feed(embeds)
            token = walk.choose(early if step < row.least else NOTHING)
            if token >= self.section.speech_tokens:
                row.stopped = END
                return
            yield token
            embeds = self.speech([token])
        row.stopped = LIMIT

    def early(self, rule: Rule) -> slice:
        """The ids that may not come while a generation is too short."""
        first = self.section.speech_tokens
        return slice(first, first + 1 if rule.compatible else None)

    def read(self, prompt: Array, tokens: Sequence[int]) -> Iterator[Array]:
        """Log-probabilities float32 [ids] after the prompt, then after each of the tokens."""
        rows = Rows(self._lm, 1, len(prompt) + len(tokens))
        yield log_softmax(rows.prefill(0, embeds=prompt)["logits"][0])
        for embed in self.speech(tokens):
            yield log_softmax(rows.step(embeds=embed[None])["logits"][0])

    def rows(self, capacity: int) -> Rows:
        """Caches for `capacity` tokens of one generation."""
        return Rows(self._lm, 1, capacity)


class Walk:
    """One generation on its way through the graph: what was fed is in the caches, what was chosen in `history`."""

    def __init__(self, model: LanguageModel, rule: Rule, draws: Draws, capacity: int, watch: Watch | None) -> None:
        """`capacity`: tokens that are expected; there is room for more."""
        self.history: list[int] = []
        self._rows, self._clock = model.rows(capacity), model.clock
        self._rule, self._draws = rule, draws
        self._watch: Watch = watch or (lambda *_: None)
        self._scores = np.zeros(0, np.float32)

    @property
    def length(self) -> int:
        """How many tokens were fed."""
        return int(self._rows.past[0])

    def feed(self, embeds: Array) -> None:
        """Embeddings float32 [tokens, width] of the next tokens, one or more."""
        self._watch("embeds", embeds)
        if self.length + len(embeds) > self._rows.capacity:
            self._rows.grow(2 * (self.length + len(embeds)))
        if len(embeds) == 1 and self.length:
            with self._clock.timing():
                outputs = self._rows.step(embeds=embeds)
        else:
            outputs = self._rows.prefill(0, embeds=embeds)
        self._scores = log_softmax(outputs["logits"][0])

    def choose(self, barred: slice | Array = NOTHING) -> int:
        """The next token after all that was fed, none of the ids `barred`; it is not fed yet."""
        with self._clock.timing(steps=1):
            scores = self._scores
            scores[barred] = -np.inf
            self._watch("scores", scores)
            ras = self._rule.ras
            token = int(np.argmax(scores)) if ras is None else ras.choose(scores, self.history, self._draws).token
        return self.force(token)

    def force(self, token: int) -> int:
        """This is the next token, whatever the scores are."""
        self.history.append(token)
        return token


def log_softmax(logits: Array) -> Array:
    """float32 [ids] -> the logarithms of their probabilities, float32 [ids]."""
    scores: Array = logits - logits.max()
    scores -= np.log(np.exp(scores).sum())
    return scores


def _rows(session: Session, ids: Sequence[int]) -> Array:
    return session(session.start(), into=None, ids=np.array(ids, np.int64))[0]["embeds"]
