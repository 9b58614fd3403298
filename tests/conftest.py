"""What the tests share: every fixture checkpoint is exported once per run, and copied where a test breaks it."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from filelock import FileLock
from safetensors.numpy import load_file

from voxport_exporters.pack import pack
from voxport_exporters.systems import SYSTEMS

torch.set_num_threads(1)

FIXTURES = Path(__file__).parent / "fixtures"
Export = Callable[[str, str], Path]


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    """One folder for all worker processes of this run."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if hasattr(request.config, "workerinput") else base


def exporting(system: str, checkpoint: Path, folder: Path) -> Export:
    """(recipe, target) -> bundle, exported by whoever asks first. Do not write into it; copy it."""

    def bundle(recipe: str, target: str) -> Path:
        exporter = SYSTEMS[system]()
        out = folder / f"{checkpoint.name}-{recipe}-{target}"
        with FileLock(f"{out}.lock"):
            if not out.exists():
                pack(exporter.job(checkpoint), out, exporter.recipes[recipe], target)
        return out

    return bundle


@pytest.fixture(scope="session")
def llvc_checkpoint() -> Path:
    return FIXTURES / "llvc"


@pytest.fixture(scope="session")
def llvc_golden(llvc_checkpoint: Path) -> dict[str, np.ndarray]:
    return load_file(llvc_checkpoint / "golden.safetensors")


@pytest.fixture(scope="session")
def llvc_bundles(llvc_checkpoint: Path, shared_folder: Path) -> Export:
    return exporting("llvc", llvc_checkpoint, shared_folder)


@pytest.fixture
def llvc_copy(llvc_bundles: Export, tmp_path: Path) -> Path:
    """A bundle of one's own to break."""
    return Path(shutil.copytree(llvc_bundles("fp32", "cpu"), tmp_path / "bundle"))


@pytest.fixture(scope="session")
def vyvo_checkpoint() -> Path:
    return FIXTURES / "vyvo"


@pytest.fixture(scope="session")
def vyvo_golden(vyvo_checkpoint: Path) -> dict[str, np.ndarray]:
    return load_file(vyvo_checkpoint / "golden.safetensors")


@pytest.fixture(scope="session")
def vyvo_bundles(vyvo_checkpoint: Path, shared_folder: Path) -> Export:
    return exporting("vyvo", vyvo_checkpoint, shared_folder)


@pytest.fixture
def vyvo_copy(vyvo_bundles: Export, tmp_path: Path) -> Path:
    """A bundle of one's own to break."""
    return Path(shutil.copytree(vyvo_bundles("fp32", "cpu"), tmp_path / "vyvo"))


@pytest.fixture(scope="session")
def qwen3tts_bundles(shared_folder: Path) -> Callable[[str, str, str], Path]:
    """(base or customvoice, recipe, target) -> bundle. Do not write into it; copy it."""
    return lambda name, recipe, target: exporting("qwen3tts", FIXTURES / f"qwen3tts-{name}", shared_folder)(
        recipe, target
    )
