"""What is asked of Qwen3-TTS, checked against what the variant can do, before anything is made."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import cast

import numpy as np

from voxport.bundle import Bundle
from voxport.codecs.codec12hz import PIECE
from voxport.graphs.session import Array
from voxport.manifest import Setting
from voxport.speech.speech import Settings, settings
from voxport.systems.qwen3tts.lm import Rule
from voxport.systems.qwen3tts.prompt import Prompts
from voxport.systems.qwen3tts.section import Section
from voxport.systems.qwen3tts.text import Words
from voxport.systems.qwen3tts.voice import Listener, Voice

# Settings upstream does not have; its own stand in the manifest.
OWN: Settings = {
    "codec_schedule": "exact",  # or upstream: all at the end, in chunks of 300 frames that see 25 before them
    "first_chunk_frames": 1,
    "chunk_frames": PIECE,
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


@dataclass(frozen=True)
class Request:
    """One call of `say`: its settings, and who says it how."""

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
        return cast(Voice, self.voice).codes if cloned else None


class Requests:
    """Makes a Request of every call; ValueError in one line says what this variant wants instead."""

    def __init__(self, bundle: Bundle, prompts: Prompts, listener: Callable[[], Listener]) -> None:
        """`prompts` knows the names; `listener` hears recordings, and is made when there is one."""
        self._bundle, self._prompts, self._listener = bundle, prompts, listener
        self.words = cache(lambda parse, fix: Words(bundle.path / "tokenizer.json", parse, fix))
        self._clones = "speaker_encode" in bundle.manifest.stages
        self.model = f"{bundle.path.name} (Qwen3-TTS {bundle.manifest.variant})"

    def of(
        self,
        voice: Named,
        language: str | None,
        instruct: str | None,
        ref_audio: str | os.PathLike[str] | None,
        ref_text: str | None,
        seed: int,
        greedy: bool,
        given: dict[str, Setting],
        whole: bool = True,
    ) -> Request:
        """`whole`: the text is all there; if not, it goes in as it comes unless `given` says otherwise."""
        manifest, section = self._bundle.manifest, self._bundle.section(Section)
        defaults = OWN | {"min_new_tokens": section.least_tokens} | manifest.sampling
        chosen = settings(defaults, [], ({} if whole else {"non_streaming_mode": False}) | given)
        for name, least in LEAST.items():
            if not float(chosen[name]) >= least:
                raise ValueError(f"{name} {chosen[name]}: wanted {least} or more")
        if chosen["codec_schedule"] not in ("exact", "upstream"):
            raise ValueError(f"codec_schedule {chosen['codec_schedule']!r} is not one of exact, upstream")
        speaker = self._speaker(voice, ref_audio, ref_text, bool(chosen.get("x_vector_only_mode")))
        self._prompts.language(language, speaker if isinstance(speaker, str) else None)
        heard = (instruct or "").strip() and section.instruct
        words = self.words(chosen["parse_special"], chosen["fix_mistral_regex"])
        rule, limited = Rule.of(chosen, greedy), "max_new_tokens" in given
        return Request(chosen, rule, words, speaker, language, instruct if heard and instruct else "", seed, limited)

    def enroll(self, path: str | os.PathLike[str], text: str | None) -> Voice:
        """The voice of a recording."""
        if not self._clones:
            raise ValueError(f"{self.model} clones no voices; a Base model does")
        return self._listener().enroll(path, text)

    def _speaker(
        self, voice: Named, ref_audio: str | os.PathLike[str] | None, ref_text: str | None, x_vector_only: bool
    ) -> Named:
        if ref_audio is not None:
            if voice is not None:
                raise ValueError("a voice and a reference to clone: give one of them")
            if self._clones and not x_vector_only and not (ref_text or "").strip():
                raise ValueError(
                    f"{ref_audio}: in-context cloning needs its transcript; give what is said in it with --ref-text, "
                    "or --set x_vector_only_mode=true"
                )
            return self.enroll(ref_audio, None if x_vector_only else ref_text)
        if ref_text is not None:
            raise ValueError("a transcript without its recording; give --ref-audio too")
        if isinstance(voice, str):
            held = self._bundle.path / "voices" / f"{voice}.safetensors"
            if voice.endswith(".safetensors") or held.is_file():
                voice = Voice.load(held if held.is_file() else voice)
        return self._cloned(voice, x_vector_only) if self._clones else self._own(voice)

    def _own(self, voice: Named) -> Named:
        """A speaker of the checkpoint's; "" for none. Where none is named, the first that brings no dialect along."""
        if isinstance(voice, Voice):
            raise ValueError(f"{self.model} clones no voices; a Base model does")
        if voice is None:
            return next((v for v in self._bundle.manifest.voices if v not in self._prompts.dialects), None)
        if voice and not self._prompts.speakers:
            raise ValueError(f"{self.model} has no voices of its own; describe one with --instruct")
        return self._prompts.speaker(voice) if voice else ""

    def _cloned(self, voice: Named, x_vector_only: bool) -> Voice:
        if not isinstance(voice, Voice):
            asked = f"knows no voice {voice!r} and " if voice else ""
            raise ValueError(
                f"{self.model} {asked}speaks in the voice of a reference: give --ref-audio, or with --voice what "
                "`voxport enroll` made"
            )
        if not x_vector_only and not voice.text:
            raise ValueError(
                "this voice was enrolled without a transcript; enroll it again with --ref-text, or "
                "--set x_vector_only_mode=true"
            )
        section = self._bundle.section(Section)
        books, size = section.books, section.codes
        codes = np.zeros((0, books)) if x_vector_only else voice.codes
        in_range = codes.shape[1] == books and ((codes >= 0) & (codes < size)).all()
        if not in_range or not np.isfinite(voice.embedding).all():
            raise ValueError(
                f"this voice has {codes.shape[1]} codes per frame, up to {codes.max(initial=0):.0f}, or NaN in its "
                f"embedding; wanted {books} of 0 .. {size - 1}: it is another model's, or damaged; enroll the "
                "reference with this bundle"
            )
        return voice
