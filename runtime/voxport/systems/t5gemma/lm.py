"""The language model of T5Gemma-TTS: a text and a prompt's codes to audio tokens (docs/systems/t5gemma.md 2, 5).

A text is read once; what every layer of the decoder sees of it stays bound while the decoder is fed `empty`, the codes
of a recording and `y_sep`, if there is one, and then every token that comes, until the end.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import count

import numpy as np

from voxport.bundle import Bundle
from voxport.graphs.session import Array, Session
from voxport.speech.limits import END, LIMIT
from voxport.speech.rows import Outputs, Rows, Stopwatch
from voxport.systems.t5gemma.positions import Positions, Turns
from voxport.systems.t5gemma.rules import Rule, Tail
from voxport.systems.t5gemma.section import Section

NOTHING = -1  # what a row yields once it has stopped
SPARE = 100  # tokens beyond what is expected that caches have room for at first: two seconds of the release
TEXT = "text"  # the axis of a text's ids

Watch = Callable[[str, Array], None]


@dataclass(frozen=True)
class Memory:
    """A text that was read. `cross`: keys and values of every decoder layer, the decoder's inputs by their names."""

    length: int  # ids of the text
    cross: Mapping[str, Array]


@dataclass
class Row:
    """One generation. `prompt` int64 [n]: what the decoder is fed first; `expected`: tokens of prompt and speech.

    It does not end before `least` tokens and gets `most` at the most. `draws(step, ids)`: the draws of a token, see
    rules.Draws. `stopped` says in the end why: "end", or "max_new_tokens" for any limit; a row in which somebody else
    writes something stops before its next token.
    """

    memory: Memory
    prompt: Array
    expected: int
    least: int
    most: int
    draws: Callable[[int, Array], Array]
    stopped: str = ""


