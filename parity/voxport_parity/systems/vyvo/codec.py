"""VyvoTTS: upstream's codes and draws through the codec, layer by layer, whole, and in pieces."""

from collections.abc import Iterator

import numpy as np

from voxport.bundle import Bundle
from voxport.codecs import snac
from voxport.codecs.noise import from_arrays
from voxport.graphs.session import Array
from voxport.systems.vyvo.speaker import Speaker
from voxport_parity.reference import taps_of
from voxport_parity.systems.vyvo import runs
from voxport_parity.trace import Golden, Trace

GROUP = "decode"  # the tensors of one run's codes, decoded


def levels(tensors: Trace, group: str, count: int) -> list[Array]:
    """The codes of every level, int64 [n]."""
    return [tensors[f"{group}.codes{i}"][0].astype(np.int64) for i in range(count)]


def noise(tensors: Trace, group: str, count: int) -> list[Array]:
    """The draws of every noise block, float32 [n]; a codec without noise has none."""
    return [tensors[f"{group}.noise{i}"].reshape(-1) for i in range(count)]


def sources(speaker: Speaker, golden: Golden) -> Trace:
    """The golden's tensors, and as `decode.codes<i>` the codes of the run that they say was decoded.

    It is the first run with as many frames as the audio has, or the draws. Nothing is added when there is none.
    """
    codec, tensors = speaker.codec, golden.tensors
    frames = _frames(speaker, tensors)
    for name, tokens in runs.generations(golden).items():
        stored = all(f"{name}.codes{i}" in tensors for i in range(len(codec.strides)))
        codes = levels(tensors, name, len(codec.strides)) if stored else runs.codes(speaker, tokens[0])
        speech = len(codes[0]) > 0 and all(((x >= 0) & (x < codec.size)).all() for x in codes)
        if speech and frames in (None, len(codes[0])):
            return dict(tensors) | {f"{GROUP}.codes{i}": level[None] for i, level in enumerate(codes)}
    return dict(tensors)


def _frames(speaker: Speaker, tensors: Trace) -> int | None:
    """How many frames the decoded run has; None when nothing of it is there."""
    codec = speaker.codec
    if f"{GROUP}.wav" in tensors:
        return int(tensors[f"{GROUP}.wav"].size) // (codec.frame * codec.hop)
    if codec.rates and f"{GROUP}.noise0" in tensors:
        return int(tensors[f"{GROUP}.noise0"].size) // (codec.frame * codec.rates[0])
    return None


def encoded(speaker: Speaker, bundle: Bundle, samples: Array) -> Trace:
    """The reference in one call, layer by layer, and its codes as the runtime finds them, in windows."""
    encoder = bundle.session("codec_encode")
    unit = int(encoder.stage.inputs[0].shape[1])
    whole = np.pad(samples, (0, -len(samples) % unit)).reshape(-1, unit)
    codes, _ = encoder(encoder.start(), audio=whole)
    outputs = {f"encode.{name.replace('.', '')}": value.reshape(1, -1) for name, value in codes.items()}
    outputs |= taps_of(encoder)  # of this call
    return outputs | {"encode.interleaved": speaker.tokenize(samples, speaker.sample_rate)}


def decoded(bundle: Bundle, speaker: Speaker, tensors: Trace) -> Trace:
    """The decoder in one call, from the start to past the end: layer by layer. `tensors` are those of `sources`."""
    codec, decoder = speaker.codec, bundle.session("codec_decode")
    if not _complete(speaker, tensors, GROUP):
        return {}
    codes = levels(tensors, GROUP, len(codec.strides))
    columns = len(codes[0]) * codec.frame
    past = -(-codec.delay // codec.hop // codec.unit) * codec.unit
    grid = np.stack([np.pad(x.repeat(s), (0, past)) for x, s in zip(codes, codec.strides, strict=True)])
    real = np.pad(np.ones(columns, np.float32), (0, past))
    draws = [np.pad(x, (0, past * len(x) // columns)) for x in noise(tensors, GROUP, len(codec.rates))]
    units = len(real) // codec.unit
    feed: Trace = {f"noise.{i}": x.reshape(units, -1) for i, x in enumerate(draws)}
    decoder(decoder.start(), into=None, codes=grid.reshape(len(grid), units, -1), real=real.reshape(units, -1), **feed)
    return dict(taps_of(decoder))


def audio(speaker: Speaker, tensors: Trace, pieces: np.random.Generator | None = None) -> Iterator[tuple[str, Array]]:
    """Upstream's codes and draws as the runtime decodes them: at once, or in pieces of random length.

    `tensors` are those of `sources`.
    """
    codec = speaker.codec
    frame = codec.frame * codec.hop

    def play(group: str, schedule: snac.Schedule = "exact") -> Array:
        codes = codec.interleave(levels(tensors, group, len(codec.strides))).reshape(-1)
        stream = codec.stream(from_arrays(noise(tensors, group, len(codec.rates))), schedule)
        cuts = np.cumsum(np.empty(0, np.int64) if pieces is None else pieces.integers(0, 12, len(codes)))
        audio_pieces = [stream.feed(piece) for piece in np.split(codes, np.minimum(cuts, len(codes)))]
        return np.concatenate([*audio_pieces, stream.flush()])

    if _complete(speaker, tensors, GROUP):
        yield f"{GROUP}.wav", play(GROUP).reshape(1, 1, -1)
        yield "stream.window_chunks", play(GROUP, "orpheus").reshape(-1, 1, frame)
        settings = speaker.request(None, True, {"chunk_frames": 4 if pieces is None else 1}).settings
        codes = codec.interleave(levels(tensors, GROUP, len(codec.strides)))
        draws = from_arrays(noise(tensors, GROUP, len(codec.rates)))
        faded = np.concatenate(list(speaker.decode(codes, settings, draws)))
        yield f"{GROUP}.wav_faded_tail", faded[-frame:].reshape(1, 1, -1)
    for name in tensors:
        group = name.removesuffix(".wav")
        if name.endswith(".wav") and group != GROUP and _complete(speaker, tensors, group):
            yield name, play(group).reshape(1, 1, -1)


def _complete(speaker: Speaker, tensors: Trace, group: str) -> bool:
    """All levels' codes and all blocks' draws are there."""
    names = [f"{group}.codes{i}" for i in range(len(speaker.codec.strides))]
    names += [f"{group}.noise{i}" for i in range(len(speaker.codec.rates))]
    return all(name in tensors for name in names)
