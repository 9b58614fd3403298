"""Qwen3-TTS, 12 Hz: text -> language model -> codec frames -> speech, while the frames still come (facts/qwen3tts.md).

    voice = voxport.load(bundle)
    for chunk in voice.say("Hello there.", voice="ryan", language="english", seed=0):   # CustomVoice
        ...
    voice.say("Hello there.", instruct="An old sailor, hoarse and slow.")                # VoiceDesign
    friend = voice.enroll("friend.wav", "what is said in it")                            # Base
    voice.say("Hello there.", voice=friend)

A text may come piece by piece, from any iterator of strings: it is said while it comes. Settings carry upstream's names
and stand in the manifest; those that upstream does not have are `OWN`.

Runaway guard: without `greedy` and `max_new_tokens`, speech longer than `runaway_seconds` plus
`runaway_seconds_per_letter` for each letter (text.weight) is cut; `stopped` says so. With `stream=False` nothing is
handed out before a piece of the text is whole, and one that ran away is said again with other draws.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from voxport import draws
from voxport.bundle import Bundle, Setting
from voxport.codec12hz import PIECE, Decoder, after_reference
from voxport.qwen3tts_lm import Embeddings, LanguageModel, Row, Rule
from voxport.qwen3tts_prompt import Prompt, Prompts, Reference
from voxport.qwen3tts_text import Words
from voxport.qwen3tts_voice import Listener, Voice
from voxport.schedule import growing
from voxport.session import Array
from voxport.speak import CONTEXT, END, LIMIT, RUNAWAY, SENTENCE, Settings, Speech, settings
from voxport.text import pieces, weight

OWN: Settings = {
    "codec_schedule": "exact",  # or upstream: all at the end, in chunks of 300 frames that see 25 before them
    "first_chunk_frames": 1,
    "chunk_frames": 4,
    "parse_special": False,  # upstream's: special tokens in the text are not plain text
    "fix_mistral_regex": False,  # upstream's, when it loads from a local folder
    "split_letters": 400,  # text.weight of a piece of long text: half a minute; quality falls in long generations
    "split_pause": 0.2,  # seconds of silence between such pieces
    "runaway_seconds": 3.0,
    "runaway_seconds_per_letter": 0.25,
    "retries": 2,
}
LEAST = {"max_new_tokens": 1, "first_chunk_frames": 1, "chunk_frames": 1} | dict.fromkeys(
    ("min_new_tokens", "split_letters", "split_pause", "runaway_seconds", "runaway_seconds_per_letter", "retries"), 0
)

Named = str | Voice | None
Said = str | Iterable[str]


@dataclass(frozen=True)
class _Plan:
    """How one call of `say` goes."""

    chosen: Settings
    rule: Rule
    words: Words
    voice: Named
    language: str | None
    instruct: str
    seed: int
    limited: bool  # max_new_tokens was given and has upstream's meaning

    @property
    def free(self) -> bool:
        """The runaway guard acts: something is left to chance, and nobody asked for upstream's length."""
        return self.rule.draws and not self.limited

    @property
    def spoken(self) -> Array | None:
        """The codes the speech goes on from (in-context cloning), [frames, books]."""
        cloned = isinstance(self.voice, Voice) and not self.chosen["x_vector_only_mode"]
        return self.voice.codes if cloned and isinstance(self.voice, Voice) else None


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
        self._words = cache(lambda parse, fix: Words(bundle.path / "tokenizer.json", parse, fix))
        self._primed: tuple[Array, Decoder] | None = None
        self._clones = "speaker_encode" in bundle.manifest.stages

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
        plan = self._plan(voice, language, instruct, (ref_audio, ref_text), seed, greedy, given, isinstance(text, str))
        parts: Sequence[Said] = [text]
        if isinstance(text, str) and not plan.limited:
            # With the best code every time the text stays whole while upstream's limit holds it: a frame is a letter.
            parts = pieces(text, int(plan.chosen["split_letters" if plan.free else "max_new_tokens"]))
        first = self._row(text, plan, 0) if isinstance(text, str) and len(parts) == 1 else None

        def make(speech: Speech) -> Iterator[Array]:
            for i, part in enumerate(parts):
                if i:
                    yield np.zeros(int(float(plan.chosen["split_pause"]) * self.sample_rate), np.float32)
                yield from self._voiced(self._part(speech, part, plan, i, stream, first), plan)

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
        if not texts or any(len(row) != len(texts) for row in lists):
            raise ValueError(f"{len(texts)} texts, {' and '.join(str(len(row)) for row in lists)} names: wanted as many")
        plans = [self._plan(v, l, i, (None, None), seed, greedy, given, True) for v, l, i in zip(*lists, strict=True)]
        rows = [self._row(text, plan, i) for i, (text, plan) in enumerate(zip(texts, plans, strict=True))]
        made = list(self.model.generate([row for row, _ in rows], plans[0].rule))

        def speech(i: int) -> Speech:
            frames = [step[i] for step in made]
            told = (frame for frame in frames if frame is not None)
            return self._speech(
                lambda s: self._voiced(self._told(s, told, *rows[i], plans[i]), plans[i]), plans[i], lists[2][i]
            )

        return [speech(i) for i in range(len(texts))]

    def enroll(self, path: str | os.PathLike[str], text: str | None) -> Voice:
        """The voice of a recording (any rate, channels averaged); without a transcript for x_vector_only_mode alone.

        ValueError: not audio, silent, too short or too long, or this model clones no voices.
        """
        if not self._clones:
            raise ValueError(f"{self._name()} clones no voices; export a Base model for that")
        return self._listener().enroll(path, text)

    def tokenize(self, samples: Array, rate: int) -> Array:
        """Samples float32 [n] at `rate` Hz -> codes int64 [frames, books]."""
        return self._listener().codes(samples, rate)

    def detokenize(self, tokens: Array, seed: int = 0) -> Iterator[Array]:  # noqa: ARG002 - nothing is drawn here
        """Codes int [frames, books] -> float32 [n], piece by piece. ValueError when they are none."""
        stream = self.codec.stream()
        for start in range(0, len(tokens), PIECE):
            yield stream.push(tokens[start : start + PIECE])

    def prompt(self, text: Said, plan: _Plan) -> Prompt:
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

    def _name(self) -> str:
        return f"{self.bundle.path.name} (Qwen3-TTS {self.bundle.manifest.variant})"

    def _plan(
        self,
        voice: Named,
        language: str | None,
        instruct: str | None,
        recording: tuple[str | os.PathLike[str] | None, str | None],
        seed: int,
        greedy: bool,
        given: dict[str, Setting],
        whole: bool,
    ) -> _Plan:
        manifest = self.bundle.manifest
        defaults = {"x_vector_only_mode": False, "min_new_tokens": manifest.schedule["least_tokens"]} | OWN
        chosen = settings(defaults | manifest.sampling, [], ({} if whole else {"non_streaming_mode": False}) | given)
        for name, least in LEAST.items():
            if not float(chosen[name]) >= least:
                raise ValueError(f"{name} {chosen[name]}: wanted {least} or more")
        if chosen["codec_schedule"] not in ("exact", "upstream"):
            raise ValueError(f"codec_schedule {chosen['codec_schedule']!r} is not one of exact, upstream")
        speaker = self._speaker(voice, recording, bool(chosen["x_vector_only_mode"]))
        self.prompts.language(language, speaker if isinstance(speaker, str) else None)
        heard = (instruct or "") if manifest.schedule["instruct"] else ""
        words = self._words(chosen["parse_special"], chosen["fix_mistral_regex"])
        rule, limited = Rule.of(chosen, greedy), "max_new_tokens" in given
        return _Plan(chosen, rule, words, speaker, language, heard.strip(), seed, limited)

    def _speaker(
        self, voice: Named, recording: tuple[str | os.PathLike[str] | None, str | None], x_vector_only: bool
    ) -> Named:
        """A name or a voice that can be used. ValueError says what this variant wants instead."""
        ref_audio, ref_text = recording
        if ref_audio is not None and voice is not None:
            raise ValueError("a voice and a reference to clone: give one of them")
        if ref_audio is None and ref_text is not None:
            raise ValueError("a transcript without its recording; give --ref-audio too")
        if ref_audio is not None:
            if self._clones and not x_vector_only and not (ref_text or "").strip():
                raise ValueError(
                    f"{ref_audio}: in-context cloning needs its transcript; give what is said in it with --ref-text, "
                    "or --set x_vector_only_mode=true"
                )
            return self.enroll(ref_audio, None if x_vector_only else ref_text)
        if isinstance(voice, str):
            held = self.bundle.path / "voices" / f"{voice}.safetensors"
            if voice.endswith(".safetensors") or held.is_file():
                voice = Voice.load(held if held.is_file() else voice)
        if not self._clones:
            if isinstance(voice, Voice):
                raise ValueError(f"{self._name()} clones no voices; export a Base model for that")
            if voice is None:
                return next(iter(self.bundle.manifest.voices), None)
            if not self.prompts.speakers and voice:
                raise ValueError(f"{self._name()} has no voices of its own; describe one with --instruct")
            return self.prompts.speaker(voice) if voice else ""
        if not isinstance(voice, Voice):
            known = f"; enrolled are {', '.join(self.voices)}" if self.voices else ""
            asked = f"knows no voice {voice!r} and " if voice else ""
            raise ValueError(
                f"{self._name()} {asked}speaks in the voice of a reference: give --ref-audio, or a file that "
                f"`voxport enroll` made{known}"
            )
        if not x_vector_only and not voice.text:
            raise ValueError(
                "this voice was enrolled without a transcript; enroll it again with --ref-text, or "
                "--set x_vector_only_mode=true"
            )
        return voice

    def _row(self, text: Said, plan: _Plan, part: int, attempt: int = 0) -> tuple[Row, str]:
        """(a generation, what it means to reach its limit). ValueError when the context has no room for a frame."""
        heard = [weight(text)] if isinstance(text, str) else [0]
        prompt = self.prompt(text if isinstance(text, str) else _weighed(text, heard), plan)
        context, fed = self.bundle.manifest.schedule["context"], len(prompt.embeds)
        if context - fed < 2:
            raise ValueError(
                f"{fed} tokens of text and voice do not fit the context of {context}; say the text in several calls"
            )
        most, why = min((int(plan.chosen["max_new_tokens"]), LIMIT), (context - fed, CONTEXT))
        rate = self.sample_rate / self.codec.frame
        first, per_letter = (float(plan.chosen[f"runaway_seconds{n}"]) for n in ("", "_per_letter"))

        def limit() -> int:
            return min(most, 1 + int((first + per_letter * heard[0]) * rate)) if plan.free else most

        stream = f"qwen3tts.{part}" + (f".again{attempt}" if attempt else "")
        row = Row(prompt, most, limit, lambda frame: draws.uniforms(plan.seed, stream, frame, self.model.books))
        return row, why

    def _part(
        self, speech: Speech, part: Said, plan: _Plan, i: int, stream: bool, first: tuple[Row, str] | None
    ) -> Iterator[Array]:
        """The frames of one generation; of several, when it may be tried again, those of the first that ended."""
        tries = 1 if stream or not plan.free or not isinstance(part, str) else 1 + int(plan.chosen["retries"])
        for attempt in range(tries):
            row, why = first if first and not attempt else self._row(part, plan, i, attempt)
            frames: Iterable[Array] = (made for (made,) in self.model.generate([row], plan.rule) if made is not None)
            if attempt + 1 < tries:
                frames = list(frames)
                if row.stopped != END:
                    continue
            break
        return self._told(speech, frames if stream else list(frames), row, why, plan)

    def _told(self, speech: Speech, frames: Iterable[Array], row: Row, why: str, plan: _Plan) -> Iterator[Array]:
        for frame in frames:
            speech.said(frame)
            yield frame
        cut = row.limit()
        reason = END if row.stopped == END else why if cut == row.most else RUNAWAY
        speech.ended(reason)
        if reason != END and not plan.limited:
            speech.warn(f"the model did not end: its speech was cut after {cut} tokens ({reason})")

    def _speech(self, make: object, plan: _Plan, instruct: str | None) -> Speech:
        speech = Speech(self.sample_rate, make, (self.model.books,))  # type: ignore[arg-type]
        if instruct and not plan.instruct:
            speech.warn(f"{self._name()} does not listen to an instruct; it is ignored")
        return speech

    # ------------------------------------------------------------------------------------------ frames to audio

    def _voiced(self, frames: Iterable[Array], plan: _Plan) -> Iterator[Array]:
        """Frames [books] as they come -> float32 [n] of the new speech alone."""
        spoken = plan.spoken
        if plan.chosen["codec_schedule"] == "upstream":
            codes = np.array([*([] if spoken is None else spoken), *frames], np.int64).reshape(-1, self.model.books)
            wave = self.codec.chunked(codes)
            yield wave if spoken is None else wave[after_reference(len(spoken), len(codes), len(wave)) :]
            return
        stream = self._after(spoken)
        for group in growing(frames, int(plan.chosen["first_chunk_frames"]), int(plan.chosen["chunk_frames"])):
            if group:
                yield stream.push(np.stack(group))

    def _after(self, spoken: Array | None) -> Decoder:
        """A decoder that has just said `spoken`; the last voice's is kept."""
        if spoken is None:
            return self.codec.stream()
        if self._primed is None or not np.array_equal(self._primed[0], spoken):
            stream = self.codec.stream()
            stream.push(spoken)
            self._primed = (spoken, stream)
        return self._primed[1].fork()


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


