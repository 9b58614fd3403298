"""Voices that a Fun-CosyVoice3 checkpoint brings along become enrolled voices."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.bundles import FIXTURES

from voxport.systems.cosyvoice3.voice import Voice
from voxport_exporters.systems.cosyvoice3 import voices
from voxport_exporters.systems.cosyvoice3.tokenizer import tokenizer

TEXT = "You are a helpful assistant.<|endofprompt|>Hi hope.[breath]好"
BANDS = 80
CONTENTS, _ = tokenizer(FIXTURES / "cosyvoice3", 151936)


def entry(text: str = TEXT, frames: int = 6) -> dict[str, Any]:
    """What upstream's add_zero_shot_spk keeps of a recording."""
    from tokenizers import Tokenizer

    ids = torch.tensor([Tokenizer.from_str(CONTENTS.decode()).encode(text).ids], dtype=torch.int32)
    tokens = torch.arange(frames // 2, dtype=torch.int32)[None]
    mel, embedding = torch.randn(1, frames, BANDS), torch.randn(1, 192)

    def length(of: torch.Tensor) -> torch.Tensor:
        return torch.tensor([of.shape[1]], dtype=torch.int32)

    return {
        **{"prompt_text": ids, "prompt_text_len": length(ids)},
        **{"llm_prompt_speech_token": tokens, "llm_prompt_speech_token_len": length(tokens)},
        **{"flow_prompt_speech_token": tokens, "flow_prompt_speech_token_len": length(tokens)},
        **{"prompt_speech_feat": mel, "prompt_speech_feat_len": length(mel)},
        **{"llm_embedding": embedding, "flow_embedding": embedding},
    }


def read(folder: Path, entries: object) -> dict[str, Voice]:
    torch.save(entries, folder / "spk2info.pt")
    return voices.voices(folder, CONTENTS, BANDS)


def test_a_checkpoint_without_them_has_none(tmp_path: Path) -> None:
    assert voices.voices(tmp_path, CONTENTS, BANDS) == {}
    assert voices.files(tmp_path, CONTENTS, BANDS) == {}


@pytest.mark.parametrize("text", [TEXT, ""])
def test_a_cloned_voice_is_read_whole(tmp_path: Path, text: str) -> None:
    stored = entry(text)
    voice = read(tmp_path, {"中文女": stored})["中文女"]
    assert voice.text == text
    assert voice.tokens.tolist() == [0, 1, 2]
    assert np.array_equal(voice.mel, stored["prompt_speech_feat"][0])
    assert np.array_equal(voice.embedding, stored["flow_embedding"][0])
    voice.check(3, BANDS, 192)


def test_it_is_the_file_that_enrolling_makes(tmp_path: Path) -> None:
    torch.save({"ann": entry(), "bob": entry("")}, tmp_path / "spk2info.pt")
    files = voices.files(tmp_path, CONTENTS, BANDS)
    assert list(files) == ["voices/ann.safetensors", "voices/bob.safetensors"]
    (tmp_path / "ann.safetensors").write_bytes(files["voices/ann.safetensors"])
    loaded = Voice.load(tmp_path / "ann.safetensors")
    loaded.save(tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").stat().st_size == len(files["voices/ann.safetensors"])
    assert (loaded.text, loaded.mel.shape) == (TEXT, (6, BANDS))
    assert loaded.tokens.dtype == np.int64


def test_a_fine_tuned_voice_has_no_recording(tmp_path: Path) -> None:
    voice = read(tmp_path, {"sft": {"embedding": torch.ones(1, 192)}})["sft"]
    assert (voice.text, len(voice.tokens), voice.mel.shape, voice.embedding.sum()) == ("", 0, (0, BANDS), 192)
    tokens, mel = voice.aligned(2)
    assert (tokens.size, mel.shape) == (0, (0, BANDS))


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ([1], "wanted a dict of voices by name"),
        ({"": entry()}, "voice '': cannot be the name of a file"),
        ({"..": entry()}, "voice '..': cannot be the name of a file"),
        ({"../../x": entry()}, "voice '../../x': cannot be the name of a file; rename it"),
        ({"a": [1]}, "voice 'a': wanted tensors by name"),
        ({"a": {}}, "voice 'a': has none of flow_embedding, llm_embedding, embedding"),
        ({"a": entry() | {"llm_embedding": torch.zeros(1, 192)}}, "llm and flow have different recordings"),
        ({"a": entry() | {"llm_prompt_speech_token": torch.zeros(1, 3)}}, "llm and flow have different recordings"),
        ({"a": entry() | {"prompt_speech_feat": torch.zeros(1, 80, 6)}}, r"prompt_speech_feat \[1, 80, 6\] has no 80"),
        ({"a": entry() | {"prompt_speech_feat": 1}}, "voice 'a': prompt_speech_feat is no tensor"),
    ],
)
def test_what_upstream_does_not_write_is_one_line(tmp_path: Path, entries: object, words: str) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        read(tmp_path, entries)
    assert str(caught.value).startswith(f"{tmp_path / 'spk2info.pt'}: ")
    assert "\n" not in str(caught.value)


def test_a_file_that_would_run_code_is_not_read(tmp_path: Path) -> None:
    torch.save({"a": Path("x")}, tmp_path / "spk2info.pt")
    with pytest.raises(ValueError, match=r"spk2info.pt: cannot be read"):
        voices.voices(tmp_path, CONTENTS, BANDS)
    (tmp_path / "spk2info.pt").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"spk2info.pt: cannot be read"):
        voices.voices(tmp_path, CONTENTS, BANDS)
