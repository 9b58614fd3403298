"""T5Gemma-TTS: text -> codes -> speech, in the voice of a recording or in any (docs/systems/t5gemma.md).

    voice = voxport.load(bundle)
    voice.say("Hello there.")                                                            # some voice
    voice.say("Hello there.", ref_audio="friend.wav", ref_text="what is said in it")     # that of a recording
    friend = voice.enroll("friend.wav", "what is said in it")                            # computed once
    for chunk in voice.say("Hello there.", voice=friend, stream=True):
        ...
    voice.batch(["Hello there.", "How are you?"], voice=friend)                          # one pass over the weights

Settings carry upstream's names (request.py). The model is told how long the speech will be, by `target_duration` or by
an estimate from the text. Audio is decoded when all codes are there, as upstream does; with `stream=True` it leaves
chunk by chunk, which the codec, looking at all codes at once, only approximates.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from voxport import draws
from voxport.bundle import Bundle
from voxport.codecs.xcodec2 import Codec
from voxport.codecs.xcodec2_encoder import Encoder
from voxport.graphs.session import Array
from voxport.rehearsal import Output, Rehearsal
from voxport.speech import voices
from voxport.speech.longtext import Piece, in_pieces, split
from voxport.speech.rows import Stopwatch
from voxport.speech.settings import Value
from voxport.speech.speech import SENTENCE, Events, Speech, synthesize
from voxport.speech.text import Tokenizer
from voxport.speech.voices import Voice as AnyVoice
from voxport.speech.voices import check_reference, enrolled, find
from voxport.systems.t5gemma.audio import Player
from voxport.systems.t5gemma.duration import Recording, counters, estimate
from voxport.systems.t5gemma.generation import Generator
from voxport.systems.t5gemma.language import canonical
from voxport.systems.t5gemma.lm import LanguageModel
from voxport.systems.t5gemma.pieces import Pieces
from voxport.systems.t5gemma.prompt import Prompt, Prompts, Reference
from voxport.systems.t5gemma.request import Request, request
from voxport.systems.t5gemma.rules import Rule
from voxport.systems.t5gemma.section import Section
from voxport.systems.t5gemma.text import Words
from voxport.systems.t5gemma.voice import Voice

Name = str | os.PathLike[str]
REFERENCE_SECONDS = 30  # upstream takes up to 100 s, of a model that was trained with 40 s of prompt and speech


class Speaker:
    """Says text. Any number of threads may use it at once."""

    def __init__(self, bundle: Bundle, *, threads: int | None = None) -> None:
        """`threads`: default all cores up to 4; a step is bound by memory and gains nothing from more."""
        self.bundle = bundle
        threads = threads or min(4, os.cpu_count() or 1)
        self.section = bundle.section(Section)
        self.model = LanguageModel(bundle, threads, self.section)
        self.codec = Codec(bundle.session("codec_decode", threads), self.section.codec)
        self._encoder = partial(Encoder, bundle, threads, self.section.codec)  # loads its graphs for a recording
        self._eos = bundle.manifest.tokens["eos"]
        self._generator = Generator(self.model, self.section)
        self._prompts = Prompts(self.section, bundle.manifest.tokens)
        self._tokens = Tokenizer(bundle.path / "tokenizer.json")

    @property
    def sample_rate(self) -> int:
        """Of the speech, in Hz."""
        return self.bundle.manifest.sample_rate

    @property
    def voices(self) -> list[str]:
        """The enrolled voices that lie in the bundle; the checkpoint has none of its own."""
        return enrolled(self.bundle.path)

    @property
    def clock(self) -> Stopwatch:
        """Steps of the decoder and the seconds they took."""
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
        stream: bool = False,
        **settings: Value,
    ) -> Speech:
        """Speech, made while it is iterated. The same seed gives the same tokens however the chunks are cut.

        `voice`: an enrolled Voice, its name in the bundle or its path; without one the model picks a voice. `ref_audio`
        and `ref_text` enroll one for this call. `language`: en, ja, zh or another, which sets the pace and how a text
        is written; left out, it is detected. A long text is said in pieces, `batch_size` of them in one pass over the
        weights. ValueError in one line: empty text, a text beyond the context, a recording without a transcript, an
        unknown setting, an `instruct`, which T5Gemma-TTS does not know.
        """
        plan = self.request(settings, seed=seed, greedy=greedy, stream=stream)
        if instruct is not None:
            raise ValueError("t5gemma takes no --instruct")
        speaker = self._voice(voice, ref_audio, ref_text)
        pieces = split(text, plan.split_letters)
        name = self.words(plan).language_of(text, language)  # a piece of Japanese may hold no kana
        tries = 1 + int(plan.settings["retries"]) if not greedy and not plan.limited and not stream else 1

        def prompt(text: str, voice: Voice | None) -> Prompt:
            return self.prompt(text, voice, name, plan)

        rate = self.section.frame_rate
        parts = Pieces(self._generator, self._rule(plan), plan, pieces, prompt, speaker, rate)

        def events(piece: Piece) -> Events:
            return synthesize(parts.events(piece, tries), Player(self.codec, plan))

        pause = int(float(plan.settings["split_pause"]) * self.sample_rate)
        return Speech(self.sample_rate, in_pieces(pieces, pause, events))

    def batch(
        self,
        texts: Sequence[str],
        *,
        voice: Name | AnyVoice | None = None,
        language: str | None = None,
        seed: int = 0,
        greedy: bool = False,
        stream: bool = False,
        **settings: Value,
    ) -> list[Speech]:
        """Several texts, or samples of one that is repeated, whose steps share each pass over the weights.

        Row i draws what `say` draws for piece i of a text. Whichever Speech is iterated takes all of them further.
        Errors as `say`.
        """
        if not texts:
            raise ValueError("no texts; give at least one")
        plan = self.request(settings, seed=seed, greedy=greedy, stream=stream)
        speaker = self._voice(voice)
        prompts = {text: self.prompt(text, speaker, language, plan) for text in texts}
        memories = {text: self.model.encode(prompt.text) for text, prompt in prompts.items()}
        rows = [
            self._generator.generation(prompts[text], plan, Piece(text, index), memory=memories[text])
            for index, text in enumerate(texts)
        ]
        together = self._generator.together(rows, self._rule(plan))
        return [Speech(self.sample_rate, synthesize(events, Player(self.codec, plan))) for events in together]

    def enroll(self, path: str | os.PathLike[str], text: str | None) -> Voice:
        """The voice of a recording (any rate, channels averaged) in which `text` is said.

        ValueError: not audio, silent, longer than half a minute, or no text.
        """
        if text is None or not text.strip():
            raise ValueError(
                f"{path}: a cloned voice needs its transcript, and nothing here transcribes: "
                "give what is said in it with --ref-text"
            )

        transcript = text

        def listen(samples: Array, rate: int) -> Voice:
            return Voice(transcript, self.tokenize(samples, rate), len(samples) / rate)

        return voices.enroll(path, REFERENCE_SECONDS, listen)

    def tokenize(self, samples: Array, rate: int) -> Array:
        """Samples float32 [n] at `rate` Hz -> codes int64 [frames]."""
        return self._encoder().encode(samples, rate)

    def detokenize(self, tokens: Array, seed: int = 0) -> Iterator[Array]:  # noqa: ARG002 - nothing is drawn here
        """Codes int [frames] -> float32 [n], all at once, as the codec looks at all of them. ValueError: not codes."""
        yield self.codec.decode(tokens)

    def request(
        self, options: Mapping[str, Value], *, seed: int = 0, greedy: bool = False, stream: bool = False
    ) -> Request:
        """The settings of one call. ValueError in one line when one cannot be."""
        plan = request(self.bundle.manifest.sampling, options, seed, greedy, stream)
        self._rule(plan)
        return plan

    def words(self, plan: Request) -> Words:
        """What reads the texts of a call."""
        return Words(self._tokens, bool(plan.settings["parse_special"]), bool(plan.settings["g2p"]))

    def prompt(self, text: str, speaker: Voice | None, language: str | None, plan: Request) -> Prompt:
        """What the model reads of a text. ValueError in one line: empty, or too long for the context."""
        words = self.words(plan)
        read = words.read(text, language)
        reference, record = None, None
        if speaker is not None:
            transcript = words.read(speaker.text, read.language)
            reference = Reference(transcript.ids, speaker.codes)
            record = Recording(transcript.words, speaker.seconds)
        seconds = plan.target_duration
        if seconds is None:
            counts = counters() if plan.settings["g2p"] else {}
            seconds = estimate(read.words, canonical(read.language), record, counts)
        return self._prompts.prompt(read.ids, seconds, reference, plan.repeat)

    # ------------------------------------------------------------------------------------------------- one call

    def _rule(self, plan: Request) -> Rule:
        return Rule.of(plan.settings, self._eos, plan.silence, plan.greedy)

    def _voice(
        self,
        voice: Name | AnyVoice | None = None,
        ref_audio: str | os.PathLike[str] | None = None,
        ref_text: str | None = None,
    ) -> Voice | None:
        check_reference(voice, ref_audio, ref_text)
        if ref_audio is not None:
            return self.enroll(ref_audio, ref_text)
        if isinstance(voice, Voice):
            return self._checked(voice)
        if voice is None:
            return None
        if not isinstance(voice, str | os.PathLike):
            raise ValueError("this voice was enrolled with another system; enroll the reference with this bundle")
        found = find(voice, self.bundle.path)
        if isinstance(found, str):
            known = ", ".join(self.voices) or "none"
            name = self.bundle.path.name
            raise ValueError(f"{name} knows no voice {found!r}; enrolled in it are {known}: see `voxport enroll`")
        return self._checked(Voice.load(found))

    def _checked(self, voice: Voice) -> Voice:
        """The voice. ValueError when its codes are not this bundle's codec's."""
        self.codec.checked(voice.codes)
        return voice

    # --------------------------------------------------------------------------------------- benchmarks and goldens

    def workload(self, seconds: float, _chunk_factor: int = 1, /, **settings: Value) -> Iterator[Array]:
        """Speech of a set length for benchmarks: `batch_size` samples (default 1) of a sentence of 20 words, which do
        not end before their last code; `seconds` are what all of them take together."""
        rows = int(settings.pop("batch_size", 1))
        count = max(1, round(seconds * self.section.frame_rate / rows))
        options: dict[str, Any] = {
            "min_new_tokens": count,
            "max_new_tokens": count,
            "extra_cutoff": seconds,
            **settings,
        }
        for speech in self.batch([SENTENCE] * rows, **options):
            for chunk in speech:
                yield chunk.samples

    def rehearse(self) -> Rehearsal:
        """What `golden/` holds: the scores of three fixed steps, as parts of the largest, and the audio of fixed codes.

        Fixed, because one score that rounds the other way changes every token after it.
        """
        codes = (draws.uniforms(0, "t5gemma.rehearsal", 0, 30) * self.section.codes).astype(np.int64)
        plan = self.request({"target_duration": 1.0}, greedy=True)
        prompt = self.prompt("One, two, three.", None, "en", plan)
        memory = self.model.encode(prompt.text)
        stages = ("text_embed", "encoder", "cross", "audio_embed", "decoder")
        recorded: Rehearsal = {}
        for i, scores in enumerate(self.model.read(memory, prompt.audio, prompt.expected, codes[:2].tolist())):
            recorded[f"scores.{i}"] = Output(scores / np.abs(scores).max(), stages)
        wave = self.codec.decode(codes)
        recorded["audio"] = Output(wave / np.abs(wave).max(), ("codec_decode",))
        return recorded
