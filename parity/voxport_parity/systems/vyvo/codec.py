"""VyvoTTS: upstream's codes and draws through the codec, layer by layer, whole, and in pieces."""

from collections.abc import Iterator

import numpy as np

from voxport.bundle import Bundle
from voxport.codecs import snac
from voxport.graphs.session import Array
from voxport.systems.vyvo.speaker import Speaker
from voxport_parity.reference import taps_of
from voxport_parity.trace import Trace


def levels(tensors: Trace, group: str, count: int) -> list[Array]:
    """The codes of every level, int64 [n]."""
    return [tensors[f"{group}.codes{i}"][0].astype(np.int64) for i in range(count)]


def noise(tensors: Trace, group: str, count: int) -> list[Array]:
    """The draws of every noise block, float32 [n]; a codec without noise has none."""
    return [tensors[f"{group}.noise{i}"].reshape(-1) for i in range(count)]


def encoded(speaker: Speaker, bundle: Bundle, samples: Array) -> Trace:
    """The reference in one call, layer by layer, and its codes as the runtime finds them, in windows."""
    encoder = bundle.session("codec_encode")
    unit = int(encoder.stage.inputs[0].shape[1])
    whole = np.pad(samples, (0, -len(samples) % unit)).reshape(-1, unit)
    codes, _ = encoder(encoder.start(), audio=whole)
    made = {f"encode.{name.replace('.', '')}": value.reshape(1, -1) for name, value in codes.items()}
    made |= taps_of(encoder)  # of this call
    return made | {"encode.interleaved": speaker.tokenize(samples, speaker.sample_rate)}


def decoded(bundle: Bundle, speaker: Speaker, tensors: Trace) -> Trace:
    """The decoder in one call, from the start to past the end: layer by layer."""
    codec, decoder = speaker.codec, bundle.session("codec_decode")
    given = levels(tensors, "greedy", len(codec.strides))
    columns = len(given[0]) * codec.frame
    past = -(-codec.delay // codec.hop // codec.unit) * codec.unit
    codes = np.stack([np.pad(x.repeat(s), (0, past)) for x, s in zip(given, codec.strides, strict=True)])
    real = np.pad(np.ones(columns, np.float32), (0, past))
    drawn = [np.pad(x, (0, past * len(x) // columns)) for x in noise(tensors, "decode", len(codec.rates))]
    units = len(real) // codec.unit
    feed: Trace = {f"noise.{i}": x.reshape(units, -1) for i, x in enumerate(drawn)}
    decoder(
        decoder.start(), into=None, codes=codes.reshape(len(codes), units, -1), real=real.reshape(units, -1), **feed
    )
    return dict(taps_of(decoder))


def audio(speaker: Speaker, tensors: Trace, pieces: np.random.Generator | None = None) -> Iterator[tuple[str, Array]]:
    """Upstream's codes and draws as the runtime decodes them: at once, or in pieces of random length."""
    codec = speaker.codec

    def said(group: str) -> Array:
        return codec.interleave(levels(tensors, group, len(codec.strides)))

    def drawn(group: str) -> snac.Noise:
        return snac.given(noise(tensors, group, len(codec.rates)))

    def play(group: str, draws: str, schedule: snac.Schedule = "exact") -> Array:
        codes = said(group).reshape(-1)
        stream = codec.stream(drawn(draws), schedule)
        cuts = np.cumsum(np.empty(0, np.int64) if pieces is None else pieces.integers(0, 12, len(codes)))
        fed = [stream.feed(piece) for piece in np.split(codes, np.minimum(cuts, len(codes)))]
        return np.concatenate([*fed, stream.flush()])

    frame = codec.frame * codec.hop
    yield "decode.wav", play("greedy", "decode").reshape(1, 1, -1)
    yield "stream.window_chunks", play("greedy", "decode", "orpheus").reshape(-1, 1, frame)
    chosen = speaker.plan(None, True, {"chunk_frames": 4 if pieces is None else 1}).chosen
    faded = np.concatenate(list(speaker.decoded(said("greedy"), chosen, drawn("decode"))))
    yield "decode.wav_faded_tail", faded[-frame:].reshape(1, 1, -1)
    if "clone.row0.wav" in tensors:
        yield "clone.row0.wav", play("clone.row0", "clone.row0").reshape(1, 1, -1)
