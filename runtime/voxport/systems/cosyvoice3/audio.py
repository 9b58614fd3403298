"""Fun-CosyVoice3: speech tokens as audio, all at once or while they still come (docs/systems/cosyvoice3.md 7).

Three schedules, each a CodecStream of its own for every request, so that no request changes the next one's:

    whole        upstream's offline path: every frame of mel sees every other, and nothing is heard before the end
    upstream     upstream's streaming: hops of 25, 50, 100 .. tokens; the last one as in `whole`, over everything
    low_latency  blocks as the net was trained for, each computed once; the first is heard as soon as it is complete
"""

from typing import Literal

import numpy as np

from voxport.codecs import CodecStream
from voxport.graphs.session import Array
from voxport.systems.cosyvoice3.flow import Flow
from voxport.systems.cosyvoice3.flowstream import FlowStream, Reference
from voxport.systems.cosyvoice3.section import FlowSection
from voxport.systems.cosyvoice3.silence import SilenceFilter
from voxport.systems.cosyvoice3.vocoder import Vocoder

Schedule = Literal["whole", "upstream", "low_latency"]

# Hard-coded upstream (cli/model.py, CosyVoice3Model): tokens of the first hop and the most, and how they grow.
HOP, MOST, GROWTH = 25, 100, 2
SILENCE = np.empty(0, np.float32)


class Whole:
    """Tokens in, all samples out at the end."""

    def __init__(self, flow: Flow, vocoder: Vocoder, reference: Reference, steps: int, speed: float = 1.0) -> None:
        """`steps`: Euler steps of the flow; `speed`: above 1 is faster."""
        self._flow, self._vocoder, self._reference = flow, vocoder, reference
        self._steps, self._speed = steps, speed
        self._tokens: list[int] = []

    def feed(self, tokens: Array) -> Array:
        """The next tokens int [n] -> no samples yet."""
        self._tokens += np.asarray(tokens).tolist()
        return SILENCE

    def flush(self) -> Array:
        """All samples float32 [n]."""
        tokens, self._tokens = np.array(self._tokens, np.int64), []
        if not len(tokens):
            return SILENCE
        mel = self._flow.mel(self._reference, tokens, self._steps)
        return self._vocoder.decode(stretched(mel, self._speed))

    def fork(self) -> "Whole":
        """See CodecStream."""
        other = Whole(self._flow, self._vocoder, self._reference, self._steps, self._speed)
        other._tokens = list(self._tokens)
        return other


def hop(index: int, prompt: int) -> int:
    """Tokens of upstream's hop `index` after a prompt of `prompt` tokens; the first fills up the prompt's last one."""
    size = HOP
    for _ in range(index):
        size = min(MOST, size * GROWTH)
    return size + (-prompt % HOP if index == 0 else 0)


class Upstream:
    """Tokens in, samples out in upstream's hops.

    Upstream keeps the size of the hop on the model, so that its second request starts where the first one ended; here
    it belongs to the request. Every hop computes the flow over everything so far, as upstream does.
    """

    def __init__(self, flow: Flow, vocoder: Vocoder, reference: Reference, steps: int) -> None:
        self._flow, self._reference, self._steps = flow, reference, steps
        self._vocoder = vocoder
        self._start()

    def _start(self) -> None:
        self._tokens: list[int] = []
        self._offset, self._hops = 0, 0  # tokens and hops that were heard
        self._stream = self._vocoder.stream()

    def feed(self, tokens: Array) -> Array:
        """The next tokens int [n] -> the samples of the hops they complete."""
        self._tokens += np.asarray(tokens).tolist()
        pieces = [SILENCE]
        while len(self._tokens) >= (end := self._end()) + self._flow.section.lookahead:
            known = np.array(self._tokens[: end + self._flow.section.lookahead], np.int64)
            mel = self._flow.upstream_chunk(self._reference, known, self._steps)
            pieces.append(self._stream.feed(mel[self._offset * self._flow.section.ratio :]))
            self._offset, self._hops = end, self._hops + 1
        return np.concatenate(pieces)

    def flush(self) -> Array:
        """The samples of what is left; upstream computes its mel with full attention over everything."""
        tokens = np.array(self._tokens, np.int64)
        if not len(tokens):
            return SILENCE
        mel = self._flow.mel(self._reference, tokens, self._steps)
        last = self._stream.feed(mel[self._offset * self._flow.section.ratio :])
        samples = np.concatenate((last, self._stream.flush()))
        self._start()
        return samples

    def fork(self) -> "Upstream":
        """See CodecStream."""
        other = Upstream(self._flow, self._vocoder, self._reference, self._steps)
        other._tokens, other._offset, other._hops = list(self._tokens), self._offset, self._hops
        other._stream = self._stream.fork()
        return other

    def _end(self) -> int:
        return self._offset + hop(self._hops, len(self._reference.tokens))


