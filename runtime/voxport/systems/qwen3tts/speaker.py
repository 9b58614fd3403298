"""Qwen3-TTS, 12 Hz: text -> language model -> codec frames -> speech, frame by frame (docs/systems/qwen3tts.md).

    voice = voxport.load(bundle)
    for chunk in voice.say("Hello there.", voice="ryan", language="english", seed=0):   # CustomVoice
        ...
    voice.say("Hello there.", instruct="An old sailor, hoarse and slow.")                # VoiceDesign
    friend = voice.enroll("friend.wav", "what is said in it")                            # Base
    voice.say("Hello there.", voice=friend)

A text may come piece by piece, from any iterator of strings: it is said while it comes. Settings carry upstream's names
and stand in the manifest; those that upstream does not have are in qwen3tts_request.py.

Runaway guard: without `greedy` and `max_new_tokens`, speech longer than `runaway_seconds` plus
`runaway_seconds_per_letter` for each letter (text.weight) is cut; `stopped` says so. With `stream=False` nothing is
handed out before a piece of the text is whole, and one that ran away is said again with other draws.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from weakref import WeakKeyDictionary

import numpy as np

from voxport import draws
from voxport.bundle import Bundle
from voxport.codecs.codec12hz import PIECE, Decoder, after_reference
from voxport.graphs.session import Array
from voxport.manifest import Setting
from voxport.speech.chunks import growing
from voxport.speech.speech import CONTEXT, END, LIMIT, RUNAWAY, SENTENCE, Speech
from voxport.speech.text import pieces, weight
from voxport.systems.qwen3tts.lm import Embeddings, LanguageModel, Row
from voxport.systems.qwen3tts.prompt import Prompt, Prompts, Reference
from voxport.systems.qwen3tts.request import Named, Request, Requests
from voxport.systems.qwen3tts.section import Section
from voxport.systems.qwen3tts.voice import Listener, Voice

Said = str | Iterable[str]
Limit = Callable[[], tuple[int, str]]


class Speaker:
    """Says text: in a voice of the checkpoint (CustomVoice), a described one (VoiceDesign) or a cloned one (Base)."""

    def __init__(self, bundle: Bundle, *, threads: int | None = None) -> None:
        """`threads`: default all cores up to 4; a step is bound by memory and gains nothing from more."""
        self.bundle = bundle
        threads = threads or min(4, os.cpu_count() or 1)
        self.model = LanguageModel(bundle, threads)
        self.codec = Decoder(bundle.session("codec_decode", threads), self.model.size)
        self.prompts = Prompts(bundle.manifest.tokens, Embeddings(bundle, threads))
        self._listener = cache(lambda: Listener(bundle, threads))  # its graphs are loaded when there is a recording
        self.requests = Requests(bundle, self.prompts, self._listener)
        self._primed: tuple[Array, Decoder] | None = None

    @property
    def sample_rate(self) -> int:
        """Of the speech, in Hz."""
        return self.bundle.manifest.sample_rate

    @property
    def voices(self) -> list[str]:
        """The checkpoint's own speakers, and the enrolled voices that lie in the bundle."""
        return [*self.bundle.manifest.voices, *sorted(p.stem for p in self.bundle.path.glob("voices/*.safetensors"))]

    @property
    def languages(self) -> list[str]:
        """What `language` may be."""
        return ["auto", *sorted(self.prompts.languages)]

    def say(
        self,
        text: Said,
        *,
        voice: Named = None,
        language: str | None = None,
        instruct: str | None = None,
        ref_audio: str | os.PathLike[str] | None = None,
        ref_text: str | None = None,
        seed: int = 0,
        greedy: bool = False,
        stream: bool = True,
        **given: Setting,
    ) -> Speech:
        """Speech, made while it is iterated. The same seed gives the same codes however the chunks are cut.

        `voice`: a speaker's name (default: the first), an enrolled Voice or the path of one; `ref_audio` and `ref_text`
        enroll one for this call; `instruct`: how to say it. Text in pieces goes in a token per frame unless
        `non_streaming_mode` is given. ValueError in one line: empty text, an unknown name, a request that this variant
        cannot fulfil, text longer than the context.
        """
        plan = self.requests.of(
            voice, language, instruct, ref_audio, ref_text, seed, greedy, given, isinstance(text, str)
        )
        parts: Sequence[Said] = [text]
        if isinstance(text, str) and not plan.limited:
            # With the best code every time the text stays whole while upstream's limit holds it: a frame is a letter.
            parts = pieces(text, int(plan.chosen["split_letters" if plan.free else "max_new_tokens"]))
        first = self._row(text, plan, 0) if isinstance(text, str) and len(parts) == 1 else None

        def make(speech: Speech) -> Iterator[Array]:
            for i, part in enumerate(parts):
                if i:
                    yield np.zeros(int(float(plan.chosen["split_pause"]) * self.sample_rate), np.float32)
                yield from self.audio(self._part(speech, part, plan, i, stream, first), plan)

        return self._speech(make, plan, instruct)

    def batch(
        self,
        texts: Sequence[str],
        *,
        voices: Sequence[Named] | None = None,
        languages: Sequence[str | None] | None = None,
        instructs: Sequence[str | None] | None = None,
        seed: int = 0,
        greedy: bool = False,
        **given: Setting,
    ) -> list[Speech]:
        """Several texts in one pass of the model: codes are made now, audio is decoded when it is iterated.

        Row i draws what `say` draws for piece i of a text. Errors as `say`, and ValueError for lists of other lengths.
        """
        empty: list[None] = [None] * len(texts)
        lists = (voices or empty, languages or empty, instructs or empty)
        if not texts or any(len(names) != len(texts) for names in lists):
            raise ValueError(f"wanted a voice, a language and an instruct for each of {len(texts)} texts, or none")
        asked = zip(*lists, strict=True)
        plans = [self.requests.of(v, l, i, None, None, seed, greedy, given) for v, l, i in asked]  # noqa: E741
        rows = [self._row(text, plan, i) for i, (text, plan) in enumerate(zip(texts, plans, strict=True))]
        made = list(self.model.generate([row for row, _ in rows], plans[0].rule))

        def speech(i: int) -> Speech:
            frames = [step[i] for step in made]
            told = (frame for frame in frames if frame is not None)
            return self._speech(
                lambda s: self.audio(self._told(s, told, *rows[i], plans[i]), plans[i]), plans[i], lists[2][i]
            )

        return [speech(i) for i in range(len(texts))]

    def enroll(self, path: str | os.PathLike[str], text: str | None) -> Voice:
        """The voice of a recording (any rate, channels averaged); without a transcript for x_vector_only_mode alone.

        ValueError: not audio, silent, too short or too long, or this model clones no voices.
        """
        return self.requests.enroll(path, text)

    def tokenize(self, samples: Array, rate: int) -> Array:
        """Samples float32 [n] at `rate` Hz -> codes int64 [frames, books]."""
        return self._listener().codes(samples, rate)

    def detokenize(self, tokens: Array, seed: int = 0) -> Iterator[Array]:  # noqa: ARG002 - nothing is drawn here
        """Codes int [frames, books] -> float32 [n], piece by piece. ValueError when they are none."""
        stream = self.codec.stream()
        for start in range(0, len(tokens), PIECE):
            yield stream.push(tokens[start : start + PIECE])

    def prompt(self, text: Said, plan: Request) -> Prompt:
        """What the talker is fed for a text."""
        reference, name = None, plan.voice
        if plan.spoken is not None and isinstance(name, Voice):
            reference = Reference(plan.words.reference(name.text), plan.spoken)
        return self.prompts.prompt(
            plan.words.target(text),
            plan.language,
            name.embedding if isinstance(name, Voice) else name or None,
            whole=bool(plan.chosen["non_streaming_mode"]),
            instruct=plan.words.instruct(plan.instruct) if plan.instruct else (),
            reference=reference,
        )

    # ------------------------------------------------------------------------------------------------- one call

    def _row(self, text: Said, plan: Request, part: int, attempt: int = 0) -> tuple[Row, Limit]:
        """(a generation, how many tokens it may make so far and why). ValueError when the context is too short."""
        heard = [weight(text)] if isinstance(text, str) else [0]
        prompt = self.prompt(text if isinstance(text, str) else _weighed(text, heard), plan)
        context, fed = self.bundle.section(Section).context, len(prompt.embeds)
        if context - fed < 2:
            raise ValueError(
                f"{fed} tokens of text and voice do not fit the context of {context}; say the text in several calls"
            )
        most = min((int(plan.chosen["max_new_tokens"]), LIMIT), (context - fed, CONTEXT))
        first, per_letter = (float(plan.chosen[f"runaway_seconds{n}"]) for n in ("", "_per_letter"))

        def limit() -> tuple[int, str]:
            frames = (first + per_letter * heard[0]) * self.sample_rate / self.codec.frame
            return min(most, (1 + int(frames), RUNAWAY)) if plan.free else most

        stream = f"qwen3tts.{part}" + (f".again{attempt}" if attempt else "")
        room, _ = limit() if isinstance(text, str) else most
        row = Row(
            prompt, room, lambda: limit()[0], lambda frame: draws.uniforms(plan.seed, stream, frame, self.model.books)
        )
        return row, limit

    def _part(
        self, speech: Speech, part: Said, plan: Request, i: int, stream: bool, first: tuple[Row, Limit] | None
    ) -> Iterator[Array]:
        """The frames of one generation; of several, when it may be tried again, those of the first that ended."""
        tries = 1 if stream or not plan.free or not isinstance(part, str) else 1 + int(plan.chosen["retries"])
        for attempt in range(tries):
            row, limit = first if first and not attempt else self._row(part, plan, i, attempt)
            frames: Iterable[Array] = (made for (made,) in self.model.generate([row], plan.rule) if made is not None)
            if attempt + 1 < tries:
                frames = list(frames)
                if row.stopped == END:
                    break
        return self._told(speech, frames, row, limit, plan)

    def _told(self, speech: Speech, frames: Iterable[Array], row: Row, limit: Limit, plan: Request) -> Iterator[Array]:
        for frame in frames:
            speech.said(frame)
            yield frame
        cut, why = (0, END) if row.stopped == END else limit()
        speech.ended(why)
        if why != END and not plan.limited:
            speech.warn(f"the model did not end: its speech was cut after {cut} tokens ({why})")

    def _speech(self, make: Callable[[Speech], Iterator[Array]], plan: Request, instruct: str | None) -> Speech:
        speech = Speech(self.sample_rate, make, (self.model.books,))
        if instruct and not plan.instruct:
            speech.warn(f"{self.requests.model} does not listen to an instruct; it is ignored")
        if plan.voice is None and not plan.instruct:
            speech.warn(f"{self.requests.model} has no voices of its own, and without an instruct it takes any")
        return speech

    # ------------------------------------------------------------------------------------------ frames to audio

    def audio(self, frames: Iterable[Array], plan: Request) -> Iterator[Array]:
        """Frames [books] as they come -> float32 [n] of the new speech alone."""
        spoken = plan.spoken
        if plan.chosen["codec_schedule"] == "upstream":
            codes = np.array([*([] if spoken is None else spoken), *frames], np.int64).reshape(-1, self.model.books)
            wave = self.codec.chunked(codes)
            yield wave if spoken is None else wave[after_reference(len(spoken), len(codes), len(wave)) :]
            return
        stream = self.after(spoken)
        first = int(plan.chosen["first_chunk_frames"])
        for group in growing(frames, first, int(plan.chosen["chunk_frames"]), first):
            if group:
                yield stream.push(np.stack(group))

    def after(self, spoken: Array | None) -> Decoder:
        """A decoder that has just said `spoken`; the last voice's is kept."""
        if spoken is None:
            return self.codec.stream()
        if self._primed is None or not np.array_equal(self._primed[0], spoken):
            stream = self.codec.stream()
            stream.push(spoken)
            self._primed = (spoken, stream)
        return self._primed[1].fork()

    def workload(self, seconds: float, _chunk_factor: int = 1) -> Iterator[Array]:
        """Speech of a set length for benchmarks: a sentence of 20 words, no end before the last frame.

        A Base model's voice is enrolled by the first call, the warm-up; the next ones speak with it."""
        frames = max(1, round(seconds * self.sample_rate / self.codec.frame))
        voice = _enrolled[self] if self in _enrolled else _enrolled.setdefault(self, stranger(self))
        for chunk in self.say(SENTENCE, voice=voice, min_new_tokens=frames, max_new_tokens=frames + 1):
            yield chunk.samples

    def rehearse(self) -> dict[str, Array]:
        """What `golden/` holds: the scores of three fixed frames, as parts of the largest, the audio of fixed codes.

        Fixed, because one score that rounds the other way changes every code after it.
        """
        model = self.model
        codes = (draws.uniforms(0, "qwen3tts.rehearsal", 0, (6, model.books)) * model.size).astype(np.int64)
        voice = stranger(self)
        plan = self.requests.of(voice, None, None, None, None, 0, True, {})
        made = {}
        for i, (stage, outputs) in enumerate(model.read(self.prompt("One, two, three.", plan), codes[:3])):
            made[f"{stage}.{i // 2}"] = outputs["logits"][0] / np.abs(outputs["logits"]).max()
        if voice is not None:
            made["voice"] = voice.embedding / np.abs(voice.embedding).max()
        made["audio"] = np.concatenate(list(self.detokenize(codes)))
        return made


def _weighed(text: Iterable[str], heard: list[int]) -> Iterator[str]:
    """The pieces of a text; their letters are added to `heard` as they come."""
    for piece in text:
        heard[0] += weight(piece)
        yield piece


def stranger(speaker: Speaker) -> Voice | None:
    """A made-up voice for models that have none: the hum of a buzzing glide, 3 s, enrolled."""
    if "speaker_encode" not in speaker.bundle.manifest.stages:
        return None
    t = np.arange(3 * speaker.sample_rate) / speaker.sample_rate
    phase = 2 * np.pi * (110 * t + 15 * t * t)
    hum = sum(np.sin(k * phase) / k for k in range(1, 12)) * (0.6 + 0.4 * np.sin(2 * np.pi * 4 * t)) / 4
    return speaker._listener().voice(hum.astype(np.float32), speaker.sample_rate, "Mmmm.")


_enrolled: WeakKeyDictionary[Speaker, Voice | None] = WeakKeyDictionary()  # who speaks in benchmarks
