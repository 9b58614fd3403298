"""What the talker of Qwen3-TTS is fed: prompts put together from embeddings (docs/systems/qwen3tts.md 3).

Every row of a prompt is the sum of a text embedding and a codec embedding. The manifest's tokens name the ids:

    tts_bos, tts_eos, tts_pad                                   text ids
    codec.pad, codec.bos, codec.think, codec.nothink, codec.think_bos, codec.think_eos
    language.<name>, speaker.<name>                             codec ids
    dialect.<speaker>                                           the language id a speaker of a dialect brings along
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Protocol

import numpy as np

from voxport.graphs.session import Array

AUTO = "auto"


class Tables(Protocol):
    """Embeddings float32 [n, width], a row per id or frame."""

    def text(self, ids: Sequence[int]) -> Array:
        """Of text ids, projected to the talker's width."""
        ...

    def codec(self, ids: Sequence[int]) -> Array:
        """Of control ids and codes of book 0."""
        ...

    def frames(self, codes: Array) -> Array:
        """Of whole frames, codes int64 [n, books]."""
        ...


@dataclass(frozen=True)
class Text:
    """A text as ids: what comes before it, then its own in blocks, which may still be on their way."""

    role: Sequence[int]
    blocks: Iterable[Sequence[int]]


@dataclass(frozen=True)
class Reference:
    """A voice to continue: the ids of what is said in it, and its codes int64 [frames, books]."""

    ids: Sequence[int]
    codes: Array


@dataclass(frozen=True)
class Prompt:
    """`embeds` float32 [rows, width] go in first. To the embedding of each frame made after that the next row of
    `trailing` is added (the text that is still to be said), and `pad` [width] when there is none left."""

    embeds: Array
    trailing: Iterator[Array]
    pad: Array


class Prompts:
    """Makes prompts out of ids and tables."""

    def __init__(self, tokens: Mapping[str, int], tables: Tables) -> None:
        """KeyError names a token that the manifest lacks."""
        self._ids, self.tables = tokens, tables
        self.languages, self.speakers, self.dialects = (
            {name.removeprefix(kind): i for name, i in tokens.items() if name.startswith(kind)}
            for kind in ("language.", "speaker.", "dialect.")
        )
        self._bos, self._eos, self._pad = tables.text([tokens[f"tts_{name}"] for name in ("bos", "eos", "pad")])
        self._codec_pad, self._codec_bos = tables.codec([tokens["codec.pad"], tokens["codec.bos"]])

    def prompt(
        self,
        text: Text,
        language: str | None,
        speaker: str | Array | None,
        *,
        whole: bool,
        instruct: Sequence[int] = (),
        reference: Reference | None = None,
    ) -> Prompt:
        """`whole`: all of the text goes in before the first frame (non_streaming_mode); else a token per frame.

        `speaker`: a name, or an x-vector [width]; `instruct`: the ids of its whole template. ValueError: empty text, an
        unknown name (the known ones are listed), an x-vector of another width.
        """
        rows = [
            *([self.tables.text(instruct)] if len(instruct) else []),
            self.tables.text(text.role),
            self._pad + self._prefix(language, speaker),
            self._bos[None] + self._codec_pad,
        ]
        text_rows = self._rows(text.blocks if reference is None else _chained(reference.ids, text.blocks))
        first = next(text_rows)
        if reference is not None:
            body, trailing = self._beside(first, text_rows, reference.codes, whole)
        elif whole:
            body = np.stack([first, *text_rows]) + self._codec_pad
            body, trailing = np.concatenate((body, self._pad[None] + self._codec_bos)), iter(())
        else:
            body, trailing = first[None] + self._codec_bos, text_rows
        return Prompt(np.concatenate([*rows, body]), trailing, self._pad)

    def language(self, language: str | None, speaker: str | None) -> int | None:
        """The id of a language, None for auto. A speaker of a dialect turns Chinese and auto into the dialect."""
        name = (language or AUTO).lower()
        if name != AUTO and name not in self.languages:
            raise ValueError(f"language {language!r} is not one of {', '.join([AUTO, *sorted(self.languages)])}")
        if name in (AUTO, "chinese") and speaker in self.dialects:
            return self.dialects[str(speaker)]
        return None if name == AUTO else self.languages[name]

    def speaker(self, name: str) -> str:
        """A speaker's name as the checkpoint writes it, whatever the case."""
        if name.lower() not in self.speakers:
            known = ", ".join(sorted(self.speakers)) or "none: this model has no voices of its own"
            raise ValueError(f"voice {name!r} is not known to this model; known are {known}")
        return name.lower()

    def _prefix(self, language: str | None, speaker: str | Array | None) -> Array:
        """[n, width]: the language and the speaker."""
        ids, name = self._ids, self.speaker(speaker) if isinstance(speaker, str) else None
        language_id = self.language(language, name)
        think = (
            ["codec.nothink", "codec.think_bos", "codec.think_eos"]
            if language_id is None
            else ["codec.think", "codec.think_bos", "", "codec.think_eos"]
        )
        prefix = [ids[entry] if entry else int(language_id or 0) for entry in think]
        rows = self.tables.codec([*prefix, *([self.speakers[name]] if name else [])])
        if speaker is None or name:
            return rows
        if np.shape(speaker) != self._pad.shape:
            raise ValueError(
                f"a voice of {np.size(speaker)} numbers, this model's have {len(self._pad)}: it belongs to another "
                "model; enroll the reference with this bundle"
            )
        return np.concatenate((rows, np.asarray(speaker, np.float32)[None]))

    def _rows(self, blocks: Iterable[Sequence[int]]) -> Iterator[Array]:
        """The text's embeddings row by row, as it comes, and the end. ValueError when there is no text."""
        count = 0
        for block in blocks:
            if len(block):
                count += len(block)
                yield from self.tables.text(block)
        if not count:
            raise ValueError("the text is empty; give at least one word")
        yield self._eos

    def _beside(self, first: Array, rest: Iterator[Array], codes: Array, whole: bool) -> tuple[Array, Iterator[Array]]:
        """The reference beside its text and what follows (in-context learning): (rows, trailing)."""
        frames = np.concatenate((self._codec_bos[None], self.tables.frames(codes)))
        if whole:
            return np.concatenate((np.stack([first, *rest]) + self._codec_pad, frames + self._pad)), iter(())
        text = np.stack([first, *islice(rest, len(frames) - 1)])
        short = len(frames) - len(text)
        return np.concatenate((text, np.repeat(self._pad[None], short, axis=0))) + frames, rest


def _chained(first: Sequence[int], blocks: Iterable[Sequence[int]]) -> Iterator[Sequence[int]]:
    """The reference's ids before the text's; none when there is no text."""
    rest = iter(blocks)
    for block in rest:
        if len(block):
            yield [*first, *block]
            break
    yield from rest
