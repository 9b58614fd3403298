"""The wheel holds everything, and installed alone in a clean environment it runs bundles without torch.

Builds it and installs it once: this needs a package index.
"""

import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from tests.bundles import Export
from tests.command import done, run

ROOT = Path(__file__).parents[2]
DECLARED = {"numpy", "onnxruntime", "soundfile", "soxr", "msgspec", "safetensors", "click", "tokenizers", "tqdm"}
VERBS = {"bench", "convert", "detokenize", "enroll", "export", "fetch", "info", "lock", "parity", "say", "tokenize"}
VERBS |= {"verify"}

REQUIREMENTS = """
import importlib.metadata as m, json
print(json.dumps({d.metadata["Name"]: d.requires or [] for d in m.distributions()}))
"""


def command(*arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "VIRTUAL_ENV"))}
    return subprocess.run(arguments, cwd=cwd, env=clean, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    built = command(sys.executable, "-m", "build", "--wheel", "--outdir", out, ROOT, cwd=out)
    assert built.returncode == 0, built.stdout + built.stderr
    (file,) = out.glob("*.whl")
    return file


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin folder of a virtual environment with voxport's runtime and nothing else."""
    venv = tmp_path_factory.mktemp("venv")
    created = command(sys.executable, "-m", "venv", venv, cwd=venv)
    assert created.returncode == 0, created.stderr
    pip = (venv / "bin" / "pip", "install", "--quiet", "--no-compile", "--disable-pip-version-check", wheel)
    installed = command(*pip, cwd=venv)
    assert installed.returncode == 0, installed.stderr
    return venv / "bin"


def test_the_wheel_holds_all_three_packages_and_their_data(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    sources = {
        path.relative_to(ROOT / floor).as_posix()
        for floor in ("runtime", "exporters", "parity")
        for path in (ROOT / floor).rglob("*")
        if path.is_file() and path.suffix in (".py", ".typed", ".json", ".onnx")
    }
    assert {
        "voxport/cli/main.py",
        "voxport/bench/probes/matmul_int8.onnx",
        "voxport_exporters/systems/llvc/configs/llvc_hfg.json",
    } <= sources
    assert sources | {"voxport_exporters/models.lock"} <= names
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == {
        "voxport",
        "voxport_exporters",
        "voxport_parity",
    }


def plain(requirement: str) -> str:
    """The name in a requirement, in its one normal form."""
    return re.sub(r"[-_.]+", "-", re.split(r"[^\w.-]", requirement, maxsplit=1)[0]).lower()


def test_nothing_is_installed_that_the_runtime_does_not_declare(environment: Path, tmp_path: Path) -> None:
    listed = json.loads(command(environment / "python", "-c", REQUIREMENTS, cwd=tmp_path).stdout)
    installed: dict[str, list[str]] = {plain(name): lines for name, lines in listed.items()}

    def needs(name: str) -> set[str]:
        """What `name` requires here. A requirement whose marker is false on this machine is not installed."""
        return {plain(line) for line in installed[name] if "extra ==" not in line} & installed.keys()

    assert needs("voxport") == DECLARED
    allowed, new = {"pip", "setuptools", "voxport"}, set(DECLARED)
    while new:
        allowed |= new
        new = {inner for name in new for inner in needs(name)} - allowed
    assert set(installed) <= allowed
    assert not set(installed) & {"torch", "transformers", "onnx", "scipy", "librosa", "onnxscript"}


def test_the_runtime_alone_converts_and_verifies(
    environment: Path, llvc_bundles: Export, llvc_checkpoint: Path, tmp_path: Path
) -> None:
    bundle, speech = llvc_bundles("fp32", "cpu"), llvc_checkpoint / "input_44k_stereo.wav"
    converted = command(environment / "voxport", "convert", bundle, speech, "there.wav", cwd=tmp_path)
    assert (converted.returncode, converted.stdout, converted.stderr) == (0, "there.wav\n", "")
    done(run("convert", bundle, speech, tmp_path / "here.wav"))
    assert (tmp_path / "there.wav").read_bytes() == (tmp_path / "here.wav").read_bytes()
    assert command(environment / "voxport", "verify", bundle, cwd=tmp_path).returncode == 0


def test_every_verb_is_there_and_models_lock_with_it(environment: Path, tmp_path: Path) -> None:
    listed = command(environment / "voxport", "--help", cwd=tmp_path)
    assert listed.returncode == 0
    assert {*re.findall(r"^  (\w+) {2,}[A-Z]", listed.stdout, re.MULTILINE)} == VERBS
    models = command(environment / "voxport", "fetch", "--list", cwd=tmp_path)
    assert models.returncode == 0, models.stderr
    assert "llvc_hfg" in models.stdout


@pytest.mark.parametrize(
    ("arguments", "extra"), [(("export", "llvc", ".", "-o", "b"), "export"), (("parity", "llvc", "."), "parity")]
)
def test_a_verb_of_an_upper_floor_names_the_extra_to_install(
    environment: Path, tmp_path: Path, arguments: tuple[str, ...], extra: str
) -> None:
    ended = command(environment / "voxport", *arguments, cwd=tmp_path)
    assert ended.returncode == 2
    (line,) = ended.stderr.splitlines()
    assert re.fullmatch(rf"Error: voxport {arguments[0]} needs .*: pip install 'voxport\[{extra}\]'", line)
    assert not list(tmp_path.iterdir())
