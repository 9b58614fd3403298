"""VyvoTTS: upstream's codes and draws through the codec, layer by layer, whole, and in pieces."""

from collections.abc import Iterator

import numpy as np

from voxport import snac
from voxport.bundle import Bundle
from voxport.session import Array
from voxport.vyvo import Speaker
from voxport_parity.trace import Trace


def _levels(tensors: Trace, group: str) -> list[Array]:
    return [tensors[f"{group}.codes{i}"][0].astype(np.int64) for i in range(3)]


def _noise(tensors: Trace, group: str) -> list[Array]:
    return [tensors[f"{group}.noise{i}"].reshape(-1) for i in range(4)]


def encoded(speaker: Speaker, bundle: Bundle, samples: Array) -> Trace:
    """The reference in one call, layer by layer, and its codes as the runtime finds them, in windows."""
    encoder = bundle.session("codec_encode")
    unit = int(encoder.stage.inputs[0].shape[1])
    whole = np.pad(samples, (0, -len(samples) % unit)).reshape(-1, unit)
    codes, _ = encoder(encoder.start(), audio=whole)
    made = {f"encode.{name.replace('.', '')}": value.reshape(1, -1) for name, value in codes.items()}
    made["encode.interleaved"] = speaker.tokenize(samples, speaker.sample_rate)
    return made | getattr(encoder, "taps", {})


def decoded(bundle: Bundle, speaker: Speaker, tensors: Trace) -> Trace:
    """The decoder in one call, from the start to past the end: layer by layer."""
    codec, decoder = speaker.codec, bundle.session("codec_decode")
    levels, columns = _levels(tensors, "greedy"), len(tensors["greedy.codes0"][0]) * codec.frame
    past = -(-codec.delay // codec.hop // codec.unit) * codec.unit
    codes = np.stack([np.pad(x.repeat(s), (0, past)) for x, s in zip(levels, codec.strides, strict=True)])
    real = np.pad(np.ones(columns, np.float32), (0, past))
    noise = [np.pad(x, (0, past * len(x) // columns)) for x in _noise(tensors, "decode")]
    units = len(real) // codec.unit
    feed: Trace = {f"noise.{i}": x.reshape(units, -1) for i, x in enumerate(noise)}
    decoder(
        decoder.start(), into=None, codes=codes.reshape(len(codes), units, -1), real=real.reshape(units, -1), **feed
    )
    return dict(getattr(decoder, "taps", {}))


def audio(speaker: Speaker, tensors: Trace, pieces: np.random.Generator | None = None) -> Iterator[tuple[str, Array]]:
    """Upstream's codes and draws as the runtime decodes them: at once, or in pieces of random length."""
    codec = speaker.codec

    def play(group: str, draws: str, schedule: snac.Schedule = "exact") -> Array:
        codes = codec.interleave(_levels(tensors, group)).reshape(-1)
        stream = codec.stream(snac.given(_noise(tensors, draws)), schedule)
        cuts = np.cumsum(np.empty(0, np.int64) if pieces is None else pieces.integers(0, 12, len(codes)))
        fed = [stream.feed(piece) for piece in np.split(codes, np.minimum(cuts, len(codes)))]
        return np.concatenate([*fed, stream.flush()])

    frame = codec.frame * codec.hop
    yield "decode.wav", play("greedy", "decode").reshape(1, 1, -1)
    yield "stream.window_chunks", play("greedy", "decode", "orpheus").reshape(-1, 1, frame)
    spoken = codec.interleave(_levels(tensors, "greedy"))
    chosen = speaker.plan(None, True, {"chunk_frames": 4 if pieces is None else 1}).chosen
    faded = np.concatenate(list(speaker.decoded(spoken, chosen, snac.given(_noise(tensors, "decode")))))
    yield "decode.wav_faded_tail", faded[-frame:].reshape(1, 1, -1)
    if "clone.row0.wav" in tensors:
        yield "clone.row0.wav", play("clone.row0", "clone.row0").reshape(1, 1, -1)
