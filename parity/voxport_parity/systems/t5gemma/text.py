"""T5Gemma-TTS: the golden's texts as they are read, the prompt, and how long its speech is expected to be."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from voxport import bounds
from voxport.bounds import Bound
from voxport.bundle import Bundle
from voxport.graphs.session import Array
from voxport.systems.t5gemma.duration import Recording, estimate
from voxport.systems.t5gemma.language import canonical
from voxport.systems.t5gemma.normalize import normalized
from voxport.systems.t5gemma.prompt import Prompt, Prompts, Reference
from voxport.systems.t5gemma.request import request
from voxport.systems.t5gemma.section import Section
from voxport.systems.t5gemma.text import Words
from voxport_parity.systems.t5gemma.utterance import CODES, TEXT, TOTAL
from voxport_parity.trace import Golden, Trace

RECORDING = "codec.enc.codes"  # what the golden's recording was turned into
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


def prompt(bundle: Bundle, golden: Golden) -> Prompt | None:
    """What the golden's run was given to read; None where the notes do not say what it says.

    The codes of its recording are the golden's own, so that whatever hears recordings takes no part.
    """
    run: Mapping[str, Any] = golden.notes.get("settings", {})
    if not isinstance(run.get("text"), str):
        return None
    words = Words(bundle.path / "tokenizer.json", parse_special=True, package=False)  # upstream parses them
    text = words.read(run["text"], run.get("lang"))
    reference, recording = None, None
    if run.get("ref_text"):
        transcript = words.read(run["ref_text"], text.language)
        codes = _recording(golden)
        if codes is None:
            return None
        reference = Reference(transcript.ids, codes)
        recording = Recording(transcript.words, None)  # of no known length: see docs/systems/t5gemma.md 2.2
    seconds = run.get("target_duration")
    if seconds is None:
        seconds = estimate(text.words, canonical(text.language), recording)
    repeat = request({}, {"repeat_prompt": run.get("repeat_prompt", 0)}, 0, True, False).repeat
    return Prompts(bundle.section(Section), bundle.manifest.tokens).prompt(text.ids, seconds, reference, repeat)


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


def _recording(golden: Golden) -> Array | None:
    """Codes int64 [frames]: as they were heard, else as they stand in the prompt, without the separator at its end."""
    if RECORDING in golden.tensors:
        return golden.tensors[RECORDING].reshape(-1).astype(np.int64)
    if CODES in golden.tensors:
        return golden.tensors[CODES].reshape(-1)[:-1].astype(np.int64)
    return None


def _code_points(text: str) -> Array:
    return np.array([ord(char) for char in text], np.int64)
