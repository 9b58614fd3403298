"""Goldens and graphs of the Qwen3-TTS codec, once per module."""

import pytest
from safetensors.numpy import load_file
from tests.bundles import FIXTURES
from tests.exporters.codecs.codec12hz_cases import BASE, CUSTOM, Array, Sessions, parts, session

from voxport.graphs.ort import OrtSession


@pytest.fixture(scope="module")
def goldens() -> dict[str, dict[str, Array]]:
    return {name: load_file(FIXTURES / name / "golden.safetensors") for name in (CUSTOM, BASE)}


@pytest.fixture(scope="module")
def sessions(tmp_path_factory: pytest.TempPathFactory) -> Sessions:
    """(fixture, target, stage) -> its graph, exported on first use."""
    graphs: dict[tuple[str, str, str], OrtSession] = {}

    def find(name: str, target: str, stage: str) -> OrtSession:
        if (name, target, stage) not in graphs:
            graphs[name, target, stage] = session(parts(name)[stage], target, tmp_path_factory.mktemp(stage))
        return graphs[name, target, stage]

    return find
