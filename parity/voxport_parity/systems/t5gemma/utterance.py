"""T5Gemma-TTS: what a golden's run was given, from its tensors or, where they are missing, from its notes."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from voxport.bundle import Bundle
from voxport.graphs.session import Array
from voxport.speech.text import Tokenizer
from voxport.systems.t5gemma.duration import Recording, estimate
from voxport.systems.t5gemma.language import canonical
from voxport.systems.t5gemma.prompt import Prompt, Prompts, Reference
from voxport.systems.t5gemma.request import request
from voxport.systems.t5gemma.section import Section
from voxport.systems.t5gemma.text import Words
from voxport_parity.trace import Golden

TEXT, CODES, TOTAL, TOKENS = "t5.text_ids", "t5.prompt_codes", "t5.target_total", "t5.greedy.tokens"
RECORDING = "codec.enc.codes"  # what the golden's recording was turned into


@dataclass(frozen=True)
class Utterance:
    """`text`: ids that the encoder reads; `audio` int64 [n]: what the decoder is fed first; `expected`: tokens at the
    last of which the progress is complete; `tokens` int64 [steps]: what upstream chose then, the end included."""

    text: list[int]
    audio: Array
    expected: int
    tokens: Array


def utterance(bundle: Bundle, golden: Golden) -> Utterance | None:
    """None where neither tensors nor notes say what was said."""
    tensors = golden.tensors
    if {TEXT, CODES, TOTAL} <= tensors.keys():
        text, codes, total = tensors[TEXT][0].tolist(), tensors[CODES].ravel(), int(tensors[TOTAL][0])
    elif (found := prompt(bundle, golden)) is not None:
        text = tensors[TEXT][0].tolist() if TEXT in tensors else found.text
        codes = tensors[CODES].ravel() if CODES in tensors else found.codes
        total = int(tensors[TOTAL][0]) if TOTAL in tensors else found.target_total
    else:
        return None
    audio = np.array([bundle.manifest.tokens["empty"], *codes], np.int64)
    tokens = tensors[TOKENS] if TOKENS in tensors else golden.notes.get("greedy_codes", [])
    return Utterance(text, audio, max(total + 1, len(audio)), np.array(tokens, np.int64))


def prompt(bundle: Bundle, golden: Golden) -> Prompt | None:
    """What the golden's run was given to read; None where the notes do not say what it says.

    The codes of its recording are the golden's own, so that whatever hears recordings takes no part.
    """
    run: Mapping[str, Any] = golden.notes.get("settings", {})
    if not isinstance(run.get("text"), str):
        return None
    words = Words(Tokenizer(bundle.path / "tokenizer.json"), parse_special=True, package=False)  # as upstream
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


def _recording(golden: Golden) -> Array | None:
    """Codes int64 [frames]: as they were heard, else as they stand in the prompt, without the separator at its end."""
    if RECORDING in golden.tensors:
        return golden.tensors[RECORDING].reshape(-1).astype(np.int64)
    if CODES in golden.tensors:
        return golden.tensors[CODES].reshape(-1)[:-1].astype(np.int64)
    return None
