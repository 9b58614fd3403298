"""Vocoders for tests: configs far from the release, random checkpoints, and upstream's arithmetic as one plain pass."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import msgspec
import numpy as np
import torch
import torch.nn.functional as F
from tests.bundles import FIXTURES
from torch import Tensor

from voxport.bundle import Bundle
from voxport.graphs.session import Session
from voxport.recipe import Recipe
from voxport.systems.cosyvoice3.section import LlmSection, MelSection, Section, VocoderSection
from voxport.systems.cosyvoice3.vocoder import Vocoder
from voxport_exporters.checkpoints.weights import Weights
from voxport_exporters.graphs.part import Part
from voxport_exporters.pack import Job, pack
from voxport_exporters.systems.cosyvoice3 import flow
from voxport_exporters.systems.cosyvoice3 import vocoder as stages
from voxport_exporters.systems.cosyvoice3.config import HiftConfig, read_config

Array = np.ndarray

# Rates that are no divisors of kernels, one stage or four, an n_fft that hops do not divide, dilations of other counts.
HIFTS: dict[str, dict[str, Any]] = {
    "odd": {
        "f0_predictor": {"in_channels": 7, "cond_channels": 5}, "in_channels": 7, "base_channels": 24,
        "nb_harmonics": 2, "sampling_rate": 900, "upsample_rates": [2, 3, 4], "upsample_kernel_sizes": [7, 3, 5],
        "istft_params": {"n_fft": 10, "hop_len": 3}, "resblock_kernel_sizes": [3, 4],
        "resblock_dilation_sizes": [[1, 3], [5]], "source_resblock_kernel_sizes": [5, 3, 1],
        "source_resblock_dilation_sizes": [[3], [1, 3], [1]], "conv_pre_look_right": 2, "lrelu_slope": 0.3,
        "audio_limit": 0.5, "nsf_alpha": 0.2, "nsf_sigma": 0.05, "nsf_voiced_threshold": 40,
    },
    "one stage": {
        "f0_predictor": {"in_channels": 3, "cond_channels": 4}, "in_channels": 3, "base_channels": 6,
        "nb_harmonics": 0, "sampling_rate": 400, "upsample_rates": [3], "upsample_kernel_sizes": [1],
        "istft_params": {"n_fft": 4, "hop_len": 2}, "resblock_kernel_sizes": [1], "resblock_dilation_sizes": [[1]],
        "source_resblock_kernel_sizes": [3], "source_resblock_dilation_sizes": [[2, 1]], "conv_pre_look_right": 1,
    },
    "short frames": {
        "f0_predictor": {"in_channels": 4, "cond_channels": 3}, "in_channels": 4, "base_channels": 8,
        "nb_harmonics": 8, "sampling_rate": 300, "upsample_rates": [1, 2], "upsample_kernel_sizes": [3, 2],
        "istft_params": {"n_fft": 16, "hop_len": 2}, "resblock_kernel_sizes": [3], "resblock_dilation_sizes": [[1, 2]],
        "source_resblock_kernel_sizes": [3, 3], "source_resblock_dilation_sizes": [[1], [1]], "conv_pre_look_right": 4,
    },
}  # fmt: skip


class Checkpoint(Weights):
    """Weights that are random, and made as they are asked for; `tensors` are those that were."""

    def __init__(self, seed: int = 0) -> None:
        self._random = torch.Generator().manual_seed(seed)
        self._prefix, self._keys, self._left = "", frozenset(), set()
        self.tensors: dict[str, Tensor] = {}

    def at(self, prefix: str) -> Self:
        view = object.__new__(type(self))
        view.__dict__.update(self.__dict__)
        view._prefix = f"{self._prefix}{prefix}."
        return view

    def has(self, name: str) -> bool:
        return name != "weight_g"

    def take(self, name: str, *shape: int) -> Tensor:
        key = self._prefix + name
        if key not in self.tensors:
            self.tensors[key] = self._drawn(key, shape)
        assert self.tensors[key].shape == shape
        return self.tensors[key]

    def _drawn(self, key: str, shape: tuple[int, ...]) -> Tensor:
        tensor = torch.randn(shape, generator=self._random)
        if key == "f0_predictor.classifier.bias":
            return tensor * 0 + 60
        if key == "f0_predictor.classifier.weight":
            return tensor * 30
        if key.endswith("original0"):
            return 0.5 * tensor.abs() + 0.2  # larger ones clip the samples, and magnify how float32 rounds
        if key.endswith("alpha"):
            return tensor.abs() + 0.2
        return 0.3 * tensor


def hift(name: str) -> HiftConfig:
    return msgspec.convert(HIFTS[name], HiftConfig)


def parts(name: str, seed: int = 0) -> tuple[dict[str, Part], dict[str, Tensor]]:
    """The stages of a random checkpoint of HIFTS, and its tensors."""
    checkpoint = Checkpoint(seed)
    config = msgspec.structs.replace(read_config(FIXTURES / "cosyvoice3"), hift=hift(name))
    return {part.stage.name: part for part in stages.parts(checkpoint, config)}, checkpoint.tensors


class Sessions(Bundle):
    """A Bundle that is only sessions."""

    def __init__(self, sessions: Mapping[str, Session]) -> None:
        self._sessions_by_stage = sessions

    def session(self, stage: str, threads: int = 1) -> Session:  # noqa: ARG002
        return self._sessions_by_stage[stage]


def vocoder(sessions: Mapping[str, Session], config: HiftConfig) -> Vocoder:
    return Vocoder(Sessions(sessions), 1, VocoderSection(hop=config.hop, skip=0))


def bundle(target: str, path: Path, recipe: Recipe = Recipe("fp32")) -> Bundle:  # noqa: B008 - frozen
    """The fixture's vocoder alone, as a bundle."""
    config = read_config(FIXTURES / "cosyvoice3")
    llm, mel = config.llm, config.mel
    section = Section(
        config.token_frame_rate,
        LlmSection(llm.speech_token_size, 1, llm.mix_ratio),
        flow.section(config.flow),
        stages.section(config),
        MelSection(mel.win_size, mel.n_fft, mel.hop_size, mel.num_mels, mel.fmin, mel.fmax),
    )
    vocoder_parts = stages.parts(Weights.open(FIXTURES / "cosyvoice3" / "hift.pt"), config)
    job = Job("cosyvoice3", "test", config.sample_rate, vocoder_parts, (), path, section, rehearse=False)
    pack(job, path, recipe, target)
    return Bundle(path)


