"""VyvoTTS: text -> language model -> SNAC codes -> speech, each while the one before still runs (docs/systems/vyvo.md).

    voice = voxport.load(bundle)
    for chunk in voice.say("Hello there.", seed=0):   # chunk.samples, chunk.sample_rate
        ...
    friend = voice.enroll("friend.wav", "what is said in it")
    speech = voice.say("Hello there.", voice=friend)

Settings carry upstream's names; their defaults stand in the manifest. With `constrained_decoding` only the logits of
ids that the grammar allows are computed, which is exactly upstream's mask, and audio leaves while tokens still come.
Without it (the classic dialect's default), or with `strict`, ids are read when all are there, as upstream does.

Runaway guard: without `greedy` and `max_new_tokens`, speech longer than `runaway_seconds` plus
`runaway_seconds_per_letter` for each letter (text.weight) is cut; `stopped` says so, and what was made is kept.
"""

import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import get_args

import numpy as np
import soxr

from voxport import draws
from voxport.bundle import Bundle
from voxport.codecs import snac
from voxport.graphs.session import Array
from voxport.manifest import Setting
from voxport.speech.chunks import growing
from voxport.speech.sampler import Sampling
from voxport.speech.speech import CONTEXT, END, LIMIT, RUNAWAY, SENTENCE, Settings, Speech, recording, settings
from voxport.speech.text import Tokenizer, pieces, weight
from voxport.systems.vyvo.format import Dialect, Format, Voice
from voxport.systems.vyvo.lm import Grammar, LanguageModel
from voxport.systems.vyvo.section import Section

SECONDS = ("fade_out", "runaway_seconds", "runaway_seconds_per_letter")
LEAST = {"max_new_tokens": 1, "chunk_frames": 1} | dict.fromkeys(("min_audio_frames", "split_letters", *SECONDS), 0)
MOST = dict.fromkeys(SECONDS, 1e9)  # counted in samples it is still a number

Named = str | Voice | None


@dataclass(frozen=True)
class Plan:
    """How one call of `say` goes."""

    chosen: Settings
    dialect: Dialect
    clone: bool
    sampling: Sampling
    grammar: Grammar | None
    greedy: bool
    limited: bool  # max_new_tokens was given and has upstream's meaning

    @property
    def free(self) -> bool:
        """The runaway guard acts, and long text is split."""
        return not self.greedy and not self.limited


