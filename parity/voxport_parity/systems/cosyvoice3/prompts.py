"""Fun-CosyVoice3: which ids the goldens of the language model were made from.

They stand in the front end's goldens, or only in the embeddings that went into the model: those are looked up in the
tables, backwards.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from voxport.bundle import Bundle
from voxport.graphs.session import Array
from voxport.speech.text import Tokenizer
from voxport.systems.cosyvoice3.lm import TASK, LanguageModel
from voxport_parity.trace import Golden

CHUNK = 1 << 13  # rows of a table in flight
TOKENIZER = "tokenizer.json"


@dataclass(frozen=True)
class Prompt:
    """`text`: ids, of which the last `length` are what is to be said; `tokens`: the prompt's speech."""

    text: list[int]
    tokens: list[int]
    length: int


def prompt(model: LanguageModel, bundle: Bundle, golden: Golden) -> Prompt | None:
    """That of the golden's main run; None where nothing says what it was."""
    tensors = golden.tensors
    text, tokens = tensors.get("frontend.text_ids"), tensors.get("frontend.prompt_token")
    cloned = golden.notes.get("mode", "zero_shot") == "zero_shot"  # elsewhere the model hears no prompt
    if text is not None and (tokens is not None or not cloned):
        before = tensors.get("frontend.prompt_text_ids", np.zeros((1, 0), np.int64))
        speech = tokens[0].tolist() if cloned and tokens is not None else []
        return Prompt([*before[0].tolist(), *text[0].tolist()], speech, text.shape[1])
    if "llm.lm_input" not in tensors:
        return None
    ids, speech = looked_up(model, bundle, tensors["llm.lm_input"][0])
    length = text.shape[1] if text is not None else len(words(bundle).encode(golden.notes["tts_text"]))
    return Prompt(ids, speech, length)


def words(bundle: Bundle) -> Tokenizer:
    return Tokenizer(bundle.path / TOKENIZER)


def looked_up(model: LanguageModel, bundle: Bundle, embeds: Array) -> tuple[list[int], list[int]]:
    """embeds [tokens, width] of a prompt -> (its text ids, its speech tokens): those of the nearest rows."""
    contents = json.loads((bundle.path / TOKENIZER).read_text())
    known = {*contents["model"]["vocab"].values(), *(token["id"] for token in contents["added_tokens"])}
    text, far = _nearest(embeds, sorted(known), model.text)
    speech, farther = _nearest(embeds, range(model.ids), model.speech)
    task = int(np.argmax((speech == model.control(TASK)) & (farther < far)))
    return text[1:task].tolist(), speech[task + 1 :].tolist()


def _nearest(embeds: Array, ids: Sequence[int], rows: Callable[[Sequence[int]], Array]) -> tuple[Array, Array]:
    """(the ids [tokens] whose rows are nearest to `embeds`, how far they are, beside what is the same for all rows)."""
    best, least = np.zeros(len(embeds), np.int64), np.full(len(embeds), np.inf)
    for start in range(0, len(ids), CHUNK):
        some = np.array(ids[start : start + CHUNK])
        table = rows(some.tolist())
        far = np.square(table).sum(axis=1) - 2 * embeds @ table.T
        nearer = far.min(axis=1) < least
        best[nearer], least[nearer] = some[far.argmin(axis=1)][nearer], far.min(axis=1)[nearer]
    return best, least
