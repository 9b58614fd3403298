"""The source tree as the laws read it: modules by name, and what each imports, wherever in the file it does so."""

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
FLOORS = ("runtime/voxport", "exporters/voxport_exporters", "parity/voxport_parity")
FOLDERS = (*FLOORS, "benchmarks", "tests")
SYSTEMS = ("llvc", "vyvo", "qwen3tts", "cosyvoice3", "t5gemma")


def python_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*.py") if "fixtures" not in path.parts)


@dataclass(frozen=True)
class Module:
    """One .py file. `name` is how it is imported: voxport.graphs.ort; a package has the name of its folder."""

    name: str
    path: Path

    @property
    def tree(self) -> ast.Module:
        return ast.parse(self.path.read_text(), str(self.path))

    def imports(self) -> Iterator[tuple[str, int]]:
        """(dotted name, line) of every import, also of those in functions and under TYPE_CHECKING.

        `from a import b` gives a.b, which is a module or something in a: see `resolve`.
        """
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                yield from ((alias.name, node.lineno) for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{self.path}:{node.lineno}: a relative import"
                yield from ((f"{node.module}.{alias.name}", node.lineno) for alias in node.names)


def modules(folder: Path) -> dict[str, Module]:
    """The modules of the package in `folder`, by name."""
    found = {}
    for path in python_files(folder):
        parts = path.relative_to(folder.parent).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found[name] = Module(name, path)
    return found


def resolve(name: str, known: Mapping[str, Module]) -> str | None:
    """The module of `known` that importing `name` runs, or None: a.b.c is a.b if c is a function in it."""
    while name not in known:
        if "." not in name:
            return None
        name = name.rpartition(".")[0]
    return name


def graph(known: Mapping[str, Module]) -> dict[str, set[str]]:
    """Which modules of `known` each of them imports. A package that is only the parent of one is not counted."""
    return {
        name: {target for imported, _ in module.imports() if (target := resolve(imported, known))}
        for name, module in known.items()
    }


def circles(edges: Mapping[str, set[str]]) -> list[list[str]]:
    """The groups of modules that import each other in a circle, each sorted (Tarjan's strongly connected ones)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(name: str) -> None:
        index[name] = low[name] = len(index)
        stack.append(name)
        for target in sorted(edges[name]):
            if target not in index:
                visit(target)
                low[name] = min(low[name], low[target])
            elif target in stack:
                low[name] = min(low[name], index[target])
        if low[name] == index[name]:
            group = stack[stack.index(name) :]
            del stack[stack.index(name) :]
            if len(group) > 1 or name in edges[name]:
                found.append(sorted(group))

    for name in sorted(edges):
        if name not in index:
            visit(name)
    return found