def upstream(w: dict[str, Tensor], c: HiftConfig, mel: Array, noise: Array, final: bool = True) -> Array:
    """Samples of a mel [frames, bands] as upstream's modules compute them, whole and without state."""
    x = torch.from_numpy(mel.T)[None]
    f0 = _f0(w, x.double(), final).float()
    s = _source(w, c, f0, torch.from_numpy(noise))
    x = x if final else x[..., :-3]
    n_fft, hop, look = c.istft_params.n_fft, c.istft_params.hop_len, c.conv_pre_look_right
    window, count = torch.hann_window(n_fft), len(c.upsample_rates)
    spectrum = torch.stft(s, n_fft, hop, n_fft, window, return_complex=True)
    spectrum = torch.cat((spectrum.real, spectrum.imag), dim=1)
    if not final:
        spectrum = spectrum[..., : -math.prod(c.upsample_rates) * look]
    x = _conv(w, "conv_pre", F.pad(x, (0, look)) if final else x)
    for i, rate in enumerate(c.upsample_rates):
        x = F.leaky_relu(x, c.lrelu_slope).repeat_interleave(rate, dim=-1)
        x = _conv(w, f"ups.{i}", x, left=c.upsample_kernel_sizes[i] - 1)
        x = F.pad(x, (1, 0), mode="reflect") if i == count - 1 else x
        stride = math.prod(c.upsample_rates[i + 1 :])
        down = f"source_downs.{i}."
        side = F.conv1d(F.pad(spectrum, (stride - 1, 0)), w[down + "weight"], w[down + "bias"], stride)
        own = c.source_resblock_kernel_sizes[i], c.source_resblock_dilation_sizes[i]
        x = x + _resblock(w, f"source_resblocks.{i}", side, *own)
        kinds = list(zip(c.resblock_kernel_sizes, c.resblock_dilation_sizes, strict=True))
        blocks = [_resblock(w, f"resblocks.{i * len(kinds) + j}", x, *kind) for j, kind in enumerate(kinds)]
        x = torch.stack(blocks).sum(0) / len(kinds)
    x = _conv(w, "conv_post", F.leaky_relu(x), left=6)
    magnitude, phase = torch.exp(x[:, : n_fft // 2 + 1]).clip(max=1e2), torch.sin(x[:, n_fft // 2 + 1 :])
    wave = torch.istft(torch.polar(magnitude, phase), n_fft, hop, n_fft, window).squeeze(0)
    wave = wave if final else wave[: -c.hop]
    return wave.clamp(-c.audio_limit, c.audio_limit).numpy()


def _f0(w: dict[str, Tensor], x: Tensor, final: bool) -> Tensor:
    below = {key.removeprefix("f0_predictor."): t.double() for key, t in w.items() if key.startswith("f0_predictor.")}
    x = F.elu(_conv(below, "condnet.0", F.pad(x, (0, 3)) if final else x))
    for i in (2, 4, 6, 8):
        x = F.elu(_conv(below, f"condnet.{i}", x, left=2))
    return F.linear(x.transpose(1, 2), below["classifier.weight"], below["classifier.bias"]).abs().squeeze(-1)


def _source(w: dict[str, Tensor], c: HiftConfig, f0: Tensor, noise: Tensor) -> Tensor:
    """f0 [1, frames] -> [1, samples], repeated first and brought back to frames as upstream does."""
    f0 = f0.repeat_interleave(c.hop, dim=1)[..., None]
    turns = (f0 * torch.arange(1.0, c.harmonics + 1) / c.sampling_rate) % 1
    turns = F.interpolate(turns.transpose(1, 2), scale_factor=1 / c.hop, mode="linear")
    phase = torch.cumsum(turns, dim=2) * 2 * np.pi * c.hop
    sines = torch.sin(phase.repeat_interleave(c.hop, dim=2)).transpose(1, 2) * c.nsf_alpha
    voiced = (f0 > c.nsf_voiced_threshold).float()
    loudness = voiced * c.nsf_sigma + (1 - voiced) * c.nsf_alpha / 3
    waves = sines * voiced + loudness * noise[: sines.shape[1]]
    return torch.tanh(F.linear(waves, w["m_source.l_linear.weight"], w["m_source.l_linear.bias"])).squeeze(-1)


def _conv(w: dict[str, Tensor], name: str, x: Tensor, left: int = 0, dilation: int = 1) -> Tensor:
    g, v = (w[f"{name}.parametrizations.weight.original{i}"] for i in (0, 1))
    weight = g * v / v.flatten(1).norm(dim=1)[:, None, None]
    return F.conv1d(F.pad(x, (left, 0)), weight, w[f"{name}.bias"], dilation=dilation)


def _resblock(w: dict[str, Tensor], name: str, x: Tensor, kernel: int, dilations: tuple[int, ...]) -> Tensor:
    for i, dilation in enumerate(dilations):
        y = x
        for number, reach in ((1, dilation), (2, 1)):
            alpha = w[f"{name}.activations{number}.{i}.alpha"][:, None]
            y = y + torch.sin(y * alpha) ** 2 / (alpha + 1e-9)
            y = _conv(w, f"{name}.convs{number}.{i}", y, left=(kernel - 1) * reach, dilation=reach)
        x = x + y
    return x
