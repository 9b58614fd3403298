"""models.lock: read strictly, edited line by line, and saying what public projects say."""

from pathlib import Path

import pytest

from voxport_exporters.checkpoints import lockfile

MODELS = lockfile.read()
SHA256, COMMIT = "5" * 64, "c" * 40
LOCK = f"""[[model]]
name = "tiny"
system = "vyvo"
licence = "MIT"

[[model.repo]]
id = "us/tiny"
into = "lm"
confidence = "?"
files = [
  {{ path = "*config.json", confidence = "?" }},
]

[[model]]
name = "pinned"
system = "llvc"
licence = "MIT"

[[model.repo]]
id = "us/pinned"
revision = "{COMMIT}"
confidence = "B"
files = [
  {{ path = "model.bin", bytes = 8, sha256 = "{SHA256}", confidence = "A" }},
]
"""


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('licence = "MIT"', 'licence = "MIT"\nlicense = "MIT"', "license"),
        (f'"{SHA256}", confidence = "A"', f'"{SHA256}", confidence = "C"', "pins nothing"),
        ('*config.json", confidence = "?"', '*config.json", confidence = "B"', "needs a pin"),
        ('into = "lm"', 'into = "../lm"', "inside the checkpoint"),
        (SHA256, "abc", "sha256"),
        ('name = "pinned"', 'name = "tiny"', "same name"),
        ('system = "vyvo"', 'system = "Vyvo TTS"', "system"),
        (f'revision = "{COMMIT}"\n', "", "needs a pin"),
        ('path = "model.bin"', 'path = "m*.bin"', "a pattern"),
        ("[[model]]", "[[model]", "line 1"),
    ],
)
def test_lock_file_is_read_strictly(old: str, new: str, words: str) -> None:
    assert old in LOCK
    with pytest.raises(ValueError, match=words) as error:
        lockfile.parse(LOCK.replace(old, new))
    assert str(error.value).startswith("models.lock: ")


def test_models_lock_names_every_system_and_survives_an_edit() -> None:
    assert {model.system for model in MODELS.values()} == {"vyvo", "t5gemma", "llvc", "qwen3tts", "cosyvoice3"}
    text = lockfile.default_path().read_text("utf-8")
    for model in MODELS.values():
        assert lockfile.edit(text, model) == text
        for source in model.packaged.values():
            assert (Path(lockfile.__file__).parents[1] / source).is_file()


@pytest.mark.parametrize(
    ("name", "path", "size", "digest", "confidence"),
    [  # typed from what public projects pin, not read from the lock
        ("llvc", "models/checkpoints/llvc/G_500000.pth", 39489146, "cceb7ab9621f84d6", "A"),
        ("llvc_nc", "models/checkpoints/llvc_nc/G_500000.pth", None, "0e034098420b7bec", "B"),
        ("vyvo-lfm2", "snac_24khz/pytorch_model.bin", 79488254, "4b8164cc6606bfa6", "A"),
        ("qwen3tts-0.6b-base", "model.safetensors", 1829344272, "180b3b10eb1c9f1b", "A"),
        ("qwen3tts-1.7b-voicedesign", "model.safetensors", 3833402552, "391e8db219f292c5", "A"),
        ("cosyvoice3", "llm.pt", 2024669519, "69f43bd545131c30", "A"),
        ("cosyvoice3", "cosyvoice3.yaml", 6934, "f5a6b2c6f05139d0", "A+V"),
        ("t5gemma", "xcodec2/config.json", 222, "f4ea6ab4302fc072", "B+V"),
        ("t5gemma", "text_tokenizer/tokenizer.json", None, None, "C"),
    ],
)
def test_pins_are_the_published_ones(
    name: str, path: str, size: int | None, digest: str | None, confidence: str
) -> None:
    files = {(Path(repo.into) / file.path).as_posix(): file for repo in MODELS[name].repo for file in repo.files}
    file = files[path]
    if file.confidence == "confirmed":  # `voxport lock` may know more than this table, never something else
        assert digest is None or (file.sha256 or "").startswith(digest)
        return
    assert (file.bytes, file.sha256 and file.sha256[:16], file.confidence) == (size, digest, confidence)


def test_a_checkpoint_is_recognised_by_its_hash() -> None:
    pin = next(f for f in MODELS["llvc"].files if f.sha256 and f.path.endswith(lockfile.WEIGHTS))
    assert pin.sha256
    assert lockfile.holding({pin.sha256, "0" * 64}) == {"KoeAI/llvc": "ebfe8c0fdeb974a7eeb463b3abbc8ce42a0e3851"}
    assert lockfile.holding({"0" * 64}) == {}
