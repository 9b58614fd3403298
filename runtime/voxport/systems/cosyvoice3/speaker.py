"""Fun-CosyVoice3: text -> speech tokens -> mel -> speech, in the voice of a recording (docs/systems/cosyvoice3.md).

    voice = voxport.load(bundle)
    voice.say("Hello there.", ref_audio="friend.wav", ref_text="what is said in it")     # zero_shot
    voice.say("Hello there.", ref_audio="friend.wav")                                    # cross_lingual
    voice.say("Hello there.", ref_audio="friend.wav", instruct="请用广东话表达。")           # instruct2
    friend = voice.enroll("friend.wav", "what is said in it")                            # computed once
    for chunk in voice.say("Hello there.", voice=friend):
        ...
    voice.revoice(samples, rate, voice=friend)                                           # what somebody else said

A text may come piece by piece, from any iterator of strings: it is said while it comes. Settings carry upstream's names
(request.py). With `stream=False` the mel of a piece of text is computed at once, in which every frame sees every other,
as upstream does offline; otherwise block by block, as upstream's net was trained for streams (audio.py).
"""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache, partial
from itertools import chain
from typing import Any

import numpy as np

from voxport import draws
from voxport.bundle import Bundle
from voxport.codecs import CodecStream
from voxport.graphs.session import Array
from voxport.rehearsal import Output, Rehearsal
from voxport.speech.limits import END
from voxport.speech.longtext import Piece, in_pieces, retried
from voxport.speech.rows import Stopwatch
from voxport.speech.settings import Value
from voxport.speech.speech import SENTENCE, Ended, Events, Speech, Token, synthesize
from voxport.speech.text import Tokenizer, settled
from voxport.speech.voices import Voice as AnyVoice
from voxport.speech.voices import check_reference, enrolled, find
from voxport.systems.cosyvoice3 import recording
from voxport.systems.cosyvoice3.audio import LowLatency, Player, Upstream, Whole, trimmed
from voxport.systems.cosyvoice3.flow import WINDOW, Flow
from voxport.systems.cosyvoice3.flowstream import Reference
from voxport.systems.cosyvoice3.frontend import Listener
from voxport.systems.cosyvoice3.generation import Generator
from voxport.systems.cosyvoice3.lm import LanguageModel
from voxport.systems.cosyvoice3.prompt import END as END_OF_PROMPT
from voxport.systems.cosyvoice3.prompt import mode_of, prompt
from voxport.systems.cosyvoice3.request import Request, request
from voxport.systems.cosyvoice3.section import Section
from voxport.systems.cosyvoice3.silence import SilenceFilter
from voxport.systems.cosyvoice3.text import normalized, segments
from voxport.systems.cosyvoice3.vocoder import Vocoder
from voxport.systems.cosyvoice3.voice import Voice, synthetic_voice

Name = str | os.PathLike[str]
Text = str | Iterable[str]

VOCODER_STAGES = ("f0", "source", "vocoder")


