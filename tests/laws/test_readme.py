"""README: its commands and its example run, and its table names the systems that exist."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from tests.laws.tree import ROOT

from voxport.systems import SYSTEMS

README = (ROOT / "README.md").read_text()


def block(language: str) -> str:
    match = re.search(rf"```{language}\n(.*?)```", README, re.DOTALL)
    assert match, f"README has no {language} block"
    return match[1]


def systems_of(text: str) -> list[str]:
    """The first word of each row of the table of systems that has one: `llvc`: LLVC."""
    return re.findall(r"^\| `(\w+)`: ", text, re.MULTILINE)


def test_the_commands_and_the_example_run(tmp_path: Path) -> None:
    (tmp_path / "tests").symlink_to(ROOT / "tests")
    voxport = Path(sys.executable).with_name("voxport")
    for line in block("sh").splitlines():
        command = [str(voxport) if word == "voxport" else word for word in line.split()]
        result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert result.returncode == 0, f"{line}\n{result.stderr}"
        assert result.stdout, line
    example = [sys.executable, "-c", block("python")]
    result = subprocess.run(example, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "converted.wav").stat().st_size > 44
    assert (tmp_path / "streamed.wav").stat().st_size == (tmp_path / "converted.wav").stat().st_size


def test_the_table_names_exactly_the_systems_that_exist() -> None:
    assert sorted(systems_of(README)) == sorted(SYSTEMS)


def test_a_row_of_another_system_would_be_noticed() -> None:
    row = "| `other`: Another (text to speech) | language model | yes |\n| | codec | yes |\n"
    assert systems_of(README + row) == [*systems_of(README), "other"]


@pytest.mark.parametrize("floor", ["runtime/voxport", "exporters/voxport_exporters", "parity/voxport_parity"])
def test_the_picture_of_the_house_shows_every_room(floor: str) -> None:
    (line,) = re.findall(rf"^    {floor}/ +(.*)$", README, re.MULTILINE)
    rooms = {path.stem for path in (ROOT / floor).iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()}
    assert set(re.findall(r"[a-z]\w+", line)) == rooms - {"__init__"}
