"""The language model of Qwen3-TTS: prompts to frames of codes (docs/systems/qwen3tts.md 4, 5, 9.1).

The talker says code 0 of a frame, or that it ends; the predictor, in one call, says the frame's other codes and gives
the sum of all their embeddings, which with the next row of text is the talker's next input.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Self

import numpy as np

from voxport.bundle import Bundle
from voxport.graphs.session import Array, Session
from voxport.speech.limits import END, LIMIT
from voxport.speech.rows import Rows, Stopwatch
from voxport.speech.sampler import Sampling
from voxport.speech.settings import Settings
from voxport.systems.qwen3tts.prompt import Prompt
from voxport.systems.qwen3tts.section import Section

BEST = Sampling(temperature=1.0, top_k=1, top_p=1.0, repetition_penalty=1.0)  # with a draw of 0
EVEN = Sampling(temperature=1e9, top_k=0, top_p=1.0, repetition_penalty=1.0)

Watch = Callable[[str, Mapping[str, Array]], None]


class Embeddings:
    """The tables of a bundle."""

    def __init__(self, bundle: Bundle, threads: int) -> None:
        self._text, self._codec = (bundle.session(f"{kind}_embed", threads) for kind in ("text", "codec"))
        self._frames = bundle.session("frame_embed", threads) if "frame_embed" in bundle.manifest.stages else None

    def text(self, ids: Sequence[int]) -> Array:
        """float32 [ids, width]."""
        return _rows(self._text, ids=np.array(ids, np.int64))

    def codec(self, ids: Sequence[int]) -> Array:
        """float32 [ids, width]."""
        return _rows(self._codec, ids=np.array(ids, np.int64))

    def frames(self, codes: Array) -> Array:
        """codes int64 [n, books] -> float32 [n, width]. ValueError in a model that hears no reference."""
        if self._frames is None:
            raise ValueError("this model hears no reference; a Base model does")
        return _rows(self._frames, codes=codes)


def _rows(session: Session, **inputs: Array) -> Array:
    return session(session.start(), into=None, **inputs)[0]["embeds"]


@dataclass(frozen=True)
class Rule:
    """How codes follow from logits: `first` draws code 0, `rest` the others; the best one where they are None.

    `processed` holds the penalty that acts on code 0 in either case; `least`: tokens before the end.
    """

    processed: Sampling
    first: Sampling | None
    rest: Sampling | None
    least: int

    @classmethod
    def of(cls, settings: Settings, greedy: bool) -> Self:
        """From settings by upstream's names."""
        first = Sampling.of(settings)
        sub = {name: settings[f"subtalker_{name}"] for name in ("temperature", "top_k", "top_p")}
        try:
            rest = Sampling.of(sub | {"repetition_penalty": 1.0})
        except ValueError as error:
            raise ValueError(f"subtalker_{error}") from None
        return cls(
            first,
            first if settings["do_sample"] and not greedy else None,
            rest if settings["subtalker_dosample"] and not greedy else None,
            int(settings["min_new_tokens"]),
        )

    @property
    def draws(self) -> bool:
        """Anything is left to chance."""
        return self.first is not None or self.rest is not None


@dataclass
class Row:
    """One generation. It may take `limit()` tokens, at most `most`; the last has no frame. `draws(frame)` float32
    [books] in [0, 1): code 0 first. `stopped` says in the end why: "end", or "max_new_tokens" for any limit."""

    prompt: Prompt
    most: int
    limit: Callable[[], int]
    draws: Callable[[int], Array]
    stopped: str = ""


