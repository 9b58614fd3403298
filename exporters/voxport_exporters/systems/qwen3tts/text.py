"""The tokenizer of Qwen3-TTS as one tokenizer.json, from the vocab.json and merges.txt that the releases hold.

Byte-level BPE, NFC, and Qwen2's way of splitting (docs/systems/qwen3tts.md 3.1).
"""

import json
from pathlib import Path

SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def tokenizer(folder: Path) -> tuple[bytes, tuple[Path, ...]]:
    """(contents of tokenizer.json for a model's folder, the files it comes from).

    Every added token is marked as special there, those like <think> too: what the runtime reads as plain text is then
    all of a user's text.
    """
    whole = folder / "tokenizer.json"
    if whole.is_file():
        try:
            contents = json.loads(whole.read_text())
            contents["added_tokens"] = [token | {"special": True} for token in contents.get("added_tokens", [])]
        except (ValueError, TypeError, AttributeError) as error:
            raise ValueError(f"{whole}: not a tokenizer.json: {error}") from None
        return json.dumps(contents, ensure_ascii=False).encode(), (whole,)
    files = tuple(folder / name for name in ("vocab.json", "merges.txt", "tokenizer_config.json"))
    try:
        vocab, merges, config = (path.read_text() for path in files)
        added = json.loads(config).get("added_tokens_decoder", {})
        contents = {
            "version": "1.0",
            "added_tokens": [
                {"id": int(i), **token, "special": True} for i, token in sorted(added.items(), key=lambda a: int(a[0]))
            ],
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
    except OSError as error:
        choices = "tokenizer.json, or vocab.json, merges.txt and tokenizer_config.json"
        raise FileNotFoundError(f"{error.filename}: no such file; wanted {choices}") from None
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{folder}: its vocab.json and tokenizer_config.json make no tokenizer: {error}") from None
    return json.dumps(contents, ensure_ascii=False).encode(), files
