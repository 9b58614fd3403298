"""The tokenizer of T5Gemma-TTS, Gemma's, as the runtime reads it (docs/systems/t5gemma.md 2.1)."""

import json
from pathlib import Path

from voxport_exporters.systems.t5gemma.config import Config

NAME, PIECES = "tokenizer.json", "tokenizer.model"


def tokenizer(folder: Path, config: Config) -> tuple[bytes, tuple[Path, ...]]:
    """(contents of tokenizer.json, the files it comes from) of the tokenizer in `folder`.

    Upstream asks for no ids around a text, nor for padding or a cut, so they are left out. The token that separates
    transcript from text becomes a special one: what the runtime reads as plain text never holds it.
    FileNotFoundError or ValueError in one line: there is none, or an id of it has no row in the text embedding.
    """
    file = folder / NAME
    if not file.is_file():
        hint = ""
        if (folder / PIECES).is_file():
            hint = f"; {PIECES} becomes one with transformers: AutoTokenizer.from_pretrained(DIR).save_pretrained(DIR)"
        raise FileNotFoundError(f"{file}: no such tokenizer{hint}")
    try:
        contents = json.loads(file.read_text(encoding="utf-8"))
        contents |= dict.fromkeys(("post_processor", "truncation", "padding"))
        added = contents.get("added_tokens") or []
        last = max([*contents["model"]["vocab"].values(), *(int(token["id"]) for token in added)])
        for token in added:
            token["special"] = token.get("special", False) or token["id"] == config.voice.x_sep_token
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise ValueError(f"{file}: not a {NAME}: {error}") from None
    if last >= config.encoder.vocab_size:
        raise ValueError(
            f"{file}: ids up to {last}, but the text embedding has {config.encoder.vocab_size} rows: not its vocabulary"
        )
    return json.dumps(contents, ensure_ascii=False).encode(), (file,)
