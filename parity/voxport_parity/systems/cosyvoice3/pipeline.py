"""Fun-CosyVoice3: what upstream's pipeline hands from one net to the next: tokens to hear, and how many at a time."""

from collections.abc import Sequence

import numpy as np

from voxport import bounds
from voxport.bounds import Bound
from voxport.bundle import Bundle
from voxport.graphs.session import Array
from voxport.systems.cosyvoice3.audio import hop
from voxport.systems.cosyvoice3.section import Section
from voxport.systems.cosyvoice3.silence import SilenceFilter
from voxport_parity.trace import Golden, Trace

GENERATED, TOKENS, PROMPT = "llm.greedy_tokens", "pipeline.tokens_after_silent_filter", "frontend.prompt_token"


def bound(_name: str) -> Bound:
    """See `Feeds`."""
    return bounds.EQUAL


def rounded(name: str) -> Bound | None:
    """See `Feeds`."""
    return bound(name)


def stage(_name: str) -> str:
    """See `Feeds`."""
    return "pipeline"


def input_reason(_name: str) -> str | None:
    """See `Feeds`."""
    return None


def trace(bundle: Bundle, golden: Golden) -> Trace:
    """What follows from upstream's own tokens."""
    tensors, outputs = golden.tensors, Trace()
    if GENERATED in tensors:
        outputs[TOKENS] = filtered(tensors[GENERATED].tolist())
    tokens = tensors.get(TOKENS, outputs.get(TOKENS))
    if tokens is not None and PROMPT in tensors:
        outputs |= hops(len(tokens), tensors[PROMPT].shape[1], bundle.section(Section).flow.lookahead)
    return outputs


def filtered(tokens: Sequence[int]) -> Array:
    """Tokens without those that make a silence too long."""
    silence = SilenceFilter()
    passed = (silence.feed(token) for token in tokens)
    return np.array([token for token in passed if token is not None], np.int32)


def hops(tokens: int, prompt: int, lookahead: int) -> Trace:
    """Of upstream's streaming of so many `tokens` after a prompt: how many the flow gets each time, and its flags
    [streaming, finalize]."""
    counts: list[int] = []
    offset = 0
    while tokens >= (end := offset + hop(len(counts), prompt)) + lookahead:
        counts.append(end + lookahead)
        offset = end
    flags = [[1, 0]] * len(counts) + [[0, 1]]
    return {
        "pipeline.stream_flow_tokens": np.array([*counts, tokens], np.int32),
        "pipeline.stream_flags": np.array(flags, np.int32),
    }
