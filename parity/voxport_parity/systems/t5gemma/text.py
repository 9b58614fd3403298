"""T5Gemma-TTS: the golden's texts as they are read, the prompt, and how long its speech is expected to be."""

from collections.abc import Iterator

import numpy as np

from voxport import bounds
from voxport.bounds import Bound
from voxport.bundle import Bundle
from voxport.graphs.session import Array
from voxport.systems.t5gemma.duration import estimate
from voxport.systems.t5gemma.language import canonical
from voxport.systems.t5gemma.normalize import normalized
from voxport_parity.systems.t5gemma.utterance import CODES, TEXT, TOTAL, prompt
from voxport_parity.trace import Golden, Trace

SECONDS, NORMALIZED = "duration_estimator_without_g2p_packages", "text_normalization"  # notes


def owns(name: str) -> bool:
    """Whether a tensor is one of this module's."""
    return name in (TEXT, CODES, TOTAL) or name.startswith("text.")


def bound(_name: str) -> Bound:
    """How far a tensor may be off: ids, codes and lengths are equal, and seconds to the last bit."""
    return bounds.EQUAL


def rounded(name: str) -> Bound:
    """The same for quantized graphs, which take no part in it."""
    return bound(name)


def stage(name: str) -> str:
    """Which stage a tensor belongs to."""
    return "prompt" if name in (CODES, TOTAL) else "text"


def input_reason(_name: str) -> str | None:
    """See `Feeds`."""
    return None


def trace(bundle: Bundle, golden: Golden) -> Trace:
    """The ids of the golden's text, its prompt and the length that is expected, in the golden's layout."""
    found = prompt(bundle, golden)
    if found is None:
        return {}
    return {
        TEXT: np.array([found.text], np.int64),
        CODES: found.codes[None, :, None],
        TOTAL: np.array([found.target_total], np.int64),
    }


def pairs(golden: Golden) -> Iterator[tuple[str, Array, Array]]:
    """(name, ours, upstream's) of the lists in the notes: seconds of texts, and normalised texts as code points."""
    for i, row in enumerate(golden.notes.get(SECONDS, [])):
        seconds = estimate(row["text"], canonical(row["lang"]))
        yield f"text.seconds.{i}", np.array([seconds]), np.array([float(row["seconds"])])
    for i, row in enumerate(golden.notes.get(NORMALIZED, [])):
        yield f"text.normalized.{i}", _code_points(normalized(row["text"], row["lang"])), _code_points(row["out"])


def _code_points(text: str) -> Array:
    return np.array([ord(char) for char in text], np.int64)
