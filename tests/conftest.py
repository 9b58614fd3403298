"""What the tests share: every fixture checkpoint is exported once per run, and copied where a test breaks it."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from voxport_exporters import llvc, vyvo
from voxport_exporters.pack import pack

torch.set_num_threads(1)

FIXTURES = Path(__file__).parent / "fixtures"
Export = Callable[[str, str], Path]


@pytest.fixture(scope="session")
def llvc_checkpoint() -> Path:
    return FIXTURES / "llvc"


@pytest.fixture(scope="session")
def llvc_golden(llvc_checkpoint: Path) -> dict[str, np.ndarray]:
    return load_file(llvc_checkpoint / "golden.safetensors")


@pytest.fixture(scope="session")
def llvc_bundles(llvc_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Export:
    """(recipe, target) -> bundle, exported on first use. Do not write into it; see `llvc_copy`."""
    made: dict[tuple[str, str], Path] = {}

    def bundle(recipe: str, target: str) -> Path:
        if (recipe, target) not in made:
            out = tmp_path_factory.mktemp("llvc") / f"{recipe}-{target}"
            pack(llvc.job(llvc_checkpoint), out, llvc.RECIPES[recipe], target)
            made[recipe, target] = out
        return made[recipe, target]

    return bundle


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
def vyvo_bundles(vyvo_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Export:
    """(recipe, target) -> bundle, exported on first use. Do not write into it; see `vyvo_copy`."""
    made: dict[tuple[str, str], Path] = {}

    def bundle(recipe: str, target: str) -> Path:
        if (recipe, target) not in made:
            out = tmp_path_factory.mktemp("vyvo") / f"{recipe}-{target}"
            pack(vyvo.job(vyvo_checkpoint), out, vyvo.RECIPES[recipe], target)
            made[recipe, target] = out
        return made[recipe, target]

    return bundle


@pytest.fixture
def vyvo_copy(vyvo_bundles: Export, tmp_path: Path) -> Path:
    """A bundle of one's own to break."""
    return Path(shutil.copytree(vyvo_bundles("fp32", "cpu"), tmp_path / "vyvo"))
