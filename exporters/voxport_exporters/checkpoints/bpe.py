"""The tokenizer of a Qwen2 or Qwen3 checkpoint as one tokenizer.json, from the vocab.json and merges.txt of a release.

Byte-level BPE, NFC, and Qwen2's way of splitting (docs/systems/qwen3tts.md 3.1).
"""

import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
PLAIN = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}  # matched anywhere, as written


def tokenizer(folder: Path, more: Sequence[str] = ()) -> tuple[bytes, tuple[Path, ...]]:
    """(contents of tokenizer.json for a model's folder, the files it comes from).

    Every added token is marked as special there, those like <think> too: what the runtime reads as plain text is then
    all of a user's text. `more`: names of tokens that upstream adds when it loads the tokenizer; one that the files do
    not know has the next free id.
    FileNotFoundError or ValueError in one line: a file is missing, or they make no tokenizer.
    """
    whole = folder / "tokenizer.json"
    if whole.is_file():
        try:
            contents = json.loads(whole.read_text(encoding="utf-8"))
            _add(contents, contents.get("added_tokens", []), more)
        except (ValueError, TypeError, AttributeError, KeyError) as error:
            raise ValueError(f"{whole}: not a tokenizer.json: {error}") from None
        return json.dumps(contents, ensure_ascii=False).encode(), (whole,)
    files = tuple(folder / name for name in ("vocab.json", "merges.txt", "tokenizer_config.json"))
    try:
        vocab, merges, config = (path.read_text(encoding="utf-8") for path in files)
        contents = {
            "version": "1.0",
            "normalizer": {"type": "NFC"},
            "pre_tokenizer": {
                "type": "Sequence",
                "pretokenizers": [
                    {"type": "Split", "pattern": {"Regex": SPLIT}, "behavior": "Isolated", "invert": False},
                    {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False},
                ],
            },
            "decoder": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False},
            "model": {
                "type": "BPE",
                "vocab": json.loads(vocab),
                "merges": [line for line in merges.splitlines() if line and not line.startswith("#version")],
            },
        }
        added = json.loads(config).get("added_tokens_decoder", {})
        _add(contents, [{"id": int(i), **added[i]} for i in sorted(added, key=int)], more)
    except OSError as error:
        choices = "tokenizer.json, or vocab.json, merges.txt and tokenizer_config.json"
        raise FileNotFoundError(f"{error.filename}: no such file; wanted {choices}") from None
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise ValueError(f"{folder}: its vocab.json and tokenizer_config.json make no tokenizer: {error}") from None
    return json.dumps(contents, ensure_ascii=False).encode(), files


def _add(contents: dict[str, Any], added: Sequence[Mapping[str, Any]], more: Sequence[str]) -> None:
    """Puts the added tokens and `more` into `contents`, all special.

    They stand in the vocabulary as well: the tokenizers package gives a token that does not the next free id, whatever
    `id` says. No merge leads to one, so plain text stays plain.
    """
    vocab = contents["model"]["vocab"]
    tokens = [{**token, "special": True} for token in added]
    vocab |= {token["content"]: token["id"] for token in tokens}
    known = {token["content"] for token in tokens}
    following = itertools.count(max(vocab.values(), default=-1) + 1)
    for name in more:
        if name not in vocab:
            vocab[name] = next(following)
        if name not in known:
            tokens.append({"id": vocab[name], "content": name, **PLAIN, "special": True})
    contents["added_tokens"] = sorted(tokens, key=lambda token: int(token["id"]))
