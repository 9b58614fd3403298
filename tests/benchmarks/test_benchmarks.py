"""The benchmarks themselves are too long for `make test`; what starts them is tested here."""

import subprocess
import sys
from pathlib import Path

import torch
from tests.bundles import ROOT

from voxport_exporters.systems.llvc import job as llvc


def _python(*arguments: str | Path) -> str:
    command = [sys.executable, *map(str, arguments)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def test_a_full_size_checkpoint_has_the_releases_layout_and_size(tmp_path: Path) -> None:
    _python("-m", "benchmarks.fullsize", "llvc", tmp_path / "release")
    weights = torch.load(tmp_path / "release/models/checkpoints/llvc/G_500000.pth", weights_only=True)["model"]
    assert len(weights) == 147
    assert sum(value.numel() for name, value in weights.items() if "pos_enc" not in name) == 3_258_720
    assert llvc.job(tmp_path / "release").variant == "llvc"


def test_every_benchmark_is_collected() -> None:
    collected = _python("-m", "pytest", "benchmarks", "--collect-only", "-q", "-p", "no:cacheprovider")
    for name in ("cosyvoice3", "llvc", "vyvo", "qwen3tts", "sessions", "t5gemma"):
        assert f"benchmarks/test_{name}.py" in collected


def test_the_baselines_name_their_arguments() -> None:
    assert "--environments" in _python("-m", "benchmarks.baselines", "--help")
