"""SNAC speech codec: codes -> audio while the codes still come, and audio -> codes (docs/systems/vyvo.md 7, 8).

A frame is one code of the coarsest level and what the finer levels say in the same time: `frame` latent columns. On
the wire (LM order) its codes come sorted by the column they begin at, coarse before fine; with strides 4, 2, 1 that is
L0 L1 L2 L2 L1 L2 L2. Every code is 0 .. `size` - 1, without a language model's offsets.

    codec = Codec(bundle)
    stream = codec.stream(noise.seeded(0))
    audio = stream.feed(codes)         # any number of codes; what they settle, float32 [n] in (-1, 1)
    audio = stream.flush()

The decoder looks `delay` samples ahead (198 ms at 24 kHz): its graph keeps the last columns of every convolution, so
each column is computed once, and the first audio leaves when `delay` samples and one more are known, inside the third
frame. Streamed audio is offline audio: `decode` is `feed` and `flush`.
"""

from collections.abc import Sequence
from functools import cached_property
from typing import Annotated, Literal, get_args

import msgspec
import numpy as np

from voxport.bundle import Bundle
from voxport.codecs.noise import Noise
from voxport.graphs.session import Array, Session

Schedule = Literal["exact", "orpheus"]

FRAMES = 4  # at most so many in one step of the decoder: more no longer fit the cache (8: 1.1x, 16: 1.3x the time)
ENCODE_FRAMES = 16  # at least so many in one step of the encoder, whose context is computed again
WINDOW = 4  # frames of Orpheus's schedule, which plays the second of each window