class Speaker:
    """Says text, or what somebody else said, in the voice of a recording. Any number of threads may use it at once."""

    def __init__(self, bundle: Bundle, *, threads: int | None = None) -> None:
        """`threads`: default all cores up to 4."""
        self.bundle = bundle
        threads = threads or min(4, os.cpu_count() or 1)
        self.section = bundle.section(Section)
        self.model = LanguageModel(bundle, threads, self.section.llm)
        self.flow = Flow(bundle, threads, self.section.flow, self.section.token_rate)
        self._vector = int(self.flow.net.session("flow_speaker").stage.inputs[0].sized({})[0])  # of a voice: its length
        self.vocoder = Vocoder(bundle, threads, self.section.vocoder)
        self.tokenizer = Tokenizer(bundle.path / "tokenizer.json")
        self._generator = Generator(self.model, self.section, self.tokenizer.encode(END_OF_PROMPT)[-1])
        self._workload_voice = cache(lambda: synthetic_voice(self.section, self._vector, 3.0))
        self._listener = partial(Listener, bundle, threads, self.section)  # loads its graphs for a recording

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
        """Speech, made while it is iterated. The same seed gives the same tokens however the chunks are cut.

        `voice`: an enrolled Voice, its name in the bundle or its path; `ref_audio` enrolls one for this call, and with
        `ref_text`, what is said in it, the speech goes on from there; `instruct`: how to say it; `language`: a hint.
        The mode follows from these (prompt.py). ValueError in one line: empty text, no voice, an unknown setting, a
        text too long for the context.
        """
        plan = self.request(settings, seed=seed, greedy=greedy, stream=stream)
        speaker = self.voice(voice, ref_audio, ref_text)
        mode = mode_of(speaker.text, instruct, str(plan.settings["mode"]))
        cleans = bool(plan.settings["text_frontend"])
        transcript = normalized(speaker.text) if cleans else speaker.text
        read = partial(prompt, self.tokenizer.encode, mode, ref_text=transcript, instruct=instruct, language=language)
        reference = self.reference(speaker)
        if not isinstance(text, str):
            events = self._generator.typed(self._ids(text, plan), read(None), reference, plan)
            return self._speech(synthesize(events, self._player(reference, plan)))
        texts = segments(text, self._count, cleans)
        pieces = [Piece(piece, index, len(texts)) for index, piece in enumerate(texts)]
        for piece in pieces:  # what does not fit is refused before anything is said
            self._generator.room(read(piece.text), reference)
        tries = 1 + int(plan.settings["retries"]) if not greedy and not plan.limited and not stream else 1

        def speech_of(piece: Piece) -> Events:
            def tokens(attempt: int) -> Events:
                return self._generator.events(read(piece.text), reference, plan, piece, attempt)

            return synthesize(retried(tries, tokens), self._player(reference, plan))

        return self._speech(in_pieces(pieces, 0, speech_of))

    def revoice(
        self,
        samples: Array,
        rate: int,
        *,
        voice: Name | AnyVoice | None = None,
        ref_audio: str | os.PathLike[str] | None = None,
        stream: bool = True,
        **settings: Value,
    ) -> Speech:
        """What is said in samples float32 [n] at `rate` Hz, in another voice; nothing is drawn.

        A long recording is heard in pieces of half a minute. ValueError as `say`, and for a recording that is silent or
        of a rate below 16 kHz.
        """
        plan = self.request(settings, stream=stream)
        speaker = self.voice(voice, ref_audio, None)
        reference = Reference(speaker.tokens, speaker.mel, speaker.embedding)  # as upstream: not aligned
        listener = self._listener(keep=True)  # as long as the recording is
        pieces = (listener.tokens(piece, rate) for piece in recording.pieces(samples, rate))
        first = next(pieces)  # a recording that cannot be used is refused before anything is said

        def events() -> Events:
            for tokens in chain([first], pieces):
                player = Player(self.stream(reference, plan))
                yield from synthesize((Token(int(token)) for token in tokens), player)
            yield Ended(END)

        return self._speech(events())

    def enroll(self, path: str | os.PathLike[str], text: str | None) -> Voice:
        """The voice of a recording (16 kHz or more, channels averaged, at most 30 s) in which `text` is said.

        Without a text it does not speak in the mode zero_shot. ValueError: not audio, silent, too long.
        """
        return self._listener().enroll(path, text)

    def tokenize(self, samples: Array, rate: int) -> Array:
        """Samples float32 [n] at `rate` Hz -> speech tokens int64 [n]."""
        listener = self._listener(keep=True)
        return np.concatenate([listener.tokens(piece, rate) for piece in recording.pieces(samples, rate)])

    def detokenize(self, tokens: Array, seed: int = 0) -> Iterator[Array]:  # noqa: ARG002 - nothing is drawn here
        """Speech tokens int [n] -> float32 [n], piece by piece: in the bundle's first voice, or in nobody's."""
        array = np.asarray(tokens)
        most = self.section.llm.speech_tokens
        if (
            array.ndim != 1
            or array.dtype.kind not in "iu"
            or (array.size and not 0 <= array.min() <= array.max() < most)
        ):
            raise ValueError(f"wanted speech tokens int [n] of 0 .. {most - 1}, got {array.dtype}{list(array.shape)}")
        speaker = self.voice(self.voices[0]) if self.voices else synthetic_voice(self.section, self._vector, 1.0)
        stream = LowLatency(self.flow.stream(self.reference(speaker), window=WINDOW), self.vocoder)
        yield stream.feed(array.astype(np.int64))
        yield stream.flush()

    def request(
        self, options: Mapping[str, Value], *, seed: int = 0, greedy: bool = False, stream: bool = True
    ) -> Request:
        """The settings of one call. ValueError in one line when one cannot be."""
        return request(self.bundle.manifest.sampling, options, seed, greedy, stream)

    def voice(
        self,
        voice: Name | AnyVoice | None = None,
        ref_audio: str | os.PathLike[str] | None = None,
        ref_text: str | None = None,
    ) -> Voice:
        """The voice of one call. ValueError when there is none."""
        check_reference(voice, ref_audio, ref_text)
        if ref_audio is not None:
            return self.enroll(ref_audio, ref_text)
        if isinstance(voice, Voice):
            return self._checked(voice)
        if not isinstance(voice, str | os.PathLike | None):
            raise ValueError("this voice was enrolled with another system; enroll the reference with this bundle")
        if voice is None and self.voices:
            voice = self.voices[0]
        found = find(voice, self.bundle.path) if voice is not None else ""
        if isinstance(found, str):
            unknown = f"knows no voice {found!r}" if found else "has no voice of its own"
            known = f" ({', '.join(self.voices)})" if self.voices else ""
            name = self.bundle.path.name
            raise ValueError(f"{name} {unknown}{known}: give --ref-audio, or with --voice what `voxport enroll` made")
        return self._checked(Voice.load(found))

    def _checked(self, voice: Voice) -> Voice:
        """The voice. ValueError when it is not one of this bundle's model."""
        voice.check(self.section.llm.speech_tokens, self.section.mel.bands, self._vector)
        return voice

    def reference(self, speaker: Voice) -> Reference:
        """What the flow hears of a voice: tokens and mel cut to the same length."""
        return Reference(*speaker.aligned(self.section.flow.ratio), speaker.embedding)

    # ------------------------------------------------------------------------------------------------- one call

    def _count(self, text: str) -> int:
        return len(self.tokenizer.encode(text))

    def _ids(self, pieces: Iterable[str], plan: Request) -> Iterator[Sequence[int]]:
        """The ids of a text that comes piece by piece: of whole words; upstream reads every piece for itself."""
        for piece in pieces if plan.settings["compatible"] else settled(pieces):
            yield self.tokenizer.encode(piece)

    def _player(self, reference: Reference, plan: Request) -> Player:
        return Player(self.stream(reference, plan), SilenceFilter())

    def stream(self, reference: Reference, plan: Request) -> CodecStream:
        """What turns the tokens of one request into audio."""
        steps = int(plan.settings["flow_steps"])
        if plan.schedule == "whole":
            return Whole(self.flow, self.vocoder, reference, steps, float(plan.settings["speed"]))
        if plan.schedule == "upstream":
            return Upstream(self.flow, self.vocoder, reference, steps)
        window = float(plan.settings["flow_seconds"]) or None
        return LowLatency(self.flow.stream(trimmed(reference, self.section.flow), steps, window), self.vocoder)

    def _speech(self, events: Events) -> Speech:
        return Speech(self.sample_rate, events)

    # --------------------------------------------------------------------------------------- benchmarks and goldens

    def workload(self, seconds: float, _chunk_factor: int = 1, /, **settings: Value) -> Iterator[Array]:
        """Speech of a set length for benchmarks: a sentence of 20 words, no end before the last token; a prompt of 3 s.

        `schedule=whole` is the speech that is not streamed.
        """
        count = max(1, round(seconds * self.section.token_rate))
        options: dict[str, Any] = {"min_new_tokens": count, "max_new_tokens": count, **settings}
        for chunk in self.say(SENTENCE, voice=self._workload_voice(), text_frontend=False, **options):
            yield chunk.samples

    def rehearse(self) -> Rehearsal:
        """What `golden/` holds: the chances of three fixed steps, the audio of fixed tokens at once and in blocks.

        Fixed, because one score that rounds the other way changes every token after it.
        """
        section = self.section
        voice = synthetic_voice(section, self._vector, 0.6)
        reference = self.reference(voice)
        count = section.flow.block // section.flow.ratio + 2 * section.flow.lookahead
        tokens = (draws.uniforms(0, "cosyvoice3.rehearsal", 0, count) * section.llm.speech_tokens).astype(np.int64)
        read = prompt(self.tokenizer.encode, "zero_shot", "One, two, three.", voice.text)
        embeds = self.model.prompt([*read.prompt_text, *read.text], voice.tokens.tolist())
        recorded: Rehearsal = {}
        for i, scores in enumerate(self.model.read(embeds, tokens[:2].tolist())):
            recorded[f"chances.{i}"] = Output(np.exp(scores), ("text_embed", "speech_embed", "lm"))
        flow = ("flow_encode", "flow_speaker", "flow_modulation")
        steps = min(section.flow.steps)
        mel = self.flow.mel(reference, tokens, steps)
        recorded["mel"] = Output(mel / np.abs(mel).max(), (*flow, "flow"))
        stream = self.flow.stream(reference, steps, None)
        blocks = np.concatenate((stream.feed(tokens), stream.flush()))
        recorded["mel_in_blocks"] = Output(blocks / np.abs(blocks).max(), (*flow, "flow_stream"))
        sound = 2 * draws.normals(0, "cosyvoice3.rehearsal.mel", 0, (32, section.mel.bands)) - 5
        recorded["audio"] = Output(self.vocoder.decode(sound.astype(np.float32)), VOCODER_STAGES)
        return recorded
