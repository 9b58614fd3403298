"""What README says to type is typed here, in a folder where its paths exist."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def block(language: str) -> str:
    found = re.search(rf"```{language}\n(.*?)```", README, re.DOTALL)
    assert found, f"README has no {language} block"
    return found[1]


def test_the_commands_and_the_example_run(tmp_path: Path) -> None:
    (tmp_path / "tests").symlink_to(ROOT / "tests")
    voxport = Path(sys.executable).with_name("voxport")
    for line in block("sh").splitlines():
        command = [str(voxport) if word == "voxport" else word for word in line.split()]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{line}\n{done.stderr}"
        assert done.stdout, line
    done = subprocess.run(
        [sys.executable, "-c", block("python")], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "converted.wav").stat().st_size > 44
    assert (tmp_path / "streamed.wav").stat().st_size == (tmp_path / "converted.wav").stat().st_size