class LowLatency:
    """Tokens in, samples out block by block. What is computed once is never computed again."""

    def __init__(self, flow: FlowStream, vocoder: Vocoder) -> None:
        """`flow`: it has heard the prompt."""
        self._flow, self._stream = flow, vocoder.stream()

    def feed(self, tokens: Array) -> Array:
        """The next tokens int [n] -> the samples of the blocks they complete."""
        return self._stream.feed(self._flow.feed(np.asarray(tokens, np.int64)))

    def flush(self) -> Array:
        """The samples that are still owed."""
        return np.concatenate((self._stream.feed(self._flow.flush()), self._stream.flush()))

    def fork(self) -> "LowLatency":
        """See CodecStream."""
        other = object.__new__(LowLatency)
        other._flow, other._stream = self._flow.fork(), self._stream.fork()
        return other


def trimmed(reference: Reference, section: FlowSection) -> Reference:
    """The reference without as many of its oldest tokens as leave no block half filled with prompt.

    Then the prompt's blocks can be computed before anything is said, and the first block of speech is nearly whole: a
    listener waits for one block, not for two. Less than a block is lost (1 s in the releases), nothing of a prompt
    that is shorter than a block. The tokens of a block that speech may change, the last `lookahead` ones, are kept.
    """
    count, block = len(reference.tokens) - section.lookahead, section.block

    def frames(lost: int) -> int:
        return section.ratio * (count - lost)

    choices = (lost for lost in range(-(-block // section.ratio)) if frames(lost) >= block)
    lost = min(choices, key=lambda lost: frames(lost) % block, default=0)
    return Reference(reference.tokens[lost:], reference.mel[lost * section.ratio :], reference.embedding)


def stretched(mel: Array, speed: float) -> Array:
    """mel float32 [n, bands] -> [int(n / speed), bands], linear between frames (torch's interpolate, corners apart)."""
    if speed == 1.0 or not len(mel):
        return mel
    count = max(1, int(len(mel) / speed))
    half = np.float32(0.5)
    at = (np.arange(count, dtype=np.float32) + half) * np.float32(len(mel) / count) - half  # float32, as there
    at = np.clip(at, 0, np.float32(len(mel) - 1))
    low = at.astype(np.int64)
    part = (at - low.astype(np.float32))[:, None]
    result: Array = mel[low] * (1 - part) + mel[np.minimum(low + 1, len(mel) - 1)] * part
    return result


class Player:
    """Tokens as audio, one by one; long silences of a generation are shortened, as upstream does before the flow."""

    def __init__(self, stream: CodecStream, silence: SilenceFilter | None = None) -> None:
        """`silence`: of a generation; a recording that is said again keeps its silences."""
        self._silence, self._stream = silence, stream

    def feed(self, token: Array) -> Array:
        """The next token int [] -> the samples that it settles."""
        if self._silence is not None and self._silence.feed(int(token)) is None:
            return SILENCE
        return self._stream.feed(np.array([token], np.int64))

    def flush(self) -> Array:
        """The samples still owed."""
        return self._stream.flush()
