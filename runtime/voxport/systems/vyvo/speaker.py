"""VyvoTTS: text -> language model -> SNAC codes -> speech, each while the one before runs (docs/systems/vyvo.md).

    voice = voxport.load(bundle)
    for chunk in voice.say("Hello there.", seed=0):   # chunk.samples, chunk.sample_rate
        ...
    friend = voice.enroll("friend.wav", "what is said in it")
    speech = voice.say("Hello there.", voice=friend)

Settings carry upstream's names (request.py). With `constrained_decoding` only the logits of ids that the grammar allows
are computed, which is exactly upstream's mask, and audio leaves while tokens still come. Without it (the classic
dialect's default), or with `strict`, ids are read when all are there, as upstream does.

Long text is said in pieces of `split_letters` letters, and speech that never ends is cut (speech/limits.py): `stopped`
says so, and what was made is kept. With `stream=False` nothing is handed out before a piece of the text is whole, and
one that was cut is said again with other draws.
"""

import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from voxport import draws
from voxport.audio.resample import resample_reference
from voxport.bundle import Bundle
from voxport.codecs import snac
from voxport.codecs.noise import Noise
from voxport.graphs.session import Array
from voxport.rehearsal import Output, Rehearsal
from voxport.speech.limits import END, LIMIT, Limit, guarded_frames, smallest
from voxport.speech.longtext import Piece, address, in_pieces, retried, split, spoken_letters
from voxport.speech.rows import Stopwatch
from voxport.speech.settings import Settings, Value
from voxport.speech.speech import SENTENCE, Ended, Events, Speech, Token, Warned
from voxport.speech.text import Tokenizer
from voxport.speech.voices import Voice as AnyVoice
from voxport.speech.voices import check_reference, enrolled, find, recording
from voxport.systems.vyvo import audio
from voxport.systems.vyvo.format import Dialect, Format
from voxport.systems.vyvo.lm import LanguageModel
from voxport.systems.vyvo.request import Request, request
from voxport.systems.vyvo.section import Section
from voxport.systems.vyvo.voice import Voice

Name = str | os.PathLike[str]


