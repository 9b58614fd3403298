"""Bundles of the fixture checkpoints: exported once, and kept from run to run by the content that makes them."""

import functools
import hashlib
import importlib.metadata
import os
import platform
import shutil
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from voxport_exporters.pack import pack
from voxport_exporters.systems import SYSTEMS

ROOT = Path(__file__).parents[1]
FIXTURES = ROOT / "tests" / "fixtures"
SYSTEM_OF = {
    "llvc": "llvc",
    "vyvo": "vyvo",
    "qwen3tts-base": "qwen3tts",
    "qwen3tts-customvoice": "qwen3tts",
    "cosyvoice3": "cosyvoice3",
    "t5gemma": "t5gemma",
}
TOOLS = ("torch", "onnx", "onnxscript", "onnx-ir", "onnxruntime", "numpy", "tokenizers", "hqq", "safetensors")
UNUSED_SECONDS = 3600.0  # a run takes less: what nobody asked for in this time belongs to no run
KEY_LENGTH = 16

Export = Callable[[str, str], Path]


def export_sources(root: Path) -> list[Path]:
    """Every file of the exporters and the runtime that can change what a bundle holds."""
    floors = (root / "runtime" / "voxport", root / "exporters" / "voxport_exporters")
    never = {"cli", "bench", "__pycache__"}
    files = [path for floor in floors for path in floor.rglob("*") if path.is_file()]
    files = [path for path in files if not never & {*path.relative_to(root).with_suffix("").parts}]
    return sorted([*files, root / "models.lock"])


def digest(files: Iterable[Path], root: Path, *words: str) -> str:
    """sha256 over the names below `root` and the contents of `files`, and over `words`."""
    value = hashlib.sha256("\0".join(words).encode())
    for file in files:
        value.update(f"\0{file.relative_to(root).as_posix()}\0".encode())
        value.update(hashlib.sha256(file.read_bytes()).digest())
    return value.hexdigest()


@functools.cache
def _tools_and_sources() -> str:
    versions = [f"{tool} {importlib.metadata.version(tool)}" for tool in TOOLS]
    return digest(export_sources(ROOT), ROOT, platform.python_version(), platform.machine(), *versions)


def cached(root: Path, name: str, key: str, make: Callable[[Path], object]) -> Path:
    """The folder `root/name-key`, which `make` writes as a whole if it is not there yet.

    One process makes it, others wait. Folders of this name with another key are removed once they were unused for
    an hour: another run, on other sources, may be using them now.
    """
    root.mkdir(parents=True, exist_ok=True)
    folder = root / f"{name}-{key[:KEY_LENGTH]}"
    with FileLock(root / f"{name}.lock"):
        if not folder.exists():
            now = time.time()
            for other in root.glob(f"{name}-{'?' * KEY_LENGTH}"):
                if now - other.stat().st_mtime > UNUSED_SECONDS:
                    shutil.rmtree(other)
            make(folder)
        os.utime(folder)
    return folder


@dataclass(frozen=True)
class Bundles:
    """Bundles below `root`. Do not write into one; copy it."""

    root: Path

    def __call__(self, fixture: str, recipe: str, target: str) -> Path:
        """The bundle of a checkpoint in tests/fixtures, exported by whoever asks first.

        `recipe`: the name of one, or of two as in int4+codec-int8.
        """
        checkpoint = FIXTURES / fixture
        files = sorted(path for path in checkpoint.rglob("*") if path.is_file())
        key = digest(files, checkpoint, _tools_and_sources(), recipe, target)

        def make(folder: Path) -> None:
            exporter = SYSTEMS[SYSTEM_OF[fixture]]()
            whole, _, codec = recipe.partition("+codec-")
            rules = exporter.recipes[whole]
            rules = rules.then(exporter.codec_recipes[codec]) if codec else rules
            pack(exporter.job(checkpoint), folder, rules, target)

        return cached(self.root, f"{fixture}-{recipe}-{target}", key, make)

    def of(self, fixture: str) -> Export:
        """(recipe, target) -> bundle."""
        return lambda recipe, target: self(fixture, recipe, target)
