"""Bad checkpoints and options of `voxport export`: one line that says what to do, and nothing is written."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.command import refusal, run

CONFIG = Path("experiments/llvc/config.json")
WEIGHTS = Path("models/checkpoints/llvc/G_500000.pth")


def change_config(root: Path, change: Callable[[dict[str, Any]], object]) -> None:
    config = json.loads((root / CONFIG).read_text())
    change(config)
    (root / CONFIG).write_text(json.dumps(config))


def change_weights(root: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    checkpoint = torch.load(root / WEIGHTS, weights_only=True)
    change(checkpoint["model"])
    torch.save(checkpoint, root / WEIGHTS)


def second_variant(root: Path) -> None:
    shutil.copytree((root / WEIGHTS).parent, root / "models/checkpoints/llvc_nc")


def cut(root: Path) -> None:
    (root / WEIGHTS).write_bytes((root / WEIGHTS).read_bytes()[:500_000])


KEY = "label_embedding.0.weight"
TRUNCATED = "G_500000.pth: not a whole torch checkpoint (truncated or foreign)"
BAD_CHECKPOINT: dict[str, tuple[Callable[[Path], object], str]] = {
    "truncated": (cut, TRUNCATED),
    "empty": (lambda r: (r / WEIGHTS).write_bytes(b""), TRUNCATED),
    "text": (lambda r: (r / WEIGHTS).write_text("version https://git-lfs.github.com/spec/v1"), TRUNCATED),
    "foreign": (
        lambda r: torch.save({"state_dict": {}}, r / WEIGHTS),
        "no state dict under 'model' (found state_dict)",
    ),
    "no tensors": (lambda r: torch.save({"model": {"a": 1}}, r / WEIGHTS), "does not hold a dict of tensors"),
    "missing key": (lambda r: change_weights(r, lambda w: w.pop(KEY)), f"G_500000.pth: lacks {KEY} [512, 1]"),
    "extra key": (
        lambda r: change_weights(r, lambda w: w.update(extra=w[KEY])),
        "holds extra, which this net does not",
    ),
    "shape": (
        lambda r: change_weights(r, lambda w: w.update({KEY: w[KEY][:9]})),
        f"{KEY} has shape [9, 1], the config says [512, 1]",
    ),
    "config": (lambda r: change_config(r, lambda c: c["model_params"].update(dec_dim=8)), "the config says ["),
    "unknown config key": (
        lambda r: change_config(r, lambda c: c["model_params"].update(colour=1)),
        "config.json: model_params: unknown key colour",
    ),
    "config type": (
        lambda r: change_config(r, lambda c: c["model_params"].update(L="8")),
        'config.json: model_params: L is "8": expected int, got str',
    ),
    "other config": (
        lambda r: (r / CONFIG).write_text("{}"),
        "not an LLVC config.json (wanted model_params and data.sr)",
    ),
    "no config": (lambda r: (r / CONFIG).write_text("[]"), "config.json: wanted a JSON object"),
    "no folder": (shutil.rmtree, "no such folder"),
    "other folder": (lambda r: shutil.rmtree(r / "models"), "found none; is this an LLVC checkpoint folder?"),
    "two variants": (second_variant, "found llvc, llvc_nc; choose one with --variant"),
}


@pytest.mark.parametrize("kind", BAD_CHECKPOINT)
def test_a_bad_checkpoint_is_one_line_that_names_the_file(tmp_path: Path, llvc_checkpoint: Path, kind: str) -> None:
    root = Path(shutil.copytree(llvc_checkpoint, tmp_path / "checkpoint"))
    damage, words = BAD_CHECKPOINT[kind]
    damage(root)
    line = refusal(run("export", "llvc", root, "-o", tmp_path / "bundle"))
    assert line.startswith(str(root))
    assert words in line
    assert [p.name for p in tmp_path.iterdir() if p != root] == []


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--variant", "llvc_hfg"], "wanted llvc_hfg, found llvc; choose one with --variant"),
        (["--recipe", "int3"], "recipe 'int3': wanted fp32, int8"),
        (["--config", "config.json"], "--config and --weights go together"),
        (["--config", "no.json", "--weights", "no.pth"], "no.json: No such file or directory"),
    ],
)
def test_bad_export_options_are_one_line(tmp_path: Path, llvc_checkpoint: Path, options: list[str], words: str) -> None:
    assert words in refusal(run("export", "llvc", llvc_checkpoint, "-o", tmp_path / "b", *options))
    assert not list(tmp_path.iterdir())
