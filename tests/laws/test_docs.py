"""What the code cites in docs/ is there."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ("runtime", "exporters", "parity", "benchmarks", "tests")
# docs/systems/llvc.md, docs/systems/llvc.md 3.1, docs/performance.md 1.1, 1.4
CITATION = re.compile(r"\b(docs/[\w/.-]+?\.md)((?: (?:\d+(?:\.\d+)*)(?:,(?= \d))?)*)")
HEADING = re.compile(r"^#+ (\d+(?:\.\d+)*)\b", re.MULTILINE)


def wrong_citations(root: Path, files: list[Path]) -> Iterator[str]:
    """One line for each citation of a docs file or of a numbered section that does not exist below `root`."""
    for file in files:
        for name, numbers in CITATION.findall(file.read_text()):
            if not (root / name).is_file():
                yield f"{file}: {name} does not exist"
                continue
            sections = set(HEADING.findall((root / name).read_text()))
            yield from (
                f"{file}: {name} has no section {n}" for n in re.findall(r"[\d.]+", numbers) if n not in sections
            )


def cited_from() -> list[Path]:
    sources = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]
    return [path for path in sources if path != Path(__file__)] + [ROOT / "README.md", ROOT / "models.lock"]


def test_every_citation_of_docs_names_a_file_and_a_section_that_exist() -> None:
    files = cited_from()
    assert sum(len(CITATION.findall(path.read_text())) for path in files) > 40
    assert list(wrong_citations(ROOT, files)) == []


def test_nobody_cites_notes_that_are_not_in_the_repository() -> None:
    assert [path for path in cited_from() if re.search(r"\bfacts/\w+\.md", path.read_text())] == []


@pytest.mark.parametrize(
    ("citation", "message"),
    [
        ("docs/systems/other.md 1", "docs/systems/other.md does not exist"),
        ("docs/systems/net.md 1, 4.2)", "docs/systems/net.md has no section 4.2"),
        ("(docs/systems/net.md 3).", "docs/systems/net.md has no section 3"),
    ],
)
def test_a_wrong_citation_is_found(tmp_path: Path, citation: str, message: str) -> None:
    (tmp_path / "docs" / "systems").mkdir(parents=True)
    (tmp_path / "docs" / "systems" / "net.md").write_text("# A net\n## 1. Layers\n### 1.2 Bias\n")
    source = tmp_path / "net.py"
    source.write_text('"""Fine: docs/systems/net.md 1, 1.2; docs/systems/net.md."""\n')
    assert list(wrong_citations(tmp_path, [source])) == []
    source.write_text(f'"""Wrong: {citation}"""\n')
    assert list(wrong_citations(tmp_path, [source])) == [f"{source}: {message}"]
