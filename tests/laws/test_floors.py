"""Imports point down only, floor 1 runs without torch and friends, and importing it costs next to nothing."""

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FLOORS = {"runtime/voxport": 1, "exporters/voxport_exporters": 2, "parity/voxport_parity": 3, "benchmarks": 4}
NEVER_BELOW = ("torch", "transformers", "onnx", "scipy", "librosa")
ABOVE = ("voxport_exporters", "voxport_parity", "benchmarks", "tests")


def modules(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


def imported(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            yield (node.module or "").split(".")[0]


def python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def blocking(names: tuple[str, ...]) -> str:
    return f"import sys, importlib; sys.modules.update(dict.fromkeys({names!r}))\n"


def test_every_runtime_module_imports_with_torch_and_the_upper_floors_blocked() -> None:
    names = [".".join(p.relative_to(ROOT / "runtime").with_suffix("").parts) for p in modules("runtime/voxport")]
    names = [name.removesuffix(".__init__") for name in names]
    assert {"voxport", "voxport.cli", "voxport.systems.llvc.converter"} <= set(names)
    python(blocking(NEVER_BELOW + ABOVE) + f"for name in {names!r}: importlib.import_module(name)")


def test_a_bundle_runs_with_torch_and_the_upper_floors_blocked(llvc_copy: Path) -> None:
    code = "import numpy as np, voxport\nfrom voxport.verify import verify\n"
    code += f"assert len(voxport.load({str(llvc_copy)!r}).stream().convert(np.zeros(999, np.float32))) == 999\n"
    code += f"assert all(row.ok for row in verify(__import__('pathlib').Path({str(llvc_copy)!r})))\n"
    python(blocking(NEVER_BELOW + ABOVE) + code)


@pytest.mark.parametrize("module", ["voxport_exporters.cli", "voxport_parity.cli"])
def test_a_verb_is_listed_without_what_it_needs_to_run(module: str) -> None:
    python(blocking((*NEVER_BELOW, "huggingface_hub", "polygraphy")) + f"importlib.import_module({module!r})")


@pytest.mark.parametrize("module", ["voxport_parity.compare", "voxport_parity.trace"])
def test_comparing_needs_numpy_only(module: str) -> None:
    python(blocking(NEVER_BELOW) + f"importlib.import_module({module!r})")


@pytest.mark.parametrize("folder", FLOORS)
def test_imports_point_down_only(folder: str) -> None:
    higher = {name.split("/")[-1] for name, floor in FLOORS.items() if floor > FLOORS[folder]} | {"tests"}
    files = modules(folder)
    assert files
    for file in files:
        found = higher & set(imported(file))
        assert not found, f"{file.relative_to(ROOT)} imports {found}"


def test_the_runtime_names_only_what_it_declares() -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    own = {"voxport", *(re.split(r"[^\w-]", line, maxsplit=1)[0] for line in declared)}
    for file in modules("runtime/voxport"):
        found = set(imported(file)) - own - set(sys.stdlib_module_names)
        assert not found, f"{file.relative_to(ROOT)} imports {found}"


def test_importing_voxport_costs_little_beyond_numpy_and_onnxruntime() -> None:
    code = "import time, numpy, onnxruntime\nstart = time.perf_counter()\n"
    code += "import voxport\nprint(time.perf_counter() - start)"
    assert min(float(python(code)) for _ in range(3)) <= 0.3
