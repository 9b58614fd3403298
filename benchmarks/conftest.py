"""Full-size random checkpoints and their bundles, made once per run."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from benchmarks import llvc_fullsize
from voxport_exporters import llvc
from voxport_exporters.pack import pack

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def llvc_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    llvc_fullsize.write(folder, "llvc", seed=0)
    return folder


@pytest.fixture(scope="session")
def llvc_bundle(llvc_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """recipe -> bundle of the full-size checkpoint."""
    made: dict[str, Path] = {}

    def bundle(recipe: str) -> Path:
        if recipe not in made:
            made[recipe] = tmp_path_factory.mktemp("bundle") / recipe
            pack(llvc.job(llvc_checkpoint), made[recipe], llvc.RECIPES[recipe], "cpu")
        return made[recipe]

    return bundle
