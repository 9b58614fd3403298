"""T5Gemma-TTS: what a golden's run was given, from its tensors or, where they are missing, from its notes."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from voxport.bundle import Bundle
from voxport.graphs.session import Array
from voxport.systems.t5gemma.prompt import PARALLEL, Prompts, Reference
from voxport.systems.t5gemma.section import Section
from voxport.systems.t5gemma.text import Words
from voxport_parity.trace import Golden

TEXT, CODES, TOTAL, TOKENS = "t5.text_ids", "t5.prompt_codes", "t5.target_total", "t5.greedy.tokens"


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
    tensors, section = golden.tensors, bundle.section(Section)
    settings: Mapping[str, Any] = golden.notes.get("settings", {})
    text, codes = _text(bundle, golden, settings), _codes(bundle, golden, settings)
    if text is None or codes is None:
        return None
    if TOTAL in tensors:
        total = int(tensors[TOTAL][0])
    elif "target_duration" in settings:
        total = int(len(codes) + section.frame_rate * settings["target_duration"] + PARALLEL * section.parallel)
    else:
        return None
    audio = np.array([bundle.manifest.tokens["empty"], *codes], np.int64)
    tokens = tensors[TOKENS] if TOKENS in tensors else golden.notes.get("greedy_codes", [])
    return Utterance(text, audio, max(total + 1, len(audio)), np.array(tokens, np.int64))


def _text(bundle: Bundle, golden: Golden, settings: Mapping[str, Any]) -> list[int] | None:
    if TEXT in golden.tensors:
        return [int(id) for id in golden.tensors[TEXT][0]]
    if "text" not in settings:
        return None
    words, before = Words(bundle.path / "tokenizer.json"), settings.get("ref_text")
    reference = Reference(words.read(before).ids, np.empty(0, np.int64)) if before else None
    prompts = Prompts(bundle.section(Section), bundle.manifest.tokens)
    return prompts.text(words.read(settings["text"]).ids, reference)


def _codes(bundle: Bundle, golden: Golden, settings: Mapping[str, Any]) -> list[int] | None:
    """Codes of the recording, y_sep last; none without one, None where nobody knows them."""
    if CODES in golden.tensors:
        return [int(code) for code in golden.tensors[CODES].ravel()]
    if "settings" in golden.notes and not settings.get("ref_text"):
        return []
    if "codec.enc.codes" in golden.tensors:
        codes = golden.tensors["codec.enc.codes"].ravel()
        return [*(int(code) for code in codes), bundle.manifest.tokens["y_sep"]]
    return None