class SnacSection(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The codec's part of its system's section of the manifest.

    `delay`: samples by which the decoder's audio trails its codes; `size`: codes of a book; `strides`: latent columns
    per code of each level, coarse first; `before`, `after`: units of audio around a unit that its codes depend on.
    """

    delay: Annotated[int, msgspec.Meta(ge=0)]
    size: Annotated[int, msgspec.Meta(ge=1)]
    strides: Annotated[list[Annotated[int, msgspec.Meta(ge=1)]], msgspec.Meta(min_length=1)]
    before: Annotated[int, msgspec.Meta(ge=0)]
    after: Annotated[int, msgspec.Meta(ge=0)]

    def __post_init__(self) -> None:
        if any(self.strides[0] % stride for stride in self.strides):
            raise ValueError(f"strides {self.strides}: wanted divisors of the first")


class Codec:
    """The codec's graphs and how their codes are ordered."""

    def __init__(self, decoder: Session, encoder: Session | None, section: SnacSection) -> None:
        """`encoder` may be missing from a bundle that only speaks."""
        self._decoder, self._encoder = decoder, encoder
        inputs = {t.name: t.shape for t in decoder.stage.inputs}
        self.unit = int(inputs["codes"][2])  # latent columns that are decoded together
        self.strides = section.strides
        if len(self.strides) != inputs["codes"][0]:
            raise ValueError(f"strides {self.strides} in the manifest: the decoder has {inputs['codes'][0]} levels")
        self.frame = self.strides[0]  # latent columns in a frame
        self.hop = int(decoder.stage.outputs[0].shape[1]) // self.unit  # samples per latent column
        self.delay, self.size = section.delay, section.size
        # per noise block: draws per latent column
        self.rates = [int(shape[1]) // self.unit for name, shape in inputs.items() if name.startswith("noise.")]
        self._context = section.before, section.after

    @classmethod
    def of(cls, bundle: Bundle, section: SnacSection, threads: int = 2) -> "Codec":
        encoder = bundle.session("codec_encode", threads) if "codec_encode" in bundle.manifest.stages else None
        return cls(bundle.session("codec_decode", threads), encoder, section)

    @cached_property
    def order(self) -> list[tuple[int, int]]:
        """LM order: (level, place among the level's codes) of every code of a frame."""
        places = [(c, level) for level, s in enumerate(self.strides) for c in range(0, self.frame, s)]
        return [(level, column // self.strides[level]) for column, level in sorted(places)]

    @cached_property
    def settled(self) -> list[int]:
        """How many columns of a frame are complete after n of its codes, n = 0 .. codes per frame - 1."""
        return [place * self.strides[level] for level, place in self.order]  # where the next code begins

    def interleave(self, levels: Sequence[Array]) -> Array:
        """Codes of every level int [frames * n] -> LM order int64 [frames, codes per frame]."""
        frames = [np.asarray(x).reshape(-1, self.frame // s) for x, s in zip(levels, self.strides, strict=True)]
        if len({len(x) for x in frames}) != 1:
            raise ValueError(f"levels of {[len(x) for x in frames]} frames; wanted equally many")
        return np.stack([frames[level][:, place] for level, place in self.order], axis=1).astype(np.int64)

    def deinterleave(self, codes: Array) -> list[Array]:
        """LM order int [frames * codes per frame] -> the codes of every level int64. ValueError for half frames."""
        if np.size(codes) % len(self.order):
            raise ValueError(f"{np.size(codes)} codes are not whole frames of {len(self.order)}")
        frames = np.asarray(codes, np.int64).reshape(-1, len(self.order))
        places = ([i for i, (at, _) in enumerate(self.order) if at == level] for level in range(len(self.strides)))
        return [frames[:, columns].reshape(-1) for columns in places]

    def stream(self, noise: Noise, schedule: Schedule = "exact") -> "Stream | Orpheus":
        """A decoder that takes codes as they come. `orpheus`: upstream's usual schedule, for comparison."""
        if schedule not in get_args(Schedule):
            raise ValueError(f"schedule {schedule!r} is not one of {', '.join(get_args(Schedule))}")
        return Stream(self, noise) if schedule == "exact" else Orpheus(self, noise)

    def decode(self, levels: Sequence[Array], noise: Noise) -> Array:
        """Codes of every level int [frames * n] -> float32 [samples]."""
        stream = Stream(self, noise)
        return np.concatenate((stream.feed(self.interleave(levels)), stream.flush()))

    def encode(self, samples: Array) -> list[Array]:
        """float32 [n] at the codec's rate -> codes of every level int64; zeros fill the last unit."""
        if self._encoder is None:
            raise ValueError("this bundle has no codec_encode; export it again with the encoder")
        samples = np.asarray(samples)
        if samples.ndim != 1 or not len(samples) or samples.dtype.kind != "f" or not np.isfinite(samples).all():
            raise ValueError(f"wanted finite float samples [n], n > 0, got {samples.dtype}{list(samples.shape)}")
        unit = int(self._encoder.stage.inputs[0].shape[1])
        units = -(-len(samples) // unit)
        audio = np.zeros((units, unit), np.float32)
        audio.reshape(-1)[: len(samples)] = samples
        before, after = self._context
        columns = self.frame * int(self._encoder.stage.outputs[0].shape[1])
        step = max(1, ENCODE_FRAMES * self.frame // columns)
        windows = []
        for start in range(0, units, step):
            stop = min(units, start + step)
            first = max(0, start - before)
            codes, _ = self._encoder(self._encoder.start(), audio=audio[first : min(units, stop + after)])
            windows.append([codes[f"codes.{i}"][start - first : stop - first] for i in range(len(self.strides))])
        return [np.concatenate(level).reshape(-1) for level in zip(*windows, strict=True)]


class Stream:
    """One utterance, decoded as its codes come. The audio is the same however the codes are split."""

    def __init__(self, codec: Codec, noise: Noise) -> None:
        self._codec, self._noise = codec, noise
        self._start()

    def _start(self) -> None:
        self._state = self._codec._decoder.start()
        self._levels: list[list[int]] = [[] for _ in self._codec.strides]
        self._fed = 0  # codes
        self._column = 0  # columns decoded, also past the end
        self._skip = self._codec.delay  # samples still to be dropped: they lie before the start

    def feed(self, codes: Array) -> Array:
        """The next codes in LM order, any number -> the samples they settle, maybe none."""
        codec = self._codec
        codes = np.asarray(codes).reshape(-1)
        if len(codes) and codes.dtype.kind not in "iu":
            raise ValueError(f"wanted whole-numbered codes, got {codes.dtype}")
        wrong = (codes < 0) | (codes >= codec.size)
        if wrong.any():
            at = int(np.argmax(wrong))
            raise ValueError(f"code {self._fed + at} is {codes[at]}; wanted 0 .. {codec.size - 1}")
        for code in codes.tolist():
            self._levels[codec.order[self._fed % len(codec.order)][0]].append(code)
            self._fed += 1
        # The first step waits until it makes sound; later ones take a frame, so that weights are read once a frame.
        wait = codec.delay // codec.hop + 1 if not self._column else codec.frame
        known = self._known // codec.unit * codec.unit
        return self._run(known, known) if known - self._column >= wait else np.empty(0, np.float32)

    def flush(self) -> Array:
        """Ends the stream: the samples still owed, up to the last complete column (of whole frames: all of them).

        Then the stream starts anew. Upstream's LocalMHA takes whole attention windows only, and a model ends where it
        likes. What fills the last window is ours: zero codes, whose samples are cut away.
        """
        codec = self._codec
        end = self._known
        filled = -(-end // codec.unit) * codec.unit
        for level, stride in zip(self._levels, codec.strides, strict=True):
            level.extend([0] * (-(-filled // stride) - len(level)))
        rest = self._finish(end * codec.hop, filled)
        self._start()
        return rest

    def fork(self) -> "Stream":
        """A stream that goes on from here, as this one still can."""
        other = Stream(self._codec, self._noise)
        other._state = self._state.copy()
        other._levels = [level.copy() for level in self._levels]
        other._fed, other._column, other._skip = self._fed, self._column, self._skip
        return other

    def _finish(self, samples: int, end: int) -> Array:
        """What is still missing of the first `samples` samples, with nothing after column `end`."""
        codec = self._codec
        owed = samples - max(0, self._column * codec.hop - codec.delay)
        if owed <= 0:
            return np.empty(0, np.float32)
        units = -(-(samples + codec.delay) // (codec.hop * codec.unit))
        return self._run(units * codec.unit, end)[:owed]

    @property
    def _known(self) -> int:
        frames, rest = divmod(self._fed, len(self._codec.order))
        return frames * self._codec.frame + self._codec.settled[rest]

    def _run(self, until: int, end: int) -> Array:
        """Decodes up to column `until`, of which those from `end` on lie past the audio."""
        steps = []
        most = max(1, FRAMES * self._codec.frame // self._codec.unit) * self._codec.unit
        while self._column < until:
            steps.append(self._step(self._column, min(until, self._column + most), end))
        audio = np.concatenate(steps)
        drop = min(self._skip, len(audio))
        self._skip -= drop
        return audio[drop:]

    def _step(self, start: int, stop: int, end: int) -> Array:
        codec = self._codec
        known = max(0, min(stop, end) - start)
        real = np.zeros(stop - start, np.float32)
        real[:known] = 1
        codes = np.zeros((len(codec.strides), stop - start), np.int64)
        for row, level, stride in zip(codes, self._levels, codec.strides, strict=True):
            first = start // stride
            values = np.asarray(level[first : -(-(start + known) // stride)], np.int64)
            row[:known] = values[np.arange(start, start + known) // stride - first]
        shape = (-1, codec.unit)
        outputs, self._state = codec._decoder(
            self._state,
            into=None,
            codes=codes.reshape(len(codes), *shape),
            real=real.reshape(shape),
            **{f"noise.{i}": self._draw(i, start, stop, end) for i in range(len(codec.rates))},
        )
        self._column = stop
        return outputs["audio"].reshape(-1)

    def _draw(self, block: int, start: int, stop: int, end: int) -> Array:
        """float32 [units, unit * rate]: the block's draws of columns start .. stop, zero from `end` on."""
        codec = self._codec
        rate, frame = codec.rates[block], codec.frame
        noise = np.zeros((stop - start) * rate, np.float32)
        last = min(stop, end)
        if last > start:
            first = start // frame
            frames = [self._noise(block, f, frame * rate) for f in range(first, -(-last // frame))]
            offset = (start - first * frame) * rate
            noise[: (last - start) * rate] = np.concatenate(frames)[offset : offset + (last - start) * rate]
        return noise.reshape(-1, codec.unit * rate)


class Orpheus:
    """Orpheus-TTS's schedule: from the fourth frame on, each frame decodes the last four and plays the second of them.

    Not exact (two frames of look-ahead where 2.3 are needed), and the first frame and the last two are never heard.
    """

    def __init__(self, codec: Codec, noise: Noise) -> None:
        if WINDOW * codec.frame % codec.unit:
            raise ValueError(f"windows of {WINDOW} frames do not hold whole attention windows of {codec.unit} columns")
        self._codec, self._noise = codec, noise
        self._codes: list[int] = []  # from the first frame of the next window
        self._frame = 0  # the first frame of the next window

    def feed(self, codes: Array) -> Array:
        """The next codes in LM order, any number -> one frame of samples for each that became complete."""
        self._codes.extend(np.asarray(codes).reshape(-1).tolist())
        size = len(self._codec.order)
        frames = [np.empty(0, np.float32)]
        while len(self._codes) >= WINDOW * size:
            window = Stream(self._codec, self._shifted(self._frame))
            frame = self._codec.frame * self._codec.hop
            audio = (
                window.feed(np.asarray(self._codes[: WINDOW * size])),
                window._finish(2 * frame, WINDOW * self._codec.frame),
            )
            frames.append(np.concatenate(audio)[frame : 2 * frame])
            del self._codes[:size]
            self._frame += 1
        return np.concatenate(frames)

    def flush(self) -> Array:
        """Nothing: what is left is never played. Then the stream starts anew."""
        self._codes, self._frame = [], 0
        return np.empty(0, np.float32)

    def fork(self) -> "Orpheus":
        """A stream that goes on from here, as this one still can."""
        other = Orpheus(self._codec, self._noise)
        other._codes, other._frame = self._codes.copy(), self._frame
        return other

    def _shifted(self, by: int) -> Noise:
        return lambda block, frame, n: self._noise(block, by + frame, n)