class Speaker:
    """Says text: in the checkpoint's own voice, in a voice it knows by name, or in that of a reference.

    Any number of threads may use it at once.
    """

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
        return [*self.bundle.manifest.voices, *enrolled(self.bundle.path)]

    @property
    def clock(self) -> Stopwatch:
        """Steps of the language model and the seconds they took."""
        return self.model.clock

    def say(
        self,
        text: str,
        *,
        voice: Name | AnyVoice | None = None,
        language: str | None = None,
        instruct: str | None = None,
        ref_audio: str | os.PathLike[str] | None = None,
        ref_text: str | None = None,
        seed: int = 0,
        greedy: bool = False,
        stream: bool = True,
        **settings: Value,
    ) -> Speech:
        """Speech, made while it is iterated. The same seed gives the same tokens however the chunks are cut.

        `voice`: a name (any is accepted), an enrolled Voice, or the path of one; `ref_audio` and `ref_text` enroll one
        for this call. ValueError in one line: empty text, a piece of text longer than the context, an unknown setting,
        a `language` or an `instruct`, which VyvoTTS does not know.
        """
        for option, value in (("language", language), ("instruct", instruct)):
            if value is not None:
                raise ValueError(f"vyvo takes no --{option}")
        speaker = self._voice(voice, ref_audio, ref_text)
        plan = self.request(speaker, greedy, settings, seed)
        if plan.settings["use_random_voice"] and speaker is None:
            names = self.bundle.manifest.voices
            speaker = names[int(draws.uniforms(seed, "vyvo.voice", 0, 1)[0] * len(names))]
        pieces = split(text, int(plan.settings["split_letters"])) if plan.guarded else [Piece(text)]
        for piece in pieces:  # what does not fit is refused before anything is said
            self._room(self.prompt(piece.text, speaker, plan.dialect))
        tries = 1 + int(plan.settings["retries"]) if plan.guarded and not stream else 1

        def events(piece: Piece) -> Events:
            prompt = self.prompt(piece.text, speaker, plan.dialect)
            limit = self._limit(piece.text, prompt, plan)

            def tokens(attempt: int) -> Events:
                stream = address("vyvo.tokens", piece.index, attempt)
                u = None if greedy else draws.uniforms(seed, stream, 0, (1, limit.tokens))
                rows = self.model.generate([prompt], [limit.tokens], plan.sampling, plan.grammar, u)
                return self._record_tokens((int(row[0]) for row in rows), limit, plan, piece)

            return self._synthesize(retried(tries, tokens), plan, piece.index)

        pause = int(float(plan.settings["split_pause"]) * self.sample_rate)
        return self._speech(in_pieces(pieces, pause, events), speaker)

    def batch(
        self,
        texts: Sequence[str],
        *,
        voices: Sequence[Name | AnyVoice | None] | None = None,
        seed: int = 0,
        greedy: bool = False,
        **settings: Value,
    ) -> list[Speech]:
        """Several texts in one pass of the model: tokens are generated now, audio is decoded when it is iterated.

        Row i draws what `say` draws for piece i of a text. `voices`: one per text, all cloned or none. Errors as `say`.
        """
        speakers = [self._voice(v) for v in (voices or [None] * len(texts))]
        if not texts or len(speakers) != len(texts) or len({isinstance(s, Voice) for s in speakers}) != 1:
            raise ValueError(f"{len(texts)} texts, {len(speakers)} voices: wanted a voice per text, all cloned or none")
        plan = self.request(speakers[0], greedy, settings, seed)
        prompts = [self.prompt(text, s, plan.dialect) for text, s in zip(texts, speakers, strict=True)]
        limits = [self._limit(text, prompt, plan) for text, prompt in zip(texts, prompts, strict=True)]
        most = [limit.tokens for limit in limits]
        uniforms = (draws.uniforms(seed, address("vyvo.tokens", i), 0, max(most)) for i in range(len(texts)))
        u = None if greedy else np.stack(list(uniforms))
        columns = np.stack(list(self.model.generate(prompts, most, plan.sampling, plan.grammar, u)), axis=1)

        def row(i: int) -> Speech:
            tokens = self._record_tokens(columns[i].tolist(), limits[i], plan, Piece(texts[i]))
            return self._speech(self._synthesize(tokens, plan, i), speakers[i])

        return [row(i) for i in range(len(texts))]

    def enroll(self, path: str | os.PathLike[str], text: str | None) -> Voice:
        """The voice of a recording (any rate, channels averaged) in which `text` is said.

        ValueError: not audio, silent, longer than the section's `reference_seconds`, or no text.
        """
        if text is None or not text.strip():
            raise ValueError(f"{path}: a cloned voice needs its transcript; give what is said in it with --ref-text")
        return Voice(text, self._codes(*recording(path, self.section.reference_seconds)))

    def tokenize(self, samples: Array, rate: int) -> Array:
        """Samples float32 [n] at `rate` Hz -> tokens int64 [frames * codes per frame], from AUDIO_TOKENS_START on."""
        return self.format.offset_codes(self._codes(samples, rate))

    def detokenize(self, tokens: Array, seed: int = 0) -> Iterator[Array]:
        """What `tokenize` returned, or generated ids int [n] -> float32 [n], in pieces. ValueError when neither."""
        plan = self.request(None, True, {"fade_out": 0.0}, seed)
        return self.decode(self.format.load_codes(tokens), plan.settings, plan.noise())

    def decode(self, frames: Iterable[Array], settings: Settings, noise: Noise) -> Iterator[Array]:
        """Codes, frame by frame -> float32 [n] as soon as it is settled; the end fades out."""
        return audio.decode(frames, audio.Player(self.codec, self.sample_rate, settings, noise))

    def prompt(self, text: str, speaker: str | Voice | None, dialect: Dialect) -> list[int]:
        """The ids of a prompt, without what the grammar forces after it. ValueError for empty text."""
        ids = self._tokenizer.ids(text)
        if isinstance(speaker, Voice):
            return self.format.clone(self._tokenizer.ids(speaker.text), speaker.codes, ids, dialect)
        named = bool(speaker) if dialect == "classic" else speaker is not None
        return self.format.plain(self._tokenizer.ids(f"{speaker}: {text}") if named else ids)

    def request(
        self, speaker: str | Voice | None, greedy: bool, options: Mapping[str, Value], seed: int = 0
    ) -> Request:
        """The settings of one call. ValueError in one line when one cannot be."""
        return request(self.format, self.bundle.manifest.sampling, options, isinstance(speaker, Voice), greedy, seed)

    # ------------------------------------------------------------------------------------------------- one call

    def _codes(self, samples: Array, rate: int) -> Array:
        """[frames, codes per frame]"""
        return self.codec.interleave(self.codec.encode(resample_reference(samples, rate, self.sample_rate)))

    def _voice(
        self,
        voice: Name | AnyVoice | None,
        ref_audio: str | os.PathLike[str] | None = None,
        ref_text: str | None = None,
    ) -> str | Voice | None:
        check_reference(voice, ref_audio, ref_text)
        if ref_audio is not None:
            return self.enroll(ref_audio, ref_text)
        if voice is None or isinstance(voice, Voice):
            return voice
        if not isinstance(voice, str | os.PathLike):
            raise ValueError("this voice was enrolled with another system; enroll the reference with this bundle")
        found = find(voice, self.bundle.path)
        return Voice.load(found) if isinstance(found, Path) else found

    def _limit(self, text: str, prompt: Sequence[int], plan: Request) -> Limit:
        """How many ids may be generated, forced ones counted."""
        guard = None
        if plan.guarded:
            frame = self.codec.frame * self.codec.hop
            frames = guarded_frames(plan.settings, spoken_letters(text), self.sample_rate, frame)
            guard = 2 + frames * self.format.frame
        return smallest(plan.settings, self._room(prompt), guard)

    def _room(self, prompt: Sequence[int]) -> int:
        """Ids that the context holds after the prompt. ValueError when there is no room for a frame."""
        context = self.section.context
        room = context - len(prompt)
        if room < 2 + self.format.frame:
            raise ValueError(
                f"{len(prompt)} tokens of text and voice do not fit the context of {context}; "
                "say the text in several calls"
            )
        return room

    def _speech(self, events: Events, speaker: str | Voice | None) -> Speech:
        warnings = []
        if isinstance(speaker, str) and speaker not in self.voices:
            known = ", ".join(self.voices) or "none"
            warnings = [f"voice {speaker!r} is not known for this checkpoint, which may ignore it; known are {known}"]
        return Speech(self.sample_rate, events, known_warnings=warnings)

    def _synthesize(self, events: Events, plan: Request, piece: int) -> Events:
        """The events of one generation, with its audio."""
        player = audio.Player(self.codec, self.sample_rate, plan.settings, plan.noise(piece))
        return audio.synthesize(events, plan, self.format, player)

    def _record_tokens(self, ids: Iterable[int], limit: Limit, plan: Request, piece: Piece) -> Events:
        """The ids of one generation as events, up to its end or its limit."""
        for count, token in enumerate(ids, start=1):
            yield Token(token)
            if token == self.format.end:
                yield Ended(END)
                return
            if count == limit.tokens:
                yield Ended(limit.why)
                if limit.why != LIMIT or not plan.limited:
                    yield Warned(piece.cut(limit))
                return

    # --------------------------------------------------------------------------------------- benchmarks and goldens

    def workload(self, seconds: float, _chunk_factor: int = 1, /, **settings: Value) -> Iterator[Array]:
        """Speech of a set length for benchmarks: a sentence of 20 words, no end before the last frame."""
        frames = max(1, round(seconds * self.sample_rate / (self.codec.frame * self.codec.hop)))
        size = self.format.frame
        options: dict[str, Any] = {"min_audio_frames": frames, "max_new_tokens": 2 + frames * size, **settings}
        for chunk in self.say(SENTENCE, **options):
            yield chunk.samples

    def rehearse(self) -> Rehearsal:
        """What `golden/` holds: the scores of seven fixed steps, as parts of the largest, and the audio of fixed codes.

        Fixed, because one score that rounds the other way changes every token after it.
        """
        form = self.format
        frames = 6 * math.lcm(self.codec.frame, self.codec.unit) // self.codec.frame  # whole attention windows
        codes = (draws.uniforms(0, "vyvo.rehearsal", 0, (frames, form.frame)) * form.size).astype(np.int64)
        prompt = [*self.prompt("One, two, three.", None, "current"), *form.grammar(False, "current", 0).forced]
        hidden = self.model.read(prompt, form.codes_to_ids(codes[:1]))
        outputs: Rehearsal = {}
        for place, state in enumerate(hidden):
            scores = self.model.logits(f"head.{place}", state)[0]
            outputs[f"scores.{place}"] = Output(scores / np.abs(scores).max(), ("lm", f"head.{place}"))
        audio = np.concatenate(list(self.detokenize(form.offset_codes(codes))))
        outputs["audio"] = Output(audio, ("codec_decode",))
        return outputs
