"""What one call of VyvoTTS is asked for: its settings, checked before it begins (docs/systems/vyvo.md 4, 5).

Upstream's vLLM engine samples with top_p 0.8 and repetition_penalty 1.3.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import cast, get_args

from voxport.codecs import snac
from voxport.codecs.noise import Noise, seeded, silent
from voxport.speech import limits, longtext
from voxport.speech.sampler import Sampling
from voxport.speech.settings import SAMPLING, SECONDS, Schema, Setting, Settings, Value, parse
from voxport.systems.vyvo.format import Dialect, Format
from voxport.systems.vyvo.lm import Grammar

CLONE = "clone"  # the layer of defaults of a cloned voice; the others are the dialects

# Every setting of `say` by upstream's name, with its default; top_k comes from the checkpoint.
SCHEMA: Schema = {
    **SAMPLING,
    **limits.SETTINGS,
    **longtext.SETTINGS,
    "temperature": replace(SAMPLING["temperature"], default=0.6, layers={CLONE: 0.5}),
    "top_k": replace(SAMPLING["top_k"], from_checkpoint=True),
    "top_p": replace(SAMPLING["top_p"], default=0.95, layers={CLONE: 0.9}),
    "repetition_penalty": replace(SAMPLING["repetition_penalty"], default=1.1),
    "max_new_tokens": replace(limits.SETTINGS["max_new_tokens"], default=1200, layers={CLONE: 990}),
    "split_letters": replace(longtext.SETTINGS["split_letters"], default=180),  # 1200 tokens hold 14 s of speech
    "dialect": Setting("current", choices=get_args(Dialect)),
    "constrained_decoding": Setting(True, layers={"classic": False}),
    "strict": Setting(False),  # upstream's current reading: a generation that was cut, or is malformed, gives no audio
    "min_audio_frames": Setting(1),
    "use_random_voice": Setting(False),
    "fade_out": Setting(0.05, most=SECONDS, layers={"classic": 0.0, CLONE: 0.0}),  # seconds at the end
    "noise": Setting(True),  # the codec's, drawn from the seed
    "codec_schedule": Setting("exact", choices=get_args(snac.Schedule)),
    "chunk_frames": Setting(4, 1),
}


@dataclass(frozen=True)
class Request:
    """One call of `say`: its settings and what follows from them."""

    settings: Settings
    dialect: Dialect
    clone: bool
    sampling: Sampling
    grammar: Grammar | None
    greedy: bool
    seed: int
    limited: bool  # max_new_tokens was given and has upstream's meaning

    @property
    def guarded(self) -> bool:
        """The runaway guard acts, and long text is split."""
        return not self.greedy and not self.limited

    def noise(self, piece: int = 0) -> Noise:
        """The codec's draws for a piece of the text."""
        return seeded(self.seed, piece) if self.settings["noise"] else silent


def request(
    form: Format, stored: Mapping[str, Value], options: Mapping[str, Value], clone: bool, greedy: bool, seed: int
) -> Request:
    """`stored`: the manifest's defaults; `options`: what the caller set; `clone`: the voice is a recording's.

    ValueError in one line: an unknown setting, or a value that cannot be.
    """
    dialect = cast(Dialect, SCHEMA["dialect"].parse("dialect", options.get("dialect", SCHEMA["dialect"].default)))
    settings = parse(SCHEMA, stored, options, [dialect, *([CLONE] if clone else [])])
    grammar = None
    if settings["constrained_decoding"]:
        grammar = form.grammar(clone, dialect, int(settings["min_audio_frames"]))
    limited = "max_new_tokens" in options
    return Request(settings, dialect, clone, Sampling.of(settings), grammar, greedy, seed, limited)