class LanguageModel:
    """Texts to tokens. Several threads may use one at once; `clock` times the steps of all (without prefill)."""

    def __init__(self, bundle: Bundle, threads: int, section: Section) -> None:
        stages = ("text_embed", "encoder", "cross", "audio_embed", "decoder")
        self._text, self._encoder, self._cross, self._audio, self._decoder = (
            bundle.session(stage, threads) for stage in stages
        )
        self.positions = Positions(section)
        self.text_turns, self.turns = Turns(section.encoder), Turns(section.decoder)
        self.ids = int(self._decoder.stage.outputs[0].sized({"batch": 1})[1])  # that have a score
        self.clock = Stopwatch()

    def encode(self, ids: Sequence[int]) -> Memory:
        """Reads a text."""
        positions = self.positions.text(len(ids))
        embeds = _embeds(self._text, ids)[None]
        memory = _call(self._encoder, embeds=embeds, **self.text_turns.at(positions))["memory"]
        rotated = {t.name for t in self._cross.stage.inputs} > {"memory"}  # not without progress
        return Memory(len(ids), _call(self._cross, memory=memory, **(self.turns.at(positions) if rotated else {})))

    def generate(self, rows: Sequence[Row], rule: Rule, watch: Watch | None = None) -> Iterator[Array]:
        """The next token of every row, int64 [rows], -1 for rows that have stopped; until all have.

        The token that ends a row is not yielded; special ids that do not end it are, as upstream feeds them back.
        `watch` gets "logits" float32 [rows, ids] of every step, before anything is held back in them: those of the rows
        that are computed, all of them or, once half have stopped, those that have not.
        """
        see: Watch = watch or (lambda *_: None)
        for row in rows:
            if row.most < 1:
                row.stopped = row.stopped or LIMIT
        going = [i for i, row in enumerate(rows) if not row.stopped]  # rows that have a place in the caches
        if not going:
            return
        caches, logits = self._begin([rows[i] for i in going])
        tails = [Tail() for _ in rows]
        for step in count():
            see("logits", logits)
            tokens = np.full(len(rows), NOTHING, np.int64)
            with self.clock.timing(steps=1):
                for i, scores in zip(going, logits, strict=True):
                    if not rows[i].stopped:
                        tokens[i] = self._next(rows[i], step, scores, rule, tails[i])
                        tails[i] = rule.follow(tails[i], int(tokens[i]))
            if (tokens != NOTHING).any():
                yield tokens
            with self.clock.timing():
                for place, i in enumerate(going):
                    if rows[i].stopped:
                        caches.stop(place)
                active = np.flatnonzero(caches.active).tolist()
                if not active:
                    return
                if 2 * len(active) <= len(going):
                    caches.keep(active)
                    going = [going[place] for place in active]
                logits = self._step(caches, [rows[i] for i in going], np.maximum(tokens[going], 0))

    def read(self, memory: Memory, prompt: Array, expected: int, tokens: Sequence[int]) -> Iterator[Array]:
        """logits float32 [ids] after the prompt, then after each of the tokens."""
        row = Row(memory, prompt, expected, 0, len(tokens), lambda _, ids: np.ones(len(ids), np.float32))
        caches, logits = self._begin([row])
        yield logits[0]
        for token in tokens:
            yield self._step(caches, [row], np.array([token]))[0]

    def _next(self, row: Row, step: int, logits: Array, rule: Rule, tail: Tail) -> int:
        """The token of a step, NOTHING when it is the end. Says in the row when it was the last."""
        scores = rule.adjusted(logits, tail, step < row.least)
        token = rule.draw(scores, None if rule.greedy else partial(row.draws, step))
        if rule.ends(scores, token):
            row.stopped = END
            return NOTHING
        if step + 1 >= row.most:
            row.stopped = LIMIT
        return token

    def _begin(self, rows: Sequence[Row]) -> tuple[Rows, Array]:
        """The rows' caches with their prompts in them, and logits float32 [rows, ids] of their first tokens."""
        expected = (len(row.prompt) + min(row.most, max(0, row.expected - len(row.prompt)) + SPARE) for row in rows)
        caches = Rows(self._decoder, len(rows), max(expected), self._constants([row.memory for row in rows]))
        logits = np.zeros((len(rows), self.ids), np.float32)
        for i, row in enumerate(rows):
            twin = next((j for j, other in enumerate(rows[:i]) if _same(other, row)), None)
            if twin is not None:
                caches.copy(twin, to=i)
                logits[i] = logits[twin]
                continue
            turns = self.turns.at(self.positions.prompt(len(row.prompt), row.expected))
            logits[i] = caches.prefill(i, embeds=_embeds(self._audio, row.prompt), **turns)["logits"][0]
        return caches, logits

    def _step(self, caches: Rows, rows: Sequence[Row], tokens: Array) -> Array:
        """Feeds one token per row, int64 [rows] -> logits float32 [rows, ids]."""
        if caches.past.max() >= caches.capacity:
            caches.grow(2 * caches.capacity)
        pairs = zip(caches.past.tolist(), rows, strict=True)
        positions = np.array([self.positions.token(past, row.expected) for past, row in pairs], np.float32)
        return caches.step(embeds=_embeds(self._audio, tokens), **self.turns.at(positions))["logits"]

    def _constants(self, memories: Sequence[Memory]) -> dict[str, Array]:
        """What the decoder's rows see of their texts: shorter ones are filled up with zeros, which `read` hides."""
        constants = {"read": np.array([memory.length for memory in memories], np.int64)}
        longest = max(memory.length for memory in memories)
        for tensor in self._cross.stage.outputs:
            arrays = [memory.cross[tensor.name] for memory in memories]
            if len(arrays) == 1:
                constants[tensor.name] = arrays[0]
                continue
            _, *shape = tensor.sized({TEXT: longest})
            joined = np.zeros((len(arrays), *shape), tensor.dtype)
            for row, array in zip(joined, arrays, strict=True):
                row[tuple(map(slice, array.shape[1:]))] = array[0]
            constants[tensor.name] = joined
        return constants


def _same(a: Row, b: Row) -> bool:
    """Whether both read the same text and are fed the same prompt at the same positions."""
    return a.memory is b.memory and a.expected == b.expected and np.array_equal(a.prompt, b.prompt)


def _embeds(table: Session, ids: Sequence[int] | Array) -> Array:
    return _call(table, ids=np.array(ids, np.int64))["embeds"]


def _call(session: Session, **inputs: Array) -> Outputs:
    return session(session.start(), into=None, **inputs)[0]
