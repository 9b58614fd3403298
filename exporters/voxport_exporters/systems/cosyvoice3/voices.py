"""Voices that a checkpoint brings along: spk2info.pt as enrolled voices (docs/systems/cosyvoice3.md 2.2).

Upstream writes that file (cosyvoice/cli/cosyvoice.py, add_zero_shot_spk and save_spkinfo): for every name what a
recording was turned into. An entry with an `embedding` alone, as those of fine-tuned models (sft), is a voice without a
recording.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer

from voxport.graphs.session import Array
from voxport.speech.voices import FOLDER, SUFFIX
from voxport.systems.cosyvoice3.voice import Voice

FILE = "spk2info.pt"
TOKENS = ("flow_prompt_speech_token", "llm_prompt_speech_token")
EMBEDDINGS = ("flow_embedding", "llm_embedding", "embedding")
UNSAFE = ("/", "\\", ":", "\0")  # in the name of a file


def voices(root: Path, tokenizer: bytes, bands: int) -> dict[str, Voice]:
    """Every voice by its name; none where the checkpoint in `root` has no spk2info.pt.

    `tokenizer`: contents of the bundle's tokenizer.json, in whose ids the file keeps what is said; `bands`: of the mel.
    ValueError in one line that names the file: it is damaged, or holds something else.
    """
    path = root / FILE
    if not path.is_file():
        return {}
    try:
        entries = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # pickle, zipfile and torch raise what they like for a damaged file
        raise ValueError(f"{path}: cannot be read: {str(error).splitlines()[0][:120]}") from None
    if not isinstance(entries, dict):
        raise ValueError(f"{path}: wanted a dict of voices by name")
    text = Tokenizer.from_str(tokenizer.decode())
    try:
        return {_name(name): _voice(name, entry, text, bands) for name, entry in entries.items()}
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def files(root: Path, tokenizer: bytes, bands: int) -> dict[str, bytes]:
    """`voices` as files of a bundle: their names there, and what they hold."""
    found = voices(root, tokenizer, bands)
    return {f"{FOLDER}/{name}{SUFFIX}": voice.contents() for name, voice in found.items()}


def _name(name: object) -> str:
    """The name of a voice, which becomes that of a file."""
    if not isinstance(name, str) or not name.strip(". ") or any(part in name for part in UNSAFE):
        raise ValueError(f"voice {name!r}: cannot be the name of a file; rename it")
    return name


def _voice(name: str, entry: object, tokenizer: Tokenizer, bands: int) -> Voice:
    if not isinstance(entry, Mapping):
        raise ValueError(f"voice {name!r}: wanted tensors by name")
    embeddings = [_numbers(name, entry, key).reshape(-1) for key in EMBEDDINGS if key in entry]
    if not embeddings:
        raise ValueError(f"voice {name!r}: has none of {', '.join(EMBEDDINGS)}")
    tokens = [_numbers(name, entry, key).reshape(-1) for key in TOKENS if key in entry] or [np.empty(0, np.int64)]
    for pair in (embeddings, tokens):
        if not all(np.array_equal(pair[0], other) for other in pair):
            raise ValueError(f"voice {name!r}: llm and flow have different recordings, which upstream never writes")
    mel = _numbers(name, entry, "prompt_speech_feat") if len(tokens[0]) else np.empty((0, bands), np.float32)
    if mel.shape[-1:] != (bands,):
        raise ValueError(f"voice {name!r}: prompt_speech_feat {list(mel.shape)} has no {bands} bands")
    ids = _numbers(name, entry, "prompt_text").reshape(-1).astype(np.int64).tolist() if "prompt_text" in entry else []
    return Voice(
        tokenizer.decode(ids, skip_special_tokens=False),
        tokens[0].astype(np.int64),
        mel.reshape(-1, bands).astype(np.float32),
        embeddings[0].astype(np.float32),
    )


def _numbers(name: str, entry: Mapping[str, Any], key: str) -> Array:
    value = entry.get(key)
    if not isinstance(value, torch.Tensor):
        raise ValueError(f"voice {name!r}: {key} is no tensor")
    found: Array = value.detach().to(torch.float64 if value.is_floating_point() else torch.int64).numpy()
    return found
