"""What one call of Fun-CosyVoice3 is asked for: its settings, checked before it begins (docs/systems/cosyvoice3.md)."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import cast, get_args

from voxport.speech import limits, longtext
from voxport.speech.settings import SAMPLING, SECONDS, Schema, Setting, Settings, Value, parse
from voxport.systems.cosyvoice3.audio import Schedule
from voxport.systems.cosyvoice3.flow import STEPS, WINDOW
from voxport.systems.cosyvoice3.lm import Rule
from voxport.systems.cosyvoice3.prompt import AUTO, MODES
from voxport.systems.cosyvoice3.ras import Ras

# Layers of defaults: of a call whose audio is not streamed, and of one that takes the best token at every choice.
WHOLE, GREEDY = "whole", "greedy"

# Every setting of `say` by upstream's name where upstream has one. The sampler's defaults stand in the manifest.
SCHEMA: Schema = {
    "mode": Setting(AUTO, choices=(AUTO, *MODES)),
    "text_frontend": Setting(True),  # normalise and split the text
    "top_p": replace(SAMPLING["top_p"], from_checkpoint=True),
    "top_k": replace(SAMPLING["top_k"], from_checkpoint=True, least=1, note=""),
    "win_size": Setting(10, from_checkpoint=True),  # of repetition-aware sampling: tokens it looks back
    "tau_r": Setting(0.1, from_checkpoint=True),  # the share of them from which on a token is drawn again
    "max_token_text_ratio": Setting(20.0, most=SECONDS),  # speech tokens per text token, at the most
    "min_token_text_ratio": Setting(2.0, most=SECONDS),  # at the least
    "max_new_tokens": limits.SETTINGS["max_new_tokens"],
    "min_new_tokens": Setting(0),
    "retries": longtext.SETTINGS["retries"],
    # Upstream's quirks: a minimum that bars the wrong id, text in pieces that is read twice. The best token at every
    # choice is asked for by whoever compares with upstream.
    "compatible": Setting(False, layers={GREEDY: True}),
    "schedule": Setting("low_latency", choices=get_args(Schedule), layers={WHOLE: "whole"}),
    "flow_steps": Setting(STEPS, 1),
    "flow_seconds": Setting(WINDOW, most=SECONDS, note=" (0 is all)"),  # of speech that a streamed block looks back on
    "speed": Setting(1.0, 0.1, 10.0),  # with another than 1 the speech is made whole
}


@dataclass(frozen=True)
class Request:
    """One call of `say`."""

    settings: Settings
    seed: int
    greedy: bool
    limited: bool  # max_new_tokens was given and has upstream's meaning

    @property
    def rule(self) -> Rule:
        """How a token follows from its scores. ValueError when a setting of the sampler cannot be."""
        s = self.settings
        ras = Ras(float(s["top_p"]), int(s["top_k"]), int(s["win_size"]), float(s["tau_r"]))
        return Rule(None if self.greedy else ras, bool(s["compatible"]))

    @property
    def schedule(self) -> Schedule:
        """A speed other than 1 stretches the whole mel, so there is nothing to stream."""
        return cast(Schedule, self.settings["schedule"] if self.settings["speed"] == 1 else "whole")

    def limits(self, text: int) -> tuple[int, int]:
        """(least, most) speech tokens for a text of `text` ids."""
        least = max(int(text * float(self.settings["min_token_text_ratio"])), int(self.settings["min_new_tokens"]))
        return least, int(text * float(self.settings["max_token_text_ratio"]))


def request(
    stored: Mapping[str, Value], options: Mapping[str, Value], seed: int, greedy: bool, stream: bool
) -> Request:
    """`stored`: the manifest's defaults; `options`: what the caller set; `stream`: audio leaves while it is made.

    ValueError in one line: an unknown setting, or a value that cannot be.
    """
    layers = [GREEDY] * greedy + [WHOLE] * (not stream)
    settings = parse(SCHEMA, stored, options, layers)
    return Request(settings, seed, greedy, "max_new_tokens" in options)
