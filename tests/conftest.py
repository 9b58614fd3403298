"""What the tests share: the fixture checkpoints, their goldens and their bundles; `copy`s are there to be broken."""

import functools
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from tests.bundles import FIXTURES, Bundles, Export

torch.set_num_threads(1)

Golden = dict[str, np.ndarray]


@functools.cache
def golden(fixture: str) -> Golden:
    return load_file(FIXTURES / fixture / "golden.safetensors")


@pytest.fixture(scope="session", autouse=True)
def cache_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What the runtime remembers of verified bundles stays out of the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def bundles(request: pytest.FixtureRequest) -> Bundles:
    """(fixture, recipe, target) -> bundle. Kept in pytest's cache, or in the folder that VOXPORT_TEST_CACHE names."""
    if folder := os.environ.get("VOXPORT_TEST_CACHE"):
        return Bundles(Path(folder))
    return Bundles(request.config.cache.mkdir("bundles"))


@pytest.fixture(scope="session")
def llvc_checkpoint() -> Path:
    return FIXTURES / "llvc"


@pytest.fixture(scope="session")
def llvc_golden() -> Golden:
    return golden("llvc")


@pytest.fixture(scope="session")
def llvc_bundles(bundles: Bundles) -> Export:
    return bundles.of("llvc")


@pytest.fixture
def llvc_copy(llvc_bundles: Export, tmp_path: Path) -> Path:
    return Path(shutil.copytree(llvc_bundles("fp32", "cpu"), tmp_path / "bundle"))


@pytest.fixture(scope="session")
def vyvo_checkpoint() -> Path:
    return FIXTURES / "vyvo"


@pytest.fixture(scope="session")
def vyvo_golden() -> Golden:
    return golden("vyvo")


@pytest.fixture(scope="session")
def vyvo_bundles(bundles: Bundles) -> Export:
    return bundles.of("vyvo")


@pytest.fixture
def vyvo_copy(vyvo_bundles: Export, tmp_path: Path) -> Path:
    return Path(shutil.copytree(vyvo_bundles("fp32", "cpu"), tmp_path / "vyvo"))


@pytest.fixture(scope="session")
def cosyvoice3_checkpoint() -> Path:
    return FIXTURES / "cosyvoice3"


@pytest.fixture(scope="session")
def cosyvoice3_golden() -> Golden:
    return golden("cosyvoice3")


@pytest.fixture(scope="session")
def cosyvoice3_bundles(bundles: Bundles) -> Export:
    return bundles.of("cosyvoice3")


@pytest.fixture(scope="session")
def t5gemma_checkpoint() -> Path:
    return FIXTURES / "t5gemma"


@pytest.fixture(scope="session")
def t5gemma_golden() -> Golden:
    return golden("t5gemma")


@pytest.fixture(scope="session")
def t5gemma_bundles(bundles: Bundles) -> Export:
    return bundles.of("t5gemma")


@pytest.fixture(scope="session")
def qwen3tts_bundles(bundles: Bundles) -> Callable[[str, str, str], Path]:
    """(base or customvoice, recipe, target) -> bundle."""
    return lambda name, recipe, target: bundles(f"qwen3tts-{name}", recipe, target)
