"""Imports point down only, floor 1 runs without torch and friends, and importing it loads next to nothing."""

import re
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path

import pytest
from tests.laws.tree import FOLDERS, ROOT, Module, modules

NEVER_BELOW = ("torch", "transformers", "onnx", "scipy", "librosa")
ABOVE = ("voxport_exporters", "voxport_parity", "benchmarks", "tests")
LIGHT = ("numpy", "onnxruntime", "msgspec")  # what `import voxport` may load
OPTIONAL = ("langdetect", "g2p_en", "pyopenjtalk", "pypinyin")  # the extra g2p: done without where they are missing
MOST_MODULES = 14


def python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def blocking(names: tuple[str, ...]) -> str:
    return f"import sys, importlib; sys.modules.update(dict.fromkeys({names!r}))\n"


def imports_of(known: Mapping[str, Module], packages: set[str]) -> list[str]:
    """Imports of one of `packages` by a module of `known`."""
    return [
        f"{module.name}:{line} imports {name}"
        for module in known.values()
        for name, line in module.imports()
        if name.split(".")[0] in packages
    ]


def undeclared(known: Mapping[str, Module], declared: set[str]) -> list[str]:
    """Imports of a package that is neither in `declared` nor in the standard library."""
    imported = {name.split(".")[0] for module in known.values() for name, _ in module.imports()}
    return imports_of(known, imported - declared - set(sys.stdlib_module_names))


def loaded(code: str) -> set[str]:
    """The modules in memory after `code`, in a fresh interpreter."""
    return set(python(f"{code}\nimport sys\nprint(*sys.modules)").split())


def third_party(names: set[str]) -> set[str]:
    return {name.split(".")[0] for name in names} - set(sys.stdlib_module_names) - {"voxport", "__main__"}


def test_every_runtime_module_imports_with_torch_and_the_upper_floors_blocked() -> None:
    names = [name for name in modules(ROOT / "runtime" / "voxport") if not name.endswith("__main__")]
    assert {"voxport", "voxport.cli", "voxport.systems.llvc.converter"} <= set(names)
    python(blocking(NEVER_BELOW + ABOVE) + f"for name in {names!r}: importlib.import_module(name)")


def test_a_bundle_runs_with_torch_and_the_upper_floors_blocked(llvc_copy: Path) -> None:
    code = "import numpy as np, voxport\nfrom voxport.verify import verify\n"
    code += f"assert len(voxport.load({str(llvc_copy)!r}).stream().convert(np.zeros(999, np.float32))) == 999\n"
    code += f"assert all(row.ok for row in verify(__import__('pathlib').Path({str(llvc_copy)!r})))\n"
    python(blocking(NEVER_BELOW + ABOVE) + code)


@pytest.mark.parametrize("module", ["voxport_exporters.cli", "voxport_parity.cli"])
def test_a_verb_is_listed_without_what_it_needs_to_run(module: str) -> None:
    python(blocking((*NEVER_BELOW, "huggingface_hub")) + f"importlib.import_module({module!r})")


@pytest.mark.parametrize("module", ["voxport_parity.compare", "voxport_parity.trace"])
def test_comparing_needs_numpy_only(module: str) -> None:
    python(blocking(NEVER_BELOW) + f"importlib.import_module({module!r})")


@pytest.mark.parametrize("folder", FOLDERS[:-1])
def test_imports_point_down_only(folder: str) -> None:
    higher = {name.split("/")[-1] for name in FOLDERS[FOLDERS.index(folder) + 1 :]}
    known = modules(ROOT / folder)
    assert known
    assert imports_of(known, higher) == []


def test_the_runtime_imports_only_what_it_declares() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = {re.split(r"[^\w-]", line, maxsplit=1)[0] for line in project["dependencies"]}
    known = modules(ROOT / "runtime" / "voxport")
    assert undeclared(known, {"voxport", *names, *OPTIONAL}) == []
    unused = {name for name in names if not imports_of(known, {name})}
    assert unused == set()


def test_importing_voxport_loads_few_modules_and_no_system() -> None:
    """Counted instead of timed: a clock on a shared machine says nothing."""
    names = loaded("import voxport")
    assert third_party(names) == third_party(loaded(f"import {', '.join(LIGHT)}"))
    own = {name for name in names if name.split(".")[0] == "voxport"}
    assert len(own) <= MOST_MODULES
    assert not [name for name in own if name.startswith(("voxport.systems.", "voxport.codecs.", "voxport.cli"))]


def test_a_heavier_import_would_be_counted() -> None:
    light = third_party(loaded(f"import {', '.join(LIGHT)}"))
    assert third_party(loaded("import voxport, tokenizers, soxr")) - light == {"tokenizers", "soxr"}


def test_an_import_upward_and_an_undeclared_one_are_found(tmp_path: Path) -> None:
    package = tmp_path / "voxport"
    (package / "graphs").mkdir(parents=True)
    (package / "graphs" / "ort.py").write_text(
        "import os, numpy\ndef f():\n    from voxport_exporters.pack import pack\n"
    )
    (package / "draws.py").write_text("from scipy.stats import norm\n")
    known = modules(package)
    assert imports_of(known, {"voxport_exporters"}) == ["voxport.graphs.ort:3 imports voxport_exporters.pack.pack"]
    assert undeclared(known, {"numpy", "voxport_exporters"}) == ["voxport.draws:1 imports scipy.stats.norm"]
