"""Rooms and systems: who may import whom inside a floor. README, "The house", says why."""

import ast
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import pytest
from tests.laws.tree import FLOORS, ROOT, SYSTEMS, Module, circles, graph, modules, resolve

from voxport.systems import SYSTEMS as RUNTIME
from voxport_exporters.systems import SYSTEMS as EXPORTERS
from voxport_parity.systems import SYSTEMS as PARITY

# Rooms of a floor from the lowest up: a room imports lower lines only, never its own or a higher one. "systems.*" is
# a system's package, "systems" the table that names them all, "" the floor's own __init__.
ORDER = {
    "runtime/voxport": (
        "graphs draws bounds recipe atomic",
        "manifest",
        "checksums",
        "audio bundle rehearsal",
        "codecs speech",
        "systems.*",
        "systems",
        " verify bench",
        "cli",
    ),
    "exporters/voxport_exporters": (
        " checkpoints recipe targets options",
        "nets",
        "graphs",
        "pack codecs",
        "systems.*",
        "systems",
        "cli",
    ),
    "parity/voxport_parity": (
        " trace compare parts reference rounding",
        "products",
        "systems.*",
        "systems",
        "chain",
        "cli",
    ),
}


def system_of(name: str) -> str | None:
    """a.systems.llvc.net -> llvc; None for a module outside systems/ and for the table."""
    parts = name.split(".")
    return parts[2] if len(parts) > 2 and parts[1] == "systems" else None


def room_of(name: str) -> str:
    parts = name.split(".")
    return "systems.*" if system_of(name) else "".join(parts[1:2])


def floors(root: Path) -> dict[str, Module]:
    return {name: module for floor in FLOORS for name, module in modules(root / floor).items()}


def systems_imported(known: Mapping[str, Module]) -> Iterator[tuple[Module, str, str]]:
    """(module, line, the system it imports) for every import of a system's package."""
    for module in known.values():
        for imported, line in module.imports():
            if system := system_of(resolve(imported, known) or ""):
                yield module, f"{module.name}:{line} imports {imported}", system


def imports_of_systems_by_rooms(known: Mapping[str, Module]) -> list[str]:
    """Imports of a system's package by anything that is neither in one nor a systems/__init__.py."""
    return [line for m, line, _ in systems_imported(known) if not system_of(m.name) and room_of(m.name) != "systems"]


def imports_between_systems(known: Mapping[str, Module]) -> list[str]:
    return [line for m, line, system in systems_imported(known) if system_of(m.name) not in (None, system)]


def imports_upward(order: Iterable[str], known: Mapping[str, Module]) -> list[str]:
    rank = {room: i for i, rooms in enumerate(order) for room in rooms.split(" ")}
    assert {room_of(name) for name in known} <= {*rank}, "a new room needs its place in ORDER"
    return [
        f"{name} imports {target}"
        for name, targets in graph(known).items()
        for target in sorted(targets)
        if room_of(name) != room_of(target) and rank[room_of(name)] <= rank[room_of(target)]
    ]


def namings(module: Module, systems: Iterable[str]) -> list[str]:
    """The identifiers and strings in which a module names a system. Docstrings may: they cite docs/systems/.

    Imports are another law's business.
    """
    word, docstrings, found = re.compile("|".join(systems), re.IGNORECASE), set(), []
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            assert isinstance(node.body[0], ast.Expr)
            docstrings.add(node.body[0].value)
        match node:
            case ast.Constant(value=str(text)) if node not in docstrings:
                pass
            case ast.Name(id=text) | ast.arg(arg=text) | ast.keyword(arg=str(text)):
                pass
            case ast.Attribute(attr=text) | ast.FunctionDef(name=text) | ast.ClassDef(name=text):
                pass
            case _:
                continue
        if word.search(text):
            found.append(f"{module.name}: {text}")
    return found


def test_only_the_three_tables_import_a_system() -> None:
    assert imports_of_systems_by_rooms(floors(ROOT)) == []


def test_systems_never_import_each_other_on_any_floor() -> None:
    assert imports_between_systems(floors(ROOT)) == []


