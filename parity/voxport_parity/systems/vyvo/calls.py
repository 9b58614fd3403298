"""VyvoTTS: single calls of the language model, with every layer and cache, laid out as upstream's goldens are."""

from collections.abc import Iterator, Sequence

import numpy as np

from voxport.bundle import Bundle
from voxport.graphs.session import Array, State
from voxport.speech.rows import Rows
from voxport.systems.vyvo.speaker import Speaker
from voxport_parity.reference import taps_of
from voxport_parity.trace import Trace

MANY = 16  # logits of a row of the batch that the goldens keep


def steps(speaker: Speaker, bundle: Bundle, prompt: list[int]) -> Trace:
    """The prompt in one call, then one step."""
    lm, none = bundle.session("lm"), np.zeros(1, np.int64)
    state = lm.start(batch=1, capacity=len(prompt) + 1)
    first = speaker.format.ids["START_OF_AI"]
    outputs: Trace = {"step1.input_id": np.array([[first]])}
    # upstream keeps a column more of each convolution than is ever read: the first of those one token before
    _, before = lm(state.copy(), tokens=np.array([prompt[:-1]]), past=none)
    for call, ids, past in (("prefill", prompt, 0), ("step1", [first], len(prompt))):
        results, state = lm(state, tokens=np.array([ids]), past=np.array([past]))
        outputs |= {f"{call}.{name}": value for name, value in taps_of(lm).items()}
        if call == "prefill":
            outputs["prefill.logits_last"] = speaker.model.logits("head", results["hidden"])
        outputs |= _caches(call, state, before, past + len(ids))
        before = state.copy()
    return outputs


def _caches(call: str, state: State, before: State, total: int) -> Iterator[tuple[str, Array]]:
    for name, array in state.items():
        kind, _, layer = name.partition(".")
        if kind == "conv":
            columns = np.concatenate((before[name][:, :1], array), axis=1).transpose(0, 2, 1)
            yield f"{call}.layer{layer}.conv_state", columns
        elif array.dtype == np.float32:  # of codes only the graph knows what they stand for
            yield f"{call}.layer{layer}.{kind.removesuffix('s')}", array[:, :, :total].copy()


def batch(speaker: Speaker, bundle: Bundle, prompts: Sequence[list[int]]) -> Trace:
    """Upstream's padded batch, without pads: each row is prefilled alone, then all take their last token together."""
    rows = Rows(bundle.session("lm"), len(prompts), max(map(len, prompts)))
    rows.begin(tokens=[np.array(prompt[:-1], np.int64) for prompt in prompts])
    hidden = rows.step(tokens=np.array([prompt[-1] for prompt in prompts], np.int64))["hidden"]
    logits = speaker.model.logits("head", hidden)
    best = np.argsort(-logits, axis=1, kind="stable")[:, :MANY]
    return {
        "batch.hidden_last": hidden,
        "batch.top_ids": best,
        "batch.top_logits": np.take_along_axis(logits, best, axis=1),
    }
