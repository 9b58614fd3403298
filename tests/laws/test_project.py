"""pyproject.toml: every dependency is used, and by the floor whose extra names it."""

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path

from tests.laws.tree import FOLDERS, ROOT, Module, modules

IMPORTED_AS = {
    "g2p-en": "g2p_en",
    "huggingface-hub": "huggingface_hub",
    "onnx-ir": "onnx_ir",
    "pyopenjtalk-plus": "pyopenjtalk",
    "pytest-benchmark": "pytest_benchmark",
    "pyyaml": "yaml",
}
# What no module imports, and who runs it.
RUN_BY = {
    "onnxscript": "torch.onnx.export",
    "ruff": "make lint",
    "mypy": "make lint",
    "types-PyYAML": "make lint",
    "pytest-xdist": "make test",
    "build": "tests/laws/test_wheel.py",
}
FLOOR_OF = {
    "g2p": FOLDERS[:1],
    "export": FOLDERS[1:2],
    "parity": FOLDERS[1:4],
    "bench": FOLDERS[3:4],
    "dev": FOLDERS[4:5],
}


def unused(lines: list[str], known: Mapping[str, Module]) -> list[str]:
    """The requirements of an extra that none of its floor's modules imports."""
    names = [re.split(r"[^\w-]", line, maxsplit=1)[0] for line in lines]
    imported = {name.split(".")[0] for module in known.values() for name, _ in module.imports()}
    return [n for n in names if n not in RUN_BY and n != "voxport" and IMPORTED_AS.get(n, n) not in imported]


def test_every_extra_is_used_by_its_floor() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert {*extras} == {*FLOOR_OF}
    for extra, folders in FLOOR_OF.items():
        known = {name: module for folder in folders for name, module in modules(ROOT / folder).items()}
        assert unused(extras[extra], known) == [], extra


def test_an_unused_requirement_is_found(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text("import onnx_ir\n")
    known = {"net": Module("net", tmp_path / "net.py")}
    assert unused(["onnx-ir>=0.1", "psutil>=6", "voxport[export]", "ruff"], known) == ["psutil"]