@pytest.mark.parametrize("floor", FLOORS)
def test_rooms_import_downward_only(floor: str) -> None:
    assert imports_upward(ORDER[floor], modules(ROOT / floor)) == []


def test_no_modules_import_each_other_in_a_circle() -> None:
    known = {name: m for folder in (*FLOORS, "benchmarks", "tests") for name, m in modules(ROOT / folder).items()}
    assert circles(graph(known)) == []


def test_rooms_name_no_system() -> None:
    rooms = [m for name, m in floors(ROOT).items() if room_of(name) not in ("systems", "systems.*")]
    found = {m.path.relative_to(ROOT).as_posix() for m in rooms if namings(m, SYSTEMS)}
    assert sorted(found) == []


def test_every_system_is_a_package_of_the_same_name_on_every_floor() -> None:
    assert {*RUNTIME} == {*EXPORTERS} == {*PARITY} <= {*SYSTEMS}
    for floor in FLOORS:
        assert {path.parent.name for path in (ROOT / floor / "systems").glob("*/__init__.py")} == {*RUNTIME}


@pytest.fixture
def house(tmp_path: Path) -> Path:
    """A small tree that keeps every law: two systems, a codec, a room and a command."""
    files = {
        "__init__": "",
        "graphs/__init__": "",
        "graphs/session": "import os",
        "codecs/__init__": "",
        "codecs/snac": '"""As vyvo needs it (docs/systems/vyvo.md 7)."""\nfrom voxport.graphs.session import Session',
        "systems/__init__": "def open():\n    from voxport.systems.llvc.converter import Converter",
        "systems/llvc/__init__": "",
        "systems/llvc/converter": "from voxport.codecs import snac\nfrom voxport.systems.llvc import voice",
        "systems/llvc/voice": "",
        "systems/vyvo/__init__": "",
        "systems/vyvo/speaker": "def say(text): ...",
        "cli/__init__": "from voxport.systems import open",
    }
    for name, text in files.items():
        path = tmp_path / "runtime" / "voxport" / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path / "runtime" / "voxport"


def laws(house: Path) -> dict[str, list[str]]:
    known = modules(house)
    rooms = [m for name, m in known.items() if room_of(name) not in ("systems", "systems.*")]
    return {
        "table": imports_of_systems_by_rooms(known),
        "apart": imports_between_systems(known),
        "down": imports_upward(ORDER["runtime/voxport"], known),
        "circle": [" ".join(group) for group in circles(graph(known))],
        "names": [line for m in rooms for line in namings(m, SYSTEMS)],
    }


def test_a_house_that_keeps_the_laws_passes_them(house: Path) -> None:
    assert not any(laws(house).values())


@pytest.mark.parametrize(
    ("file", "line", "broken"),
    [
        ("cli/__init__", "from voxport.systems.llvc.converter import Converter", {"table"}),
        ("cli/__init__", "def f():\n    import voxport.systems.vyvo.speaker", {"table"}),
        ("codecs/snac", "from voxport.systems.llvc import voice", {"table", "down"}),
        ("systems/vyvo/speaker", "def f():\n    from voxport.systems.llvc import voice", {"apart"}),
        ("systems/llvc/voice", "import voxport.systems.vyvo", {"apart"}),
        ("systems/llvc/voice", "from voxport.systems import open", {"down", "circle"}),
        ("systems/llvc/voice", "def f():\n    from voxport.systems.llvc.converter import Converter", {"circle"}),
        (
            "systems/llvc/voice",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import voxport.systems.llvc.converter",
            {"circle"},
        ),
        ("graphs/session", "from voxport.codecs import snac", {"down", "circle"}),
        ("codecs/snac", "from voxport.cli import f", {"down", "circle"}),
        ("codecs/snac", "VYVO_NOISE = 4", {"names"}),
        ("codecs/snac", "def f():\n    return 'llvc'", {"names"}),
        ("codecs/snac", "def qwen3tts_frames(): ...", {"names"}),
    ],
)
def test_each_law_can_be_broken(house: Path, file: str, line: str, broken: set[str]) -> None:
    path = house / f"{file}.py"
    path.write_text(f"{path.read_text()}\n{line}\n")
    assert {law for law, found in laws(house).items() if found} == broken
