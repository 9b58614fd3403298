"""Names are nouns: a participle says that something happened to a thing, and not what the thing is."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.laws.tree import FOLDERS, ROOT, Module, modules

PARTICIPLES = {"made", "held", "given", "wanted", "kept", "told", "heard", "seen", "said", "spoken", "chosen", "asked"}
ADJECTIVES = {"spoken_letters"}  # names in which such a word says which thing is meant


def participles(module: Module) -> Iterator[str]:
    """The names that `module` gives to variables, parameters, functions and classes and that hold a participle."""
    for node in ast.walk(module.tree):
        match node:
            case ast.Name(id=name, ctx=ast.Store()) | ast.arg(arg=name) | ast.alias(asname=str(name)):
                pass
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name) if not name.startswith("test_"):
                pass
            case ast.Attribute(attr=name, ctx=ast.Store()):
                pass
            case _:
                continue
        if PARTICIPLES & {*name.lower().split("_")} and name not in ADJECTIVES:
            yield f"{module.name}:{node.lineno} {name}"


@pytest.mark.parametrize("folder", FOLDERS)
def test_no_name_is_a_participle(folder: str) -> None:
    found = [line for module in modules(ROOT / folder).values() for line in participles(module)]
    assert found == []


@pytest.mark.parametrize(
    ("code", "count"),
    [
        ("outputs = 1", 0),
        ("made = 1", 1),
        ("for held, other in pairs: pass", 1),
        ("def f(wanted): ...", 1),
        ("def _told(): ...", 1),
        ("def test_what_is_given_comes_back(): ...", 0),
        ("class Heard: ...", 1),
        ("self.tokens_seen = 1", 1),
        ("x = {'made': 1}", 0),
        ("f(kept=1)", 0),
    ],
)
def test_a_participle_is_found(tmp_path: Path, code: str, count: int) -> None:
    (tmp_path / "module.py").write_text(code)
    assert len(list(participles(Module("module", tmp_path / "module.py")))) == count
