"""Random checkpoints at a system's real size and in its release layout, so that speed is measured with no download.

    python -m benchmarks.fullsize SYSTEM OUT [--variant V] [--seed N]

A system is one line in SYSTEMS and one file, benchmarks/fullsize/<system>.py, with what `Writer` asks for.
"""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Protocol


class Writer(Protocol):
    """What benchmarks/fullsize/<system>.py offers."""

    @property
    def VARIANTS(self) -> tuple[str, ...]:  # noqa: N802 - a constant of the module
        """Names of the releases that can be imitated; the first is the default."""

    def write(self, folder: Path, variant: str, seed: int) -> None:
        """Fills an empty folder; the same seed writes the same values."""


def _cosyvoice3() -> Writer:
    from benchmarks.fullsize import cosyvoice3

    return cosyvoice3


def _llvc() -> Writer:
    from benchmarks.fullsize import llvc

    return llvc


def _qwen3tts() -> Writer:
    from benchmarks.fullsize import qwen3tts

    return qwen3tts


def _t5gemma() -> Writer:
    from benchmarks.fullsize import t5gemma

    return t5gemma


def _vyvo() -> Writer:
    from benchmarks.fullsize import vyvo

    return vyvo


SYSTEMS: dict[str, Callable[[], Writer]] = {
    "cosyvoice3": _cosyvoice3,
    "llvc": _llvc,
    "qwen3tts": _qwen3tts,
    "t5gemma": _t5gemma,
    "vyvo": _vyvo,
}


def write(system: str, variant: str, out: Path, seed: int) -> None:
    """Written beside its place and renamed, so that `out` is there whole or not at all."""
    part = out.with_name(f".{out.name}.{os.getpid()}.part")
    try:
        part.mkdir(parents=True)
        SYSTEMS[system]().write(part, variant, seed)
        part.replace(out)
    finally:
        shutil.rmtree(part, ignore_errors=True)
