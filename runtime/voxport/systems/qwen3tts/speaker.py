"""Qwen3-TTS, 12 Hz: text -> language model -> codec frames -> speech, as the frames come (docs/systems/qwen3tts.md).

    voice = voxport.load(bundle)
    for chunk in voice.say("Hello there.", voice="ryan", language="english", seed=0):   # CustomVoice
        ...
    voice.say("Hello there.", instruct="An old sailor, hoarse and slow.")                # VoiceDesign
    friend = voice.enroll("friend.wav", "what is said in it")                            # Base
    voice.say("Hello there.", voice=friend)

A text may come piece by piece, from any iterator of strings: it is said while it comes. Settings carry upstream's names
(request.py).

Long text is said in pieces of `split_letters` letters, and speech that never ends is cut (speech/limits.py): `stopped`
says so. With `stream=False` nothing is handed out before a piece of the text is whole, and one that was cut is said
again with other draws.
"""

import os
import threading
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from typing import Any

import numpy as np

from voxport import draws
from voxport.bundle import Bundle
from voxport.codecs import codec12hz
from voxport.graphs.session import Array
from voxport.rehearsal import Output, Rehearsal
from voxport.speech.longtext import Piece, in_pieces, retried, split
from voxport.speech.rows import Stopwatch
from voxport.speech.settings import Value
from voxport.speech.speech import SENTENCE, Events, Speech, synthesize
from voxport.speech.voices import Voice as AnyVoice
from voxport.speech.voices import enrolled
from voxport.systems.qwen3tts import audio
from voxport.systems.qwen3tts.generation import Generation, Generator, Letters
from voxport.systems.qwen3tts.lm import Embeddings, LanguageModel
from voxport.systems.qwen3tts.prompt import Prompt, Prompts, Reference
from voxport.systems.qwen3tts.request import Name, Request, Requests
from voxport.systems.qwen3tts.section import Section
from voxport.systems.qwen3tts.voice import Voice, synthetic_voice

Text = str | Iterable[str]

# What a prompt goes through, as far as the bundle has it; the last four for a cloned voice.
PROMPT_STAGES = ("text_embed", "codec_embed", "frame_embed", "codec_analyse", "codec_encode", "speaker_encode")