class LanguageModel:
    """Prompts to frames. Several threads may use one at once; `clock` times the steps of all (without prefill)."""

    def __init__(self, bundle: Bundle, threads: int) -> None:
        self._talker, self._predictor = (bundle.session(stage, threads) for stage in ("talker", "predictor"))
        tokens, section = bundle.manifest.tokens, bundle.section(Section)
        self.books, self.size, self.end = section.books, section.codes, tokens["codec.eos"]
        # ids that may be drawn, ascending, without and with the end
        codes = np.arange(tokens["codec.suppressed"])
        self._codes, self._all = codes[codes != self.end], np.union1d(codes, [self.end])
        self.clock = Stopwatch()

    def generate(self, rows: Sequence[Row], rule: Rule, watch: Watch | None = None) -> Iterator[list[Array | None]]:
        """The next frame of every row, int64 [books], None for rows that stopped; until all have.

        `watch` gets every output of the graphs, and between them "choice", the rows' codes 0.
        """
        see: Watch = watch or (lambda *_: None)
        room = max(len(row.prompt.embeds) + row.most for row in rows)
        talker = Rows(self._talker, len(rows), room)
        outputs = talker.begin(embeds=[row.prompt.embeds for row in rows])
        history = np.zeros((len(rows), outputs["logits"].shape[1]), bool)  # codes 0 of each row
        for step in count():
            see("talker", outputs)
            with self.clock.timing(steps=1):
                u = [row.draws(step) if rule.draws and not row.stopped else np.zeros(self.books) for row in rows]
                uniforms = np.array(u, np.float32)
                code = np.zeros(len(rows), np.int64)
                for i, row in enumerate(rows):
                    if not row.stopped:
                        code[i] = self._code(outputs["logits"][i], history[i], rule, step, float(uniforms[i, 0]))
                        history[i, code[i]] = True
                        if code[i] == self.end or step + 1 >= row.limit():
                            row.stopped = END if code[i] == self.end else LIMIT
                            talker.stop(i)
                see("choice", {"code": code})
                active = talker.active.copy()
                if not active.any():
                    return
                frame = self._frame(outputs["hidden"], np.where(active, code, 0), uniforms[:, 1:], rule.rest)
                see("predictor", frame)
            yield [
                np.array([first, *others]) if on else None
                for first, others, on in zip(code, frame["codes"], active, strict=True)
            ]
            text = [
                next(row.prompt.trailing, row.prompt.pad) if on else 0 for row, on in zip(rows, active, strict=True)
            ]
            embeds = np.stack([embed + t for embed, t in zip(frame["embed"], text, strict=True)])
            with self.clock.timing():
                outputs = talker.step(embeds=embeds)

    def read(
        self, prompt: Prompt, codes: Array, hidden: Array | None = None
    ) -> Iterator[tuple[str, Mapping[str, Array]]]:
        """Outputs of talker and predictor, in turn, while every code is forced to be that of `codes` [frames, books].

        `hidden` [frames, width]: what the predictor is fed in place of the talker's.

        As hot as `EVEN` all codes are equally likely, so a draw names the code it makes.
        """
        talker = Rows(self._talker, 1, len(prompt.embeds) + len(codes))
        outputs = talker.prefill(0, embeds=prompt.embeds)
        for i, frame in enumerate(codes):
            yield "talker", outputs
            u = ((frame[None, 1:] + 0.5) / self.size).astype(np.float32)
            fed = outputs["hidden"] if hidden is None else hidden[i : i + 1]
            rest = self._frame(fed, frame[:1], u, EVEN)
            yield "predictor", rest
            outputs = talker.step(embeds=rest["embed"] + next(prompt.trailing, prompt.pad))
        yield "talker", outputs

    def ids(self, step: int, rule: Rule) -> Array:
        """What may be drawn as the token of a step, ascending."""
        return self._codes if step < rule.least else self._all

    def _code(self, logits: Array, history: Array, rule: Rule, step: int, u: float) -> int:
        ids = self.ids(step, rule)
        scores = rule.processed.penalized(logits[ids], history[ids])
        return int(ids[int(np.argmax(scores)) if rule.first is None else rule.first.draw(scores, u)])

    def _frame(self, hidden: Array, code: Array, u: Array, rest: Sampling | None) -> dict[str, Array]:
        """The codes after `code` int64 [rows], and the embedding of the whole frame."""
        sampling = rest or BEST
        return self._predictor(
            self._predictor.start(),
            into=None,
            hidden=hidden,
            code=code,
            uniforms=np.ascontiguousarray(u if rest else np.zeros_like(u)),
            temperature=np.array([sampling.temperature], np.float32),
            top_k=np.array([sampling.top_k], np.int64),
            top_p=np.array([sampling.top_p], np.float32),
        )[0]
