"""Tensors of a torch.save() file are read one by one, whatever part of a storage they are."""

import argparse
from pathlib import Path

import pytest
import torch

from voxport_exporters.checkpoints import torchfile

WHOLE = torch.randn(5, 6)
TENSORS = {
    "whole": WHOLE,
    "rows": WHOLE[2:4],
    "columns": WHOLE[:, 1:3],
    "turned": WHOLE.T,
    "repeated": torch.ones(1).expand(3, 4),
    "scalar": torch.tensor(7),
    "empty": torch.empty(0, 4),
    "half": torch.randn(3, dtype=torch.float64).bfloat16(),
    "flags": torch.tensor([True, False]),
}


@pytest.fixture(params=[True, False], ids=["zip", "legacy"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    torch.save(TENSORS, tmp_path / "a.pth", _use_new_zipfile_serialization=request.param)
    return tmp_path / "a.pth"


def test_every_tensor_has_its_values_shape_and_dtype(path: Path) -> None:
    shells = torchfile.load(path)
    for key, tensor in TENSORS.items():
        found = torchfile.read(path, shells[key])
        assert found.dtype == tensor.dtype
        assert torch.equal(found, tensor), key


def test_reading_a_shell_reads_no_values(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    torch.save({"a": torch.ones(4)}, path)
    shell = torchfile.load(path)["a"]
    content = path.read_bytes()
    path.write_bytes(content.replace(torch.ones(4).numpy().tobytes(), torch.full((4,), 2.0).numpy().tobytes()))
    assert torch.equal(torchfile.read(path, shell), torch.full((4,), 2.0))
    path.write_bytes(content[:100])
    with pytest.raises(ValueError, match=r"a\.pth: ends in the middle of a tensor"):
        torchfile.read(path, shell)


def test_only_listed_classes_are_read(tmp_path: Path) -> None:
    torch.save({"args": argparse.Namespace(rate=50)}, tmp_path / "a.pth")
    assert torchfile.load(tmp_path / "a.pth", argparse.Namespace)["args"].rate == 50
    with pytest.raises(ValueError, match=r"a\.pth: not a whole torch checkpoint"):
        torchfile.load(tmp_path / "a.pth")