def workload(speaker: Speaker, seconds: float, _chunk_factor: int = 1) -> Iterator[Array]:
    """Speech of a set length for benchmarks: a sentence of 20 words, no end before the last frame."""
    frames = max(1, round(seconds * speaker.sample_rate / speaker.codec.frame))
    voice = stranger(speaker)
    for chunk in speaker.say(SENTENCE, voice=voice, min_new_tokens=frames, max_new_tokens=frames + 1):
        yield chunk.samples


def rehearse(speaker: Speaker) -> dict[str, Array]:
    """What `golden/` holds: the scores of three fixed frames, as parts of the largest, and the audio of fixed codes.

    Fixed, because one score that rounds the other way changes every code after it.
    """
    model = speaker.model
    codes = (draws.uniforms(0, "qwen3tts.rehearsal", 0, (6, model.books)) * model.size).astype(np.int64)
    voice = stranger(speaker)
    plan = speaker._plan(voice, None, None, (None, None), 0, True, {"x_vector_only_mode": True}, True)
    made = {}
    for i, (stage, scores) in enumerate(model.read(speaker.prompt("One, two, three.", plan), codes[:3])):
        made[f"{stage}.{i // 2}"] = scores / np.abs(scores).max()
    if voice is not None:
        made["voice"] = voice.embedding / np.abs(voice.embedding).max()
    made["audio"] = np.concatenate(list(speaker.detokenize(codes)))
    return made