class Speaker:
    """Says text: in the checkpoint's own voice, in a voice it knows by name, or in that of a reference."""

    def __init__(self, bundle: Bundle, *, threads: int | None = None) -> None:
        """`threads`: default all cores up to 4; a step is bound by memory and gains nothing from more."""
        self.bundle = bundle
        threads = threads or min(4, os.cpu_count() or 1)
        self.section = bundle.section(Section)
        self.codec = snac.Codec.of(bundle, self.section.codec, threads)
        self.format = Format(bundle.manifest.tokens, len(self.codec.order), self.codec.size)
        self.model = LanguageModel(bundle, threads, self.format.end, self.format.ids["PAD_TOKEN"])
        self._tokenizer = Tokenizer(bundle.path / "tokenizer.json")

    @property
    def sample_rate(self) -> int:
        """Of the speech, in Hz."""
        return self.bundle.manifest.sample_rate

    @property
    def voices(self) -> list[str]:
        """Names the checkpoint is known to speak as, and the enrolled voices that lie in the bundle."""
        return [*self.bundle.manifest.voices, *sorted(p.stem for p in self.bundle.path.glob("voices/*.safetensors"))]

    def say(
        self,
        text: str,
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
        """Speech, made while it is iterated. The same seed gives the same tokens however the chunks are cut.

        `voice`: a name (any is accepted), an enrolled Voice, or the path of one; `ref_audio` and `ref_text` enroll one
        for this call. ValueError in one line: empty text, text longer than the context, an unknown setting, a language
        or an instruct, which this system does not take.
        """
        del stream  # tokens are made as the audio is taken, either way
        if language is not None or instruct is not None:
            raise ValueError(f"vyvo takes no --{'instruct' if language is None else 'language'}")
        speaker = self._speaker(voice, ref_audio, ref_text)
        plan = self.plan(speaker, greedy, given)
        if plan.chosen["use_random_voice"] and speaker is None:
            names = self.bundle.manifest.voices
            speaker = names[int(draws.uniforms(seed, "vyvo.voice", 0, 1)[0] * len(names))]
        self._fits(self.prompt(text, speaker, plan.dialect))  # the whole: a book is refused before it is begun
        parts = pieces(text, int(plan.chosen["split_letters"])) if plan.free else [text]
        prompts = [self.prompt(part, speaker, plan.dialect) for part in parts]

        def make(speech: Speech) -> Iterator[Array]:
            for i, (part, prompt) in enumerate(zip(parts, prompts, strict=True)):
                limit = self._limit(part, prompt, plan)
                u = None if greedy else draws.uniforms(seed, f"vyvo.tokens.{i}", 0, (1, limit[0]))
                rows = self.model.generate([prompt], limit[:1], plan.sampling, plan.grammar, u)
                yield from self._voiced(speech, (int(row[0]) for row in rows), limit, plan, seed)

        return self._speech(make, speaker)

    def batch(
        self,
        texts: Sequence[str],
        *,
        voices: Sequence[Named] | None = None,
        seed: int = 0,
        greedy: bool = False,
        **given: Setting,
    ) -> list[Speech]:
        """Several texts in one pass of the model: tokens are generated now, audio is decoded when it is iterated.

        Row i draws what `say` draws for part i of a text. `voices`: one per text, all cloned or none. Errors as `say`.
        """
        speakers = [self._speaker(v) for v in (voices or [None] * len(texts))]
        if not texts or len(speakers) != len(texts) or len({isinstance(s, Voice) for s in speakers}) != 1:
            raise ValueError(f"{len(texts)} texts, {len(speakers)} voices: wanted a voice per text, all cloned or none")
        plan = self.plan(speakers[0], greedy, given)
        prompts = [self.prompt(text, s, plan.dialect) for text, s in zip(texts, speakers, strict=True)]
        limits = [self._limit(text, prompt, plan) for text, prompt in zip(texts, prompts, strict=True)]
        most = [limit for limit, _ in limits]
        drawn = (draws.uniforms(seed, f"vyvo.tokens.{i}", 0, max(most)) for i in range(len(texts)))
        u = None if greedy else np.stack(list(drawn))
        columns = np.stack(list(self.model.generate(prompts, most, plan.sampling, plan.grammar, u)), axis=1)

        def row(i: int) -> Speech:
            return self._speech(lambda s: self._voiced(s, columns[i].tolist(), limits[i], plan, seed), speakers[i])

        return [row(i) for i in range(len(texts))]

    def enroll(self, path: str | os.PathLike[str], text: str | None) -> Voice:
        """The voice of a recording (any rate, channels averaged) in which `text` is said.

        ValueError: not audio, silent, longer than the section's `reference_seconds`, or no text.
        """
        if text is None or not text.strip():
            raise ValueError(f"{path}: a cloned voice needs its transcript; give what is said in it with --ref-text")
        samples, rate = recording(path)
        most, seconds = self.section.reference_seconds, len(samples) / rate
        if seconds > most:
            raise ValueError(f"{path}: {seconds:.1f} s are too long for a reference; cut it to {most} s or less")
        return Voice(text, self._codes(samples, rate))

    def tokenize(self, samples: Array, rate: int) -> Array:
        """Samples float32 [n] at `rate` Hz -> tokens int64 [frames * codes per frame], from AUDIO_TOKENS_START on."""
        return self.format.coded(self._codes(samples, rate))

    def detokenize(self, tokens: Array, seed: int = 0) -> Iterator[Array]:
        """What `tokenize` made, or generated ids int [n] -> float32 [n], piece by piece. ValueError when neither."""
        plain = settings(self.bundle.manifest.sampling, [], {"fade_out": 0.0})
        return self.decoded(self.format.codes(tokens), plain, self._noise(plain, seed))

    def prompt(self, text: str, speaker: Named, dialect: Dialect) -> list[int]:
        """The ids of a prompt, without what the grammar forces after it. ValueError for empty text."""
        ids = self._tokenizer.ids(text)
        if isinstance(speaker, Voice):
            return self.format.clone(self._tokenizer.ids(speaker.text), speaker.codes, ids, dialect)
        named = bool(speaker) if dialect == "classic" else speaker is not None
        return self.format.plain(self._tokenizer.ids(f"{speaker}: {text}") if named else ids)

    # ------------------------------------------------------------------------------------------------- one call

    def resampled(self, samples: Array, rate: int) -> Array:
        """float32 [n] at the codec's rate, as upstream (librosa) resamples: soxr at quality HQ, length rounded up."""
        if rate == self.sample_rate:
            return samples
        length = -(-len(samples) * self.sample_rate // rate)
        made = soxr.resample(samples, rate, self.sample_rate, quality="HQ")[:length]
        return np.pad(made, (0, length - len(made))).astype(np.float32)

    def _codes(self, samples: Array, rate: int) -> Array:
        """[frames, codes per frame]"""
        return self.codec.interleave(self.codec.encode(self.resampled(samples, rate)))

    def _speaker(self, voice: Named, ref_audio: str | os.PathLike[str] | None = None, text: str | None = None) -> Named:
        if ref_audio is not None:
            if voice is not None:
                raise ValueError("a voice and a reference to clone: give one of them")
            return self.enroll(ref_audio, text)
        if text is not None:
            raise ValueError("a transcript without its recording; give --ref-audio too")
        if isinstance(voice, str):
            held = self.bundle.path / "voices" / f"{voice}.safetensors"
            if voice.endswith(".safetensors") or held.is_file():
                return Voice.load(held if held.is_file() else voice)
        return voice

    def plan(self, speaker: Named, greedy: bool, given: dict[str, Setting]) -> Plan:
        defaults, clone = self.bundle.manifest.sampling, isinstance(speaker, Voice)
        dialect = given.get("dialect", defaults["dialect"])
        if dialect not in get_args(Dialect):
            raise ValueError(f"dialect {dialect!r} is not one of {', '.join(get_args(Dialect))}")
        chosen = settings(defaults, [str(dialect), *(["clone"] if clone else [])], given)
        for name, least in LEAST.items():
            value, most = chosen[name], MOST.get(name, math.inf)
            if not least <= value <= most:  # type: ignore[operator]  # a number, as its default is
                raise ValueError(f"{name} {value}: wanted {least} " + (f".. {most:g}" if name in MOST else "or more"))
        grammar = None
        if chosen["constrained_decoding"]:
            grammar = self.format.grammar(clone, dialect, int(chosen["min_audio_frames"]))  # type: ignore[arg-type]
        limited = "max_new_tokens" in given
        return Plan(chosen, dialect, clone, Sampling.of(chosen), grammar, greedy, limited)  # type: ignore[arg-type]

    def _limit(self, text: str, prompt: Sequence[int], plan: Plan) -> tuple[int, str]:
        """(ids that may be generated, what it means to reach them)."""
        limits = [(int(plan.chosen["max_new_tokens"]), LIMIT), (self._fits(prompt), CONTEXT)]
        if plan.free:
            seconds = float(plan.chosen["runaway_seconds"])
            seconds += float(plan.chosen["runaway_seconds_per_letter"]) * weight(text)
            frames = int(seconds * self.sample_rate / (self.codec.frame * self.codec.hop))
            limits.append((2 + frames * self.format.frame, RUNAWAY))
        return min(limits)

    def _fits(self, prompt: Sequence[int]) -> int:
        """Room in the context after the prompt. ValueError when there is none for a frame."""
        context = self.section.context
        room = context - len(prompt)
        if room < 2 + self.format.frame:
            raise ValueError(
                f"{len(prompt)} tokens of text and voice do not fit the context of {context}; "
                "say the text in several calls"
            )
        return room

    def _speech(self, make: Callable[[Speech], Iterator[Array]], speaker: Named) -> Speech:
        speech = Speech(self.sample_rate, make)
        if isinstance(speaker, str) and speaker not in self.voices:
            known = ", ".join(self.voices) or "none"
            speech.warn(f"voice {speaker!r} is not known for this checkpoint, which may ignore it; known are {known}")
        return speech

    # ---------------------------------------------------------------------------------------------- ids to audio

    def _voiced(
        self, speech: Speech, ids: Iterable[int], limit: tuple[int, str], plan: Plan, seed: int
    ) -> Iterator[Array]:
        """The audio of one generation, of which `speech` is told."""
        told = self._told(speech, ids, limit, plan)
        if plan.grammar is not None and not plan.chosen["strict"]:
            yield from self.decoded(
                self._frames(told, len(plan.grammar.forced)), plan.chosen, self._noise(plan.chosen, seed)
            )
            return
        generated = np.array(list(told), np.int64)
        try:
            codes = self.format.read(generated, plan.clone, plan.dialect, bool(plan.chosen["strict"]))
        except ValueError as error:
            speech.warn(f"no audio: {error}")
            return
        yield from self.decoded(codes, plan.chosen, self._noise(plan.chosen, seed))

    def _told(self, speech: Speech, ids: Iterable[int], limit: tuple[int, str], plan: Plan) -> Iterator[int]:
        most, why = limit
        for count, token in enumerate(ids, start=1):
            speech.said(token)
            yield token
            if token == self.format.end:
                return speech.ended(END)
            if count == most:
                speech.ended(why)
                if why != LIMIT or not plan.limited:
                    speech.warn(f"the model did not end: its speech was cut after {most} tokens ({why})")
                return None
        return None

    def _noise(self, chosen: Settings, seed: int) -> snac.Noise:
        return snac.seeded(seed) if chosen["noise"] else snac.silent

    def _frames(self, ids: Iterator[int], forced: int) -> Iterator[Array]:
        """Every frame of codes [frame] as soon as it is whole. What the grammar made needs no checks."""
        spoken = (token for token in islice(ids, forced, None) if token != self.format.end)
        while len(frame := np.fromiter(islice(spoken, self.format.frame), np.int64)) == self.format.frame:
            yield self.format.frames(frame)[0]

    def decoded(self, frames: Iterable[Array], chosen: Settings, noise: snac.Noise) -> Iterator[Array]:
        """Codes, frame by frame -> float32 [n] as soon as it is settled; the end fades out."""
        stream = self.codec.stream(noise, chosen["codec_schedule"])  # type: ignore[arg-type]
        exact = chosen["codec_schedule"] == "exact"  # Orpheus's never plays the end, so there is none to fade
        fade = int(float(chosen["fade_out"]) * self.sample_rate) if exact else 0
        hold = max(0, fade - self.codec.delay)  # what may have to fade and is not in the stream's end
        held = np.empty(0, np.float32)
        first = self.codec.delay // (self.codec.frame * self.codec.hop) + 1
        for group in growing(frames, first, int(chosen["chunk_frames"])):
            if group:
                held = np.concatenate((held, stream.feed(np.concatenate(group))))
                ready = max(0, len(held) - hold)
                yield held[:ready]
                held = held[ready:]
        tail = np.concatenate((held, stream.flush()))
        fade = min(fade, len(tail))
        if fade:
            tail[-fade:] *= np.linspace(1, 0, fade, dtype=np.float32)
        yield tail

    def workload(self, seconds: float, _chunk_factor: int = 1) -> Iterator[Array]:
        """Speech of a set length for benchmarks: a sentence of 20 words, no end before the last frame."""
        frames = max(1, round(seconds * self.sample_rate / (self.codec.frame * self.codec.hop)))
        size = self.format.frame
        for chunk in self.say(SENTENCE, min_audio_frames=frames, max_new_tokens=2 + frames * size):
            yield chunk.samples

    def rehearse(self) -> dict[str, Array]:
        """What `golden/` holds: the scores of seven fixed steps, as parts of the largest, and the audio of fixed codes.

        Fixed, because one score that rounds the other way changes every token after it.
        """
        form, made = self.format, {}
        frames = 6 * math.lcm(self.codec.frame, self.codec.unit) // self.codec.frame  # whole attention windows
        codes = (draws.uniforms(0, "vyvo.rehearsal", 0, (frames, form.frame)) * form.size).astype(np.int64)
        prompt = [*self.prompt("One, two, three.", None, "current"), *form.grammar(False, "current", 0).forced]
        hidden = self.model.read(prompt, form.spoken(codes[:1]))
        for place, state in enumerate(hidden):
            scores = self.model.logits(f"head.{place}", state)[0]
            made[f"scores.{place}"] = scores / np.abs(scores).max()
        made["audio"] = np.concatenate(list(self.detokenize(form.coded(codes))))
        return made
