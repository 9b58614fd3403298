"""What the tests of the Qwen3-TTS runtime share: a text, a reference, and a golden run as arguments of `say`."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.bundles import FIXTURES

from voxport_parity.systems.qwen3tts import runs
from voxport_parity.trace import Golden

Bundles = Callable[[str, str, str], Path]
NAMES = ("customvoice", "base")
TEXT = "Hello there, this is a small test of the speech model. 你好，世界！"  # noqa: RUF001
REF = FIXTURES / "qwen3tts-base" / "ref.wav"
TRANSCRIPT = "比我还好呦"
STREAM = 2e-6


def arguments(golden: Golden, name: str) -> dict[str, Any]:
    """The arguments of `say` for a run of upstream's."""
    options = {k: v for k, v in golden.notes["runs"][name]["settings"].items() if k not in runs.ABOUT}
    if "speaker" in options:
        options["voice"] = options.pop("speaker")
    if "ref_audio" in options:
        options["ref_audio"] = golden.folder / options["ref_audio"]
    return options
