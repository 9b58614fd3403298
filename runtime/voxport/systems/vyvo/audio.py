"""VyvoTTS: codes, or the ids of a generation, as audio, while they still come."""

from collections.abc import Iterable, Iterator
from typing import cast

import numpy as np

from voxport.codecs import snac
from voxport.codecs.noise import Noise
from voxport.graphs.session import Array
from voxport.speech.chunks import Grouping
from voxport.speech.settings import Settings
from voxport.speech.speech import Events, Samples, Token, Warned
from voxport.systems.vyvo.format import Format
from voxport.systems.vyvo.request import Request


class Player:
    """Frames of codes in, samples out as soon as they are settled; the end fades out."""

    def __init__(self, codec: snac.Codec, rate: int, settings: Settings, noise: Noise) -> None:
        """`rate`: of the samples, in Hz."""
        self._stream = codec.stream(noise, cast(snac.Schedule, settings["codec_schedule"]))
        exact = settings["codec_schedule"] == "exact"  # Orpheus's never plays the end, so there is none to fade
        self._fade = int(float(settings["fade_out"]) * rate) if exact else 0
        self._hold = max(0, self._fade - codec.delay)  # what may have to fade and is not in the stream's end
        self._pending = np.empty(0, np.float32)
        first = codec.delay // (codec.frame * codec.hop) + 1
        self._groups = Grouping[Array](first, int(settings["chunk_frames"]))

    def feed(self, frame: Array) -> Array:
        """The next frame of codes int64 [codes per frame] -> the samples that are settled, maybe none."""
        return self._decode(self._groups.add(frame))

    def flush(self) -> Array:
        """The samples still owed, and the end of them faded."""
        settled = self._decode(self._groups.rest())
        tail = np.concatenate((self._pending, self._stream.flush()))
        fade = min(self._fade, len(tail))
        if fade:
            tail[-fade:] *= np.linspace(1, 0, fade, dtype=np.float32)
        return np.concatenate((settled, tail))

    def _decode(self, group: list[Array]) -> Array:
        if not group:
            return np.empty(0, np.float32)
        samples = np.concatenate((self._pending, self._stream.feed(np.concatenate(group))))
        ready = max(0, len(samples) - self._hold)
        self._pending = samples[ready:]
        return samples[:ready]


def decode(frames: Iterable[Array], player: Player) -> Iterator[Array]:
    """Codes, frame by frame -> float32 [n], piece by piece."""
    for frame in frames:
        yield player.feed(frame)
    yield player.flush()


def synthesize(events: Events, request: Request, form: Format, player: Player) -> Events:
    """The events of one generation, with its audio: while its ids come, or when all are there.

    What the grammar allowed needs no checks, and is decoded at once; all else is read when it is complete.
    """
    if request.grammar is not None and not request.settings["strict"]:
        return _streamed(events, len(request.grammar.forced), form, player)
    return _complete(events, request, form, player)


def _streamed(events: Events, forced: int, form: Format, player: Player) -> Events:
    """`forced`: ids before the first code."""
    ids: list[int] = []
    for event in events:
        yield event
        if isinstance(event, Token):
            if forced:
                forced -= 1
            elif event.value != form.end:
                ids.append(int(event.value))
            if len(ids) == form.frame:
                yield Samples(player.feed(form.ids_to_codes(np.array(ids))[0]))
                ids = []
    yield Samples(player.flush())


def _complete(events: Events, request: Request, form: Format, player: Player) -> Events:
    ids: list[int] = []
    for event in events:
        yield event
        if isinstance(event, Token):
            ids.append(int(event.value))
    try:
        codes = form.parse_generation(
            np.array(ids, np.int64), request.clone, request.dialect, bool(request.settings["strict"])
        )
    except ValueError as error:
        yield Warned(f"no audio: {error}")
        return
    for samples in decode(codes, player):
        yield Samples(samples)
