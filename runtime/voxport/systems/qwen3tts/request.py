"""What one call of Qwen3-TTS is asked for, checked against what the variant can do, before anything is generated."""

import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np

from voxport.bundle import Bundle
from voxport.codecs.codec12hz import PIECE
from voxport.graphs.session import Array
from voxport.speech import limits, longtext
from voxport.speech.settings import SAMPLING, Schema, Setting, Settings, Value, parse
from voxport.speech.voices import Voice as AnyVoice
from voxport.speech.voices import check_reference, find
from voxport.systems.qwen3tts.lm import Rule
from voxport.systems.qwen3tts.prompt import Prompts
from voxport.systems.qwen3tts.section import Section
from voxport.systems.qwen3tts.text import Words
from voxport.systems.qwen3tts.voice import Listener, Voice

Name = str | os.PathLike[str]

_STORED = {name: replace(setting, from_checkpoint=True) for name, setting in SAMPLING.items()}

# Every setting of `say` by upstream's name. Those of upstream have their defaults in the manifest.
SCHEMA: Schema = {
    **_STORED,
    **limits.SETTINGS,
    **longtext.SETTINGS,  # split_letters 400: half a minute; quality falls in long generations
    **{f"subtalker_{name}": _STORED[name] for name in ("temperature", "top_k", "top_p")},
    "do_sample": Setting(True, from_checkpoint=True),
    "subtalker_dosample": Setting(True, from_checkpoint=True),
    "max_new_tokens": replace(limits.SETTINGS["max_new_tokens"], from_checkpoint=True),
    "min_new_tokens": Setting(2, from_checkpoint=True),
    "non_streaming_mode": Setting(True, from_checkpoint=True),
    "x_vector_only_mode": Setting(False, from_checkpoint=True),  # Base only
    "codec_schedule": Setting("exact", choices=("exact", "upstream")),  # upstream: at the end, in chunks (codec12hz)
    "first_chunk_frames": Setting(1, 1),
    "chunk_frames": Setting(PIECE, 1),
    "parse_special": Setting(False),  # upstream's: special tokens in the text are not plain text
    "fix_mistral_regex": Setting(False),  # upstream's, when it loads from a local folder
}


@dataclass(frozen=True)
class Request:
    """One call of `say`: its settings, and who says it how."""

    settings: Settings
    rule: Rule
    words: Words
    voice: str | Voice | None
    language: str | None
    instruct: str
    seed: int
    limited: bool  # max_new_tokens was given and has upstream's meaning

    @property
    def guarded(self) -> bool:
        """The runaway guard acts: something is left to chance, and nobody asked for upstream's length."""
        return self.rule.draws and not self.limited

    @property
    def reference(self) -> Array | None:
        """The codes int64 [frames, books] that the speech goes on from (in-context cloning)."""
        in_context = isinstance(self.voice, Voice) and not self.settings["x_vector_only_mode"]
        return self.voice.codes if in_context and isinstance(self.voice, Voice) else None


