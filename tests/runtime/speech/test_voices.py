"""Files and names of voices, and recordings to clone."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile as sf
from safetensors import safe_open
from safetensors.numpy import save_file

from voxport.audio import files
from voxport.speech import voices

KINDS = {"codes": ("I32", 2)}
CODES = np.arange(6, dtype=np.int32).reshape(2, 3)


def load(path: Path) -> tuple[dict[str, np.ndarray], str]:
    return voices.load(path, "mine", KINDS, "text")


def refusal(path: Path) -> str:
    with pytest.raises(ValueError) as refused:
        load(path)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def checkpoint(path: Path, metadata: dict[str, str], size: int = 2**30) -> Path:
    """A checkpoint of one bfloat16 tensor of `size` bytes, which are a hole in the file."""
    header: dict[str, Any] = {"w": {"dtype": "BF16", "shape": [size // 2], "data_offsets": [0, size]}}
    text = json.dumps(header | {"__metadata__": metadata}).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + size)
    return path


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    path = tmp_path / "new" / "v.safetensors"
    voices.save(path, "mine", {"codes": CODES}, {"text": "Hm."})
    arrays, text = load(path)
    assert np.array_equal(arrays["codes"], CODES)
    assert text == "Hm."
    assert [p.name for p in path.parent.iterdir()] == ["v.safetensors"]


def test_a_voice_that_cannot_be_written_leaves_the_older_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "v.safetensors"
    voices.save(path, "mine", {"codes": CODES}, {"text": "old"})

    def half(_: object, part: Path, __: object) -> None:
        part.write_bytes(b"half of it")
        raise OSError("no space left")

    monkeypatch.setattr(voices, "save_file", half)
    with pytest.raises(OSError, match="no space left"):
        voices.save(path, "mine", {"codes": CODES}, {"text": "new"})
    assert load(path)[1] == "old"
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(ValueError, match=r"an enrolled voice is a \.safetensors file"):
        voices.save(tmp_path / "v.wav", "mine", {}, {})


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"format": "pt"}, "a voice of something else, this bundle is mine; enroll the reference with this bundle"),
        ({voices.SYSTEM: "yours", "text": ""}, "a voice of yours, this bundle is mine"),
        ({voices.SYSTEM: "mine", "text": ""}, "not a voice of this version; enroll the reference again"),
    ],
)
def test_a_checkpoint_of_a_gigabyte_is_refused_by_its_header(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, metadata: dict[str, str], message: str
) -> None:
    class HeaderOnly:
        def __init__(self, *arguments: Any, **options: Any) -> None:
            self._file = safe_open(*arguments, **options)

        def __enter__(self) -> "HeaderOnly":
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def __getattr__(self, name: str) -> Any:
            assert name != "get_tensor"
            return getattr(self._file, name)

    monkeypatch.setattr(voices, "safe_open", HeaderOnly)
    assert message in refusal(checkpoint(tmp_path / "model.safetensors", metadata))


def test_a_file_that_is_none_or_holds_other_arrays_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "v.safetensors"
    assert "no such voice file; make one with `voxport enroll`" in refusal(path)
    path.write_bytes(b"nothing")
    assert "not an enrolled voice" in refusal(path)
    about = {voices.SYSTEM: "mine", "text": "a"}
    for arrays in ({"codes": CODES.astype(np.int64)}, {"codes": CODES[0]}, {"codes": CODES, "more": CODES}, {}):
        save_file(arrays, path, about)
        assert "not a voice of this version" in refusal(path)
    save_file({"codes": CODES}, path, {voices.SYSTEM: "mine"})
    assert "not a voice of this version" in refusal(path)


def test_a_name_is_a_word_and_a_file_is_a_path(tmp_path: Path) -> None:
    voices.save(tmp_path / "voices" / "ann.safetensors", "mine", {"codes": CODES}, {"text": ""})
    assert voices.enrolled(tmp_path) == ["ann"]
    assert voices.enrolled(tmp_path / "none") == []
    assert voices.find("ann", tmp_path) == tmp_path / "voices" / "ann.safetensors"
    assert voices.find("zoe", tmp_path) == "zoe"
    assert voices.find("../voices/ann", tmp_path) == "../voices/ann"
    assert voices.find("some/zoe.safetensors", tmp_path) == Path("some/zoe.safetensors")
    assert voices.find(Path("zoe"), tmp_path) == Path("zoe")


def test_a_recording_that_is_too_long_is_refused_before_it_is_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sf.write(tmp_path / "r.flac", 0.1 * np.random.default_rng(0).standard_normal(24000), 8000)
    assert files.duration(tmp_path / "r.flac") == 3.0
    samples, rate = voices.recording(tmp_path / "r.flac", 3)
    assert (len(samples), rate) == (24000, 8000)
    monkeypatch.delattr(files, "read")
    with pytest.raises(ValueError, match=r"r\.flac: 3\.0 s are too long for a reference; cut it to 2 s or less"):
        voices.recording(tmp_path / "r.flac", 2)


def test_a_silent_recording_holds_no_voice(tmp_path: Path) -> None:
    sf.write(tmp_path / "r.wav", np.zeros(8000), 8000)
    with pytest.raises(ValueError, match=r"r\.wav: is silent; record the reference again"):
        voices.recording(tmp_path / "r.wav", 2)
