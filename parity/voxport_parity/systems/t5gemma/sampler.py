"""T5Gemma-TTS: positions, and upstream's choices made again (docs/systems/t5gemma.md 3, 5; golden.json's settings).

Forced runs are fed upstream's own tokens and choose at every step, so that one choice that differs cannot hide what
follows; free ones choose every token, as `say` does. Of a quantized model all of them are reported, not judged.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from voxport import bounds
from voxport.bounds import Bound
from voxport.bundle import Bundle
from voxport.graphs.session import Array
from voxport.speech.limits import Limit
from voxport.systems.t5gemma.generation import Generator
from voxport.systems.t5gemma.lm import LanguageModel, Memory, Row
from voxport.systems.t5gemma.prompt import Prompt
from voxport.systems.t5gemma.request import request
from voxport.systems.t5gemma.rules import Rule, Tail, first_end
from voxport.systems.t5gemma.section import Section
from voxport_parity.systems.t5gemma.utterance import TOTAL, Utterance, utterance
from voxport_parity.trace import Golden, Trace

GREEDY, GREEDY_CODES = "t5.greedy.tokens", "t5.greedy.codes"
DRAWS = "sample.exp_q"
NAMES = re.compile(r"t5\.(\w+\.position_ids|logits_adj|greedy\.\w+)|sample\.\w+|silence\.\w+")
ROWS = re.compile(r"steps (\d+)\.\.")  # in the meaning of silence.logits_before: the step of its first row
BEFORE = 2  # rows that it has ahead of the silence, where its meaning does not say


def owns(name: str) -> bool:
    """Whether a golden tensor is one of a position or of a choice."""
    return NAMES.fullmatch(name) is not None


def bound(name: str) -> Bound:
    """See `Feeds`."""
    if "logits" in name:
        return bounds.LM_LOGITS
    return bounds.TOKEN_CHANCES if name.endswith(".probs") else bounds.EQUAL


def rounded(name: str) -> Bound | None:
    """See `Feeds`."""
    return bound(name) if stage(name) == "positions" else None


def stage(name: str) -> str:
    """See `Feeds`."""
    return "positions" if name.endswith(".position_ids") else "generate"


def input_reason(name: str) -> str | None:
    """See `Feeds`."""
    return "draws that chose upstream's tokens" if name == DRAWS else None


def trace(bundle: Bundle, golden: Golden) -> Trace:
    """See `Feeds`."""
    run = utterance(bundle, golden)
    if run is None:
        return Trace()
    choices = _Choices(bundle, golden, run)
    return _positions(choices, golden, run) | choices.greedy() | choices.drawn() | choices.silence()


def _positions(choices: "_Choices", golden: Golden, run: Utterance) -> Trace:
    """Of the text, of the prompt, and of every token that was fed back."""
    positions, start = choices.model.positions, len(run.audio)
    name = "t5.step.position_ids"
    steps = golden.tensors[name].shape[1] if name in golden.tensors else max(0, len(run.tokens) - 1)
    return {
        "t5.enc.position_ids": positions.text(len(run.text))[None],
        "t5.prefill.position_ids": positions.prompt(start, run.expected)[None],
        name: np.array([[positions.token(start + step, run.expected) for step in range(steps)]], np.float32),
    }


@dataclass(frozen=True)
class _Step:
    """One choice: scores before and after anything is held back in them, and the token drawn from the latter."""

    logits: Array
    scores: Array
    token: int


class _Choices:
    """The generations of a golden's utterance."""

    def __init__(self, bundle: Bundle, golden: Golden, run: Utterance) -> None:
        section = bundle.section(Section)
        self.model = LanguageModel(bundle, 1, section)
        self._golden, self._run, self._eos = golden, run, bundle.manifest.tokens["eos"]
        self._codes, self._least = section.codes, first_end(section.frame_rate)
        self._settings: Mapping[str, Any] = golden.notes.get("settings", {})
        self._memory: Memory = self.model.encode(run.text)
        total = int(golden.tensors[TOTAL][0]) if TOTAL in golden.tensors else run.expected - 1
        options = {name: self._settings[name] for name in ("extra_cutoff",) if name in self._settings}
        plan = request(bundle.manifest.sampling, options, 0, True, True)
        prompt = Prompt(run.text, run.audio, total)
        self._limit: Limit = Generator(self.model, section).limit(prompt, plan)

    def greedy(self) -> Trace:
        """The best tokens."""
        outputs, rule = Trace(), self._rule("greedy", greedy=True)
        steps = list(self._forced(self._run.tokens.tolist(), rule))
        if steps:
            outputs["t5.logits_adj"] = np.stack([step.scores for step in steps])
        if self._golden.folder is not None and {GREEDY, GREEDY_CODES} & self._golden.tensors.keys():
            tokens = self._free(rule)
            outputs |= {GREEDY: np.array([*tokens, self._eos]), GREEDY_CODES: self._speech(tokens)}
        return outputs

    def drawn(self) -> Trace:
        """Tokens that upstream's draws choose."""
        tensors, rule = self._golden.tensors, self._rule("sampled")
        if "sample.tokens" in tensors:
            tokens = tensors["sample.tokens"].tolist()
        elif "sample.codes" in tensors:
            tokens = [*tensors["sample.codes"].ravel().tolist(), self._eos]
        else:
            return Trace()
        draws = tensors.get(DRAWS)
        steps = list(self._forced(tokens, rule, draws))
        chances = np.zeros((len(steps), self.model.ids), np.float32)
        for row, step in zip(chances, steps, strict=True):
            ids, row_chances = rule.chances(step.scores)
            row[ids] = row_chances
        outputs = Trace({"sample.logits_adj": np.stack([step.scores for step in steps]), "sample.probs": chances})
        if draws is not None:
            outputs["sample.tokens"] = np.array([step.token for step in steps])
            outputs["sample.codes"] = self._speech(self._free(rule, draws))
        return outputs

    def silence(self) -> Trace:
        """Best tokens while the scores of one are raised for some steps, so that it goes on until it is held back."""
        note = self._settings.get("silence_run")
        tokens = self._golden.tensors.get("silence.tokens")
        if note is None or tokens is None:
            return Trace()
        code, (first, last) = int(note["token"]), note["steps"]
        silent = {"silence_tokens": [code]} | note
        rule = self._rule("silence_run", greedy=True, silent=silent)
        raised = {step: (code, float(note["bias"])) for step in range(first, last + 1)}
        steps = list(self._forced(tokens.tolist(), rule, raised=raised))
        if len(steps) > self._limit.tokens:
            steps[-1] = _Step(steps[-1].logits, steps[-1].scores, self._eos)
        named = ROWS.search(self._golden.meaning("silence.logits_before"))
        start = int(named[1]) if named else first - BEFORE
        rows = {len(self._golden.tensors.get(f"silence.{name}", ())) for name in ("logits_before", "logits_adj")}
        shown = steps[start : start + max(rows)]
        outputs = Trace({"silence.tokens": np.array([step.token for step in steps])})
        if shown:
            outputs["silence.logits_before"] = np.stack([step.logits for step in shown])
            outputs["silence.logits_adj"] = np.stack([step.scores for step in shown])
        return outputs

    def _rule(self, name: str, *, greedy: bool = False, silent: Mapping[str, Any] | None = None) -> Rule:
        """From what the notes call the settings of a run; where they say nothing, upstream's defaults."""
        s = self._settings.get(name, {}) if silent is None else silent
        return Rule(
            self._eos,
            temperature=float(s.get("temperature", 1.0)),
            top_k=max(0, int(s.get("top_k", 0))),
            top_p=float(s.get("top_p", 1.0)),
            min_p=float(s.get("min_p", 0.0)),
            stop_repetition=int(s.get("stop_repetition", 3)),
            silence=tuple(s.get("silence_tokens") or ()),
            greedy=greedy,
            compatible=True,
        )

    def _forced(
        self,
        tokens: Sequence[int],
        rule: Rule,
        draws: Array | None = None,
        raised: Mapping[int, tuple[int, float]] | None = None,
    ) -> Iterator[_Step]:
        """A choice for each of `tokens`, after those before it. `raised`: step -> (id, what is added to its score)."""
        if not tokens:
            return
        tail = Tail()
        read = self.model.read(self._memory, self._run.audio, self._run.expected, tokens[:-1])
        for step, (logits, token) in enumerate(zip(read, tokens, strict=True)):
            if raised and step in raised:
                logits = logits.copy()
                logits[raised[step][0]] += np.float32(raised[step][1])
            scores = rule.adjusted(logits, tail, step < self._least)
            choice = rule.draw(scores, None if rule.greedy or draws is None else partial(_at, draws, step % len(draws)))
            yield _Step(logits, scores, choice)
            tail = rule.follow(tail, token)

    def _free(self, rule: Rule, draws: Array | None = None) -> list[int]:
        """The tokens of a whole generation, without its end. Upstream drew no more than `draws` [steps, ids]."""
        most = self._limit.tokens if draws is None else min(self._limit.tokens, len(draws))
        rows = np.ones((1, self.model.ids), np.float32) if draws is None else draws
        row = Row(self._memory, self._run.audio, self._run.expected, self._least, most, partial(_at, rows))
        return [int(token) for (token,) in self.model.generate([row], rule)]

    def _speech(self, tokens: Iterable[int]) -> Array:
        """The codes among tokens, int64 [1, 1, codes]."""
        return np.array([[[token for token in tokens if token < self._codes]]], np.int64)


def _at(draws: Array, step: int, ids: Array) -> Array:
    numbers: Array = draws[step, ids]
    return numbers
