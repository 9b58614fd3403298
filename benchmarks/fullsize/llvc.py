"""Random full-size LLVC checkpoints whose signal neither dies nor saturates on its way."""

import json
from importlib.resources import files
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.references.llvc import LlvcReference, offline

VARIANTS = ("llvc", "llvc_hfg", "llvc_nc")
RATE = 16000
LOUDNESS = 0.2  # rms of the output for speech_like(), well inside tanh's linear part


def config_text(variant: str) -> str:
    """The keys of the released config.json that inference needs or that differ by variant (docs/systems/llvc.md 1)."""
    return (files("voxport_exporters.systems.llvc") / "configs" / f"{variant}.json").read_text()


def speech_like(seconds: float, seed: int = 0) -> Tensor:
    """Harmonics of a gliding voice, four syllables a second, pauses, some breath: float32 [samples], rms 0.1."""
    time = torch.arange(round(seconds * RATE), dtype=torch.float64) / RATE
    phase = 2 * torch.pi * (120 * time + 8 * torch.sin(2 * torch.pi * 0.7 * time))
    voice = sum((torch.sin(k * phase) / k for k in range(1, 30)), torch.zeros_like(time))
    breath = torch.randn(len(time), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    sound = (voice + 0.1 * breath) * torch.sin(2 * torch.pi * 2 * time).square().sub(0.2).clamp(min=0)
    return (0.1 * sound / sound.square().mean().sqrt()).float()


def randomize(net: LlvcReference, seed: int) -> None:
    """Strong random weights for a net of any config: seeded, and scaled to LOUDNESS by its last layer."""
    draws = torch.Generator().manual_seed(seed)
    state = net.state_dict()
    for name, old in state.items():
        if name.endswith(("pos_enc.pe", "num_batches_tracked")):
            continue
        noise = torch.randn(old.shape, generator=draws)
        if name.endswith("running_var"):
            state[name] = 1 + noise.abs()
        elif name.endswith(("bias", "running_mean")):
            # A pre-net bias is a constant sound in pauses: keep it small.
            state[name] = noise * (0.02 if name.startswith("convnet_pre") else 0.15)
        elif old.ndim == 1:
            state[name] = 1 + 0.15 * noise
        else:
            state[name] = noise * _gain(name) / old[0].numel() ** 0.5
    # Measured quiet, where tanh is linear, then made LOUDNESS.
    state["out_conv.0.weight"] *= 1e-4
    net.load_state_dict(state)
    rms = offline(net, speech_like(0.5)).square().mean().sqrt().item()
    state["out_conv.0.weight"] *= LOUDNESS / max(rms, 1e-9)
    net.load_state_dict(state)


def _gain(name: str) -> float:
    """Standard deviation of a weight times the root of its inputs, where 1 would be too weak or too strong."""
    if name.startswith("in_conv"):
        return 5.0  # lifts speech of rms 0.1 to about 0.5
    if name.startswith("convnet_pre"):
        return 0.4  # twelve residual layers must neither run away nor cancel the signal
    if name.endswith("in_proj_weight"):
        return 2.0  # attention that chooses, yet not one frame alone
    return 3.0 if name.startswith("mask_gen.proj_d2e") else 1.0  # the decoder's part of the mask weighs as the label's


def write(folder: Path, variant: str, seed: int) -> None:
    """models/checkpoints/<variant>/G_500000.pth and experiments/<variant>/config.json (docs/systems/llvc.md 1)."""
    text = config_text(variant)
    net = LlvcReference(**json.loads(text)["model_params"])
    randomize(net, seed)
    config = folder / "experiments" / variant / "config.json"
    config.parent.mkdir(parents=True)
    config.write_text(text)
    weights = folder / "models/checkpoints" / variant / "G_500000.pth"
    weights.parent.mkdir(parents=True)
    # The release's optimizer holds two moments per weight, 26 MB that no inference reads: left empty.
    optimizer: dict[str, object] = {"state": {}, "param_groups": []}
    release = {"model": net.state_dict(), "epoch": 53, "step": 500000, "optimizer": optimizer, "learning_rate": 5e-4}
    torch.save(release, weights)