class Requests:
    """Makes a Request of every call; ValueError in one line says what this variant wants instead.

    Any number of threads may use it at once.
    """

    def __init__(self, bundle: Bundle, prompts: Prompts, threads: int) -> None:
        """`prompts` knows the names; `threads`: of the graphs that hear recordings."""
        self._bundle, self._prompts = bundle, prompts
        self._section = bundle.section(Section)
        self._lock = threading.Lock()  # what is loaded at first use is loaded once
        self._listener = cache(lambda: Listener(bundle, threads))
        self._words = cache(lambda special, fix: Words(bundle.path / "tokenizer.json", special, fix))
        self._clones = "speaker_encode" in bundle.manifest.stages
        self.model = f"{bundle.path.name} (Qwen3-TTS {bundle.manifest.variant})"

    def listener(self) -> Listener:
        """What hears recordings; its graphs are loaded when there is one."""
        with self._lock:
            return self._listener()

    def words(self, parse_special: bool, fix_mistral_regex: bool) -> Words:
        """One way to read text."""
        with self._lock:
            return self._words(parse_special, fix_mistral_regex)

    def request(
        self,
        *,
        voice: Name | AnyVoice | None = None,
        language: str | None = None,
        instruct: str | None = None,
        ref_audio: str | os.PathLike[str] | None = None,
        ref_text: str | None = None,
        seed: int = 0,
        greedy: bool = False,
        options: Mapping[str, Value] | None = None,
        whole: bool = True,
    ) -> Request:
        """`whole`: the text is all there; if not, it goes in as it comes unless `options` say otherwise."""
        options = dict(options or {})
        manifest = self._bundle.manifest
        stored = {"min_new_tokens": self._section.least_tokens} | manifest.sampling
        settings = parse(SCHEMA, stored, ({} if whole else {"non_streaming_mode": False}) | options)
        x_vector_only = bool(settings.get("x_vector_only_mode", False))
        speaker = self._speaker(voice, ref_audio, ref_text, x_vector_only)
        self._prompts.language(language, speaker if isinstance(speaker, str) else None)
        follows = self._section.instruct and bool((instruct or "").strip())
        words = self.words(bool(settings["parse_special"]), bool(settings["fix_mistral_regex"]))
        return Request(
            settings,
            Rule.of(settings, greedy),
            words,
            speaker,
            language,
            instruct or "" if follows else "",
            seed,
            "max_new_tokens" in options,
        )

    def enroll(self, path: str | os.PathLike[str], text: str | None) -> Voice:
        """The voice of a recording."""
        if not self._clones:
            raise ValueError(f"{self.model} clones no voices; a Base model does")
        return self.listener().enroll(path, text)

    def _speaker(
        self,
        voice: Name | AnyVoice | None,
        ref_audio: str | os.PathLike[str] | None,
        ref_text: str | None,
        x_vector_only: bool,
    ) -> str | Voice | None:
        check_reference(voice, ref_audio, ref_text)
        if ref_audio is not None:
            if self._clones and not x_vector_only and not (ref_text or "").strip():
                raise ValueError(
                    f"{ref_audio}: in-context cloning needs its transcript; give what is said in it with --ref-text, "
                    "or --set x_vector_only_mode=true"
                )
            return self.enroll(ref_audio, None if x_vector_only else ref_text)
        speaker = self._named(voice)
        return self._cloned(speaker, x_vector_only) if self._clones else self._own(speaker)

    def _named(self, voice: Name | AnyVoice | None) -> str | Voice | None:
        """A name, or an enrolled voice, read if it is a file."""
        if voice is None or isinstance(voice, Voice):
            return voice
        if not isinstance(voice, str | os.PathLike):
            raise ValueError("this voice was enrolled with another system; enroll the reference with this bundle")
        found = find(voice, self._bundle.path)
        return Voice.load(found) if isinstance(found, Path) else found

    def _own(self, voice: str | Voice | None) -> str | None:
        """A speaker of the checkpoint's; "" for none. Where none is named, the first that brings no dialect along."""
        if isinstance(voice, Voice):
            raise ValueError(f"{self.model} clones no voices; a Base model does")
        if voice is None:
            return next((v for v in self._bundle.manifest.voices if v not in self._prompts.dialects), None)
        if voice and not self._prompts.speakers:
            raise ValueError(f"{self.model} has no voices of its own; describe one with --instruct")
        return self._prompts.speaker(voice) if voice else ""

    def _cloned(self, voice: str | Voice | None, x_vector_only: bool) -> Voice:
        if not isinstance(voice, Voice):
            unknown = f"knows no voice {voice!r} and " if voice else ""
            raise ValueError(
                f"{self.model} {unknown}speaks in the voice of a reference: give --ref-audio, or with --voice what "
                "`voxport enroll` made"
            )
        if not x_vector_only and not voice.text:
            raise ValueError(
                "this voice was enrolled without a transcript; enroll it again with --ref-text, or "
                "--set x_vector_only_mode=true"
            )
        books, size = self._section.books, self._section.codes
        codes = np.zeros((0, books)) if x_vector_only else voice.codes
        in_range = codes.shape[1] == books and ((codes >= 0) & (codes < size)).all()
        if not in_range or not np.isfinite(voice.embedding).all():
            raise ValueError(
                f"this voice has {codes.shape[1]} codes per frame, up to {codes.max(initial=0):.0f}, or NaN in its "
                f"embedding; wanted {books} of 0 .. {size - 1}: it is another model's, or damaged; enroll the "
                "reference with this bundle"
            )
        return voice
