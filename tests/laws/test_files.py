"""What a file may be: short, named by a thing, and free of this machine's paths and of untyped doors."""

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.laws.tree import FLOORS, FOLDERS, ROOT, Module, modules, python_files

LONGEST = 300
NEVER_NAMED = ("base", "utils", "util", "common", "helpers", "misc")
# Spelled so that this file does not hold what it forbids.
MACHINE = re.compile("|".join(("/wo" + "rk/", "/ro" + "ot/", r"/ho" + r"me/\w", "land" + r"\.sh", "far" + "m-")))


def too_long(files: list[Path]) -> list[Path]:
    return [path for path in files if len(path.read_text().splitlines()) > LONGEST]


def named_by_nothing(files: list[Path]) -> list[Path]:
    return [path for path in files if path.stem in NEVER_NAMED or path.parent.name in NEVER_NAMED]


def untyped(module: Module) -> Iterator[str]:
    """Uses of importlib.import_module, hasattr, getattr with a default, and of the inspect module."""
    for node in ast.walk(module.tree):
        match node:
            case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name), args=args):
                if name in ("import_module", "hasattr", "__import__") or (name == "getattr" and len(args) == 3):
                    yield f"{module.name}:{node.lineno} {name}"
    yield from (f"{module.name}:{line} inspect" for name, line in module.imports() if name.split(".")[0] == "inspect")


def of_a_machine(path: Path) -> list[str]:
    return [f"{path}: {line.strip()}" for line in path.read_text().splitlines() if MACHINE.search(line)]


def sources() -> list[Path]:
    return [path for folder in FOLDERS for path in python_files(ROOT / folder)]


def test_no_file_is_longer_than_300_lines() -> None:
    assert sorted({path.relative_to(ROOT).as_posix() for path in too_long(sources())}) == []


def test_no_file_is_named_base_utils_common_or_helpers() -> None:
    assert named_by_nothing(sources()) == []


def test_nothing_between_the_floors_is_looked_up_by_name() -> None:
    found = [line for floor in FLOORS for module in modules(ROOT / floor).values() for line in untyped(module)]
    assert found == []


def test_the_repository_names_no_machine_and_no_tool_of_a_workplace() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    texts = [
        ROOT / name
        for name in listed
        if not name.startswith("tests/fixtures/") and not name.endswith((".wav", ".onnx"))
    ]
    assert len(texts) > 150
    assert [line for path in texts if path.is_file() for line in of_a_machine(path)] == []


def test_a_long_file_and_a_nameless_one_are_found(tmp_path: Path) -> None:
    long, short, utils = tmp_path / "long.py", tmp_path / "short.py", tmp_path / "utils.py"
    long.write_text("\n" * (LONGEST + 1))
    short.write_text("\n" * LONGEST)
    utils.touch()
    assert too_long([long, short]) == [long]
    assert named_by_nothing([short, utils, tmp_path / "common" / "net.py"]) == [utils, tmp_path / "common" / "net.py"]


@pytest.mark.parametrize(
    ("code", "count"),
    [
        ("getattr(x, name)", 0),
        ("getattr(x, 'rate', None)", 1),
        ("hasattr(x, 'rate')", 1),
        ("import importlib\nimportlib.import_module(name)", 1),
        ("from importlib import import_module\nimport_module(name)", 1),
        ("def f():\n    import inspect", 1),
        ("from inspect import signature", 1),
    ],
)
def test_a_lookup_by_name_is_found(tmp_path: Path, code: str, count: int) -> None:
    (tmp_path / "module.py").write_text(code)
    assert len(list(untyped(Module("module", tmp_path / "module.py")))) == count


def test_a_path_of_a_machine_is_found(tmp_path: Path) -> None:
    file = tmp_path / "notes.md"
    file.write_text("a fine line\n" + "see /wo" + "rk/notes\n" + "run far" + "m-bench\n")
    assert len(of_a_machine(file)) == 2
