"""Where a generation has to stop: upstream's limit, the context, and the guard against speech that never ends.

Runaway guard: where something is left to chance and nobody asked for upstream's limit, speech longer than
`runaway_seconds` plus `runaway_seconds_per_letter` for each letter (longtext.spoken_letters) is cut.
"""

from dataclasses import dataclass

from voxport.speech.settings import COUNT, SECONDS, Schema, Setting, Settings

END, LIMIT, RUNAWAY, CONTEXT = "end", "max_new_tokens", "runaway", "context"  # why a generation stopped

SETTINGS: Schema = {
    "max_new_tokens": Setting(COUNT, 1),
    "runaway_seconds": Setting(3.0, most=SECONDS),
    "runaway_seconds_per_letter": Setting(0.25, most=SECONDS),
}


@dataclass(frozen=True, order=True)
class Limit:
    """How many tokens may be generated, and why no more: `max_new_tokens`, `runaway` or `context`."""

    tokens: int
    why: str


def smallest(settings: Settings, room: int, guard: int | None) -> Limit:
    """The limit that a generation meets first.

    `room`: tokens that the context has left; `guard`: tokens that the runaway guard allows, None where it is off.
    """
    limits = [Limit(int(settings["max_new_tokens"]), LIMIT), Limit(room, CONTEXT)]
    if guard is not None:
        limits.append(Limit(guard, RUNAWAY))
    return min(limits)


def guarded_frames(settings: Settings, letters: int, sample_rate: int, frame: int) -> int:
    """How many frames of `frame` samples the runaway guard allows for a text of `letters` letters."""
    seconds = float(settings["runaway_seconds"]) + float(settings["runaway_seconds_per_letter"]) * letters
    return int(seconds * sample_rate / frame)