class Speaker:
    """Says text: in a voice of the checkpoint (CustomVoice), a described one (VoiceDesign) or a cloned one (Base).

    Any number of threads may use it at once.
    """

    def __init__(self, bundle: Bundle, *, threads: int | None = None) -> None:
        """`threads`: default all cores up to 4; a step is bound by memory and gains nothing from more."""
        self.bundle = bundle
        threads = threads or min(4, os.cpu_count() or 1)
        self.model = LanguageModel(bundle, threads)
        self.codec = codec12hz.Codec(bundle.session("codec_decode", threads), self.model.size)
        self.prompts = Prompts(bundle.manifest.tokens, Embeddings(bundle, threads))
        self.requests = Requests(bundle, self.prompts, threads)
        context = bundle.section(Section).context
        self._generator = Generator(self.model, context, self.sample_rate, self.codec.frame)
        self._lock = threading.Lock()  # of the stream below
        self._primed: tuple[Array, codec12hz.Stream] | None = None
        requests, rate = self.requests, self.sample_rate
        self._workload_voice = cache(lambda: synthetic_voice(requests.listener(), rate))

    @property
    def sample_rate(self) -> int:
        """Of the speech, in Hz."""
        return self.bundle.manifest.sample_rate

    @property
    def voices(self) -> list[str]:
        """The checkpoint's own speakers, and the enrolled voices that lie in the bundle."""
        return [*self.bundle.manifest.voices, *enrolled(self.bundle.path)]

    @property
    def languages(self) -> list[str]:
        """What `language` may be."""
        return ["auto", *sorted(self.prompts.languages)]

    @property
    def clock(self) -> Stopwatch:
        """Steps of the language model and the seconds they took."""
        return self.model.clock

    def say(
        self,
        text: Text,
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
        """Speech, made while it is iterated. The same seed gives the same codes however the chunks are cut.

        `voice`: a speaker's name (default: the first), an enrolled Voice or the path of one; `ref_audio` and `ref_text`
        enroll one for this call; `instruct`: how to say it. Text in pieces goes in a token per frame unless
        `non_streaming_mode` is given. ValueError in one line: empty text, an unknown name, a request that this variant
        cannot fulfil, text longer than the context.
        """
        request = self.requests.request(
            voice=voice,
            language=language,
            instruct=instruct,
            ref_audio=ref_audio,
            ref_text=ref_text,
            seed=seed,
            greedy=greedy,
            options=settings,
            whole=isinstance(text, str),
        )
        if not isinstance(text, str):
            return self._speech(self._typed(text, request), request, instruct)
        pieces = [Piece(text)]
        if not request.limited:
            # With the best code every time the text stays whole while upstream's limit holds it: a frame is a letter.
            letters = request.settings["split_letters" if request.guarded else "max_new_tokens"]
            pieces = split(text, int(letters))
        first = self._generation(pieces[0], request)  # what does not fit is refused before anything is said
        tries = 1 + int(request.settings["retries"]) if request.guarded and not stream else 1

        def events(piece: Piece) -> Events:
            def frames(attempt: int) -> Events:
                is_first = piece.index == 0 and attempt == 0
                generation = first if is_first else self._generation(piece, request, attempt)
                return self._generator.run(generation)

            return synthesize(retried(tries, frames), self._player(request))

        pause = int(float(request.settings["split_pause"]) * self.sample_rate)
        return self._speech(in_pieces(pieces, pause, events), request, instruct)

    def batch(
        self,
        texts: Sequence[str],
        *,
        voices: Sequence[Name | AnyVoice | None] | None = None,
        languages: Sequence[str | None] | None = None,
        instructs: Sequence[str | None] | None = None,
        seed: int = 0,
        greedy: bool = False,
        **settings: Value,
    ) -> list[Speech]:
        """Several texts in one pass of the model: codes are made now, audio is decoded when it is iterated.

        Row i draws what `say` draws for piece i of a text. Errors as `say`, and ValueError for lists of other lengths.
        """
        empty: list[None] = [None] * len(texts)
        lists = (voices or empty, languages or empty, instructs or empty)
        if not texts or any(len(names) != len(texts) for names in lists):
            raise ValueError(f"wanted a voice, a language and an instruct for each of {len(texts)} texts, or none")
        requests = [
            self.requests.request(
                voice=voice, language=language, instruct=instruct, seed=seed, greedy=greedy, options=settings
            )
            for voice, language, instruct in zip(*lists, strict=True)
        ]
        generations = [
            self._generation(Piece(text, i), request)
            for i, (text, request) in enumerate(zip(texts, requests, strict=True))
        ]
        steps = list(self.model.generate([generation.row for generation in generations], requests[0].rule))

        def speech(i: int) -> Speech:
            frames = (step[i] for step in steps)
            events = generations[i].events(frame for frame in frames if frame is not None)
            return self._speech(synthesize(events, self._player(requests[i])), requests[i], lists[2][i])

        return [speech(i) for i in range(len(texts))]

    def enroll(self, path: str | os.PathLike[str], text: str | None) -> Voice:
        """The voice of a recording (any rate, channels averaged); without a transcript for x_vector_only_mode alone.

        ValueError: not audio, silent, too short or too long, or this model clones no voices.
        """
        return self.requests.enroll(path, text)

    def tokenize(self, samples: Array, rate: int) -> Array:
        """Samples float32 [n] at `rate` Hz -> codes int64 [frames, books]."""
        return self.requests.listener().codes(samples, rate)

    def detokenize(self, tokens: Array, seed: int = 0) -> Iterator[Array]:  # noqa: ARG002 - nothing is drawn here
        """Codes int [frames, books] -> float32 [n], piece by piece. ValueError when they are none."""
        codes, stream = self.codec.checked(tokens), self.codec.stream()
        for start in range(0, len(codes), codec12hz.PIECE):
            yield stream.feed(codes[start : start + codec12hz.PIECE])

    def prompt(self, text: Text, request: Request) -> Prompt:
        """What the talker is fed for a text."""
        voice, codes = request.voice, request.reference
        reference = None
        if codes is not None and isinstance(voice, Voice):
            reference = Reference(request.words.reference(voice.text), codes)
        return self.prompts.prompt(
            request.words.target(text),
            request.language,
            voice.embedding if isinstance(voice, Voice) else voice or None,
            whole=bool(request.settings["non_streaming_mode"]),
            instruct=request.words.instruct(request.instruct) if request.instruct else (),
            reference=reference,
        )

    def decode(self, frames: Iterable[Array], request: Request) -> Iterator[Array]:
        """Frames [books] as they come -> float32 [n] of the new speech alone, piece by piece."""
        return audio.decode(frames, self._player(request))

    def stream(self, reference: Array | None) -> codec12hz.Stream:
        """A stream of the codec that has just decoded `reference`; that of the last voice is kept."""
        if reference is None:
            return self.codec.stream()
        with self._lock:
            if self._primed is None or not np.array_equal(self._primed[0], reference):
                stream = self.codec.stream()
                stream.feed(reference)
                self._primed = (reference, stream)
            return self._primed[1].fork()

    # ------------------------------------------------------------------------------------------------- one call

    def _typed(self, text: Iterable[str], request: Request) -> Events:
        """The events of a text that comes piece by piece: one generation."""
        letters = Letters(None)
        prompt = self.prompt(letters.counted(text), request)
        generation = self._generator.generation(prompt, letters, request, Piece(""))
        yield from synthesize(self._generator.run(generation), self._player(request))

    def _generation(self, piece: Piece, request: Request, attempt: int = 0) -> Generation:
        """One try of a piece. ValueError when the context is too short."""
        prompt = self.prompt(piece.text, request)
        return self._generator.generation(prompt, Letters(piece.text), request, piece, attempt)

    def _player(self, request: Request) -> audio.Player | audio.UpstreamPlayer:
        if request.settings["codec_schedule"] == "upstream":
            return audio.UpstreamPlayer(self.codec, request.reference)
        return audio.Player(self.stream(request.reference), request.settings)

    def _speech(self, events: Events, request: Request, instruct: str | None) -> Speech:
        warnings, model = [], self.requests.model
        if instruct and not request.instruct:
            warnings.append(f"{model} does not listen to an instruct; it is ignored")
        if request.voice is None and not request.instruct:
            warnings.append(f"{model} has no voices of its own, and without an instruct it takes any")
        return Speech(self.sample_rate, events, (self.model.books,), warnings)

    # --------------------------------------------------------------------------------------- benchmarks and goldens

    def workload(self, seconds: float, _chunk_factor: int = 1, /, **settings: Value) -> Iterator[Array]:
        """Speech of a set length for benchmarks: a sentence of 20 words, no end before the last frame.

        A Base model's voice is enrolled by the first call, the warm-up; the next ones speak with it."""
        frames = max(1, round(seconds * self.sample_rate / self.codec.frame))
        voice = self._workload_voice()
        options: dict[str, Any] = {"min_new_tokens": frames, "max_new_tokens": frames + 1, **settings}
        for chunk in self.say(SENTENCE, voice=voice, **options):
            yield chunk.samples

    def rehearse(self) -> Rehearsal:
        """What `golden/` holds: the scores of three fixed frames, as parts of the largest, the audio of fixed codes.

        Fixed, because one score that rounds the other way changes every code after it.
        """
        model = self.model
        codes = (draws.uniforms(0, "qwen3tts.rehearsal", 0, (6, model.books)) * model.size).astype(np.int64)
        voice = synthetic_voice(self.requests.listener(), self.sample_rate)
        request = self.requests.request(voice=voice, greedy=True)
        recorded: Rehearsal = {}
        stages = set(PROMPT_STAGES) & self.bundle.manifest.stages.keys()
        for i, (stage, outputs) in enumerate(model.read(self.prompt("One, two, three.", request), codes[:3])):
            stages.add(stage)  # a frame goes through both, and the next one hears it
            scores = outputs["logits"][0] / np.abs(outputs["logits"]).max()
            recorded[f"{stage}.{i // 2}"] = Output(scores, tuple(sorted(stages)))
        if voice is not None:
            recorded["voice"] = Output(voice.embedding / np.abs(voice.embedding).max(), ("speaker_encode",))
        recorded["audio"] = Output(np.concatenate(list(self.detokenize(codes))), ("codec_decode",))
        return recorded
