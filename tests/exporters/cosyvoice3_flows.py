"""Flows of Fun-CosyVoice3 to test with: the fixture's, and random ones of configs far from the release."""

from pathlib import Path
from typing import Any

import msgspec
import torch
from tests.bundles import FIXTURES
from torch import Tensor

from voxport.bundle import Bundle
from voxport.graphs.ort import OrtSession
from voxport.graphs.session import Session
from voxport.recipe import Recipe
from voxport.systems.cosyvoice3.section import LlmSection, MelSection, Section, VocoderSection
from voxport_exporters.checkpoints.later import deferring
from voxport_exporters.checkpoints.weights import Weights
from voxport_exporters.graphs.part import Part
from voxport_exporters.graphs.store import DataFiles
from voxport_exporters.pack import Job, pack, save
from voxport_exporters.systems.cosyvoice3 import flow
from voxport_exporters.systems.cosyvoice3.config import CfmConfig, Config, DitConfig, LookaheadConfig, read_config
from voxport_parity.reference import TorchSession

FIXTURE = FIXTURES / "cosyvoice3"
GROUPS, KERNEL, WAVES = 16, 31, 256  # hard-coded upstream

# Heads of odd sizes, more mel bands than mu, no speaker vector, blocks that are no multiple of anything, a long skip.
ODD: dict[str, dict[str, Any]] = {
    "odd heads": {
        "dit": {
            "dim": 48,
            "depth": 2,
            "heads": 3,
            "dim_head": 5,
            "ff_mult": 1,
            "mel_dim": 7,
            "mu_dim": 5,
            "spk_dim": 7,
        },
        "flow": {"input_size": 5, "output_size": 7, "vocab_size": 11, "token_mel_ratio": 3, "pre_lookahead_len": 2},
    },
    "skip": {
        "dit": {"dim": 16, "depth": 1, "heads": 1, "dim_head": 12, "mel_dim": 6, "long_skip_connection": True},
        "flow": {"input_size": 6, "output_size": 6, "vocab_size": 9, "token_mel_ratio": 1, "pre_lookahead_len": 1},
    },
    "wide heads": {
        "dit": {"dim": 32, "depth": 3, "heads": 2, "dim_head": 24, "ff_mult": 3, "mel_dim": 4, "spk_dim": 4},
        "flow": {"input_size": 4, "output_size": 4, "vocab_size": 5, "token_mel_ratio": 4, "pre_lookahead_len": 5},
    },
}
BLOCK = 7  # frames, of the odd ones


def fixture() -> tuple[Config, Weights]:
    return read_config(FIXTURE), Weights.open(FIXTURE / flow.FLOW)


def odd(name: str) -> tuple[Config, Weights]:
    """A random flow of the config `name` of ODD."""
    sizes = ODD[name]
    ahead, width = sizes["flow"]["pre_lookahead_len"], sizes["flow"]["input_size"]
    parsed = msgspec.structs.replace(
        read_config(FIXTURE).flow,
        **sizes["flow"],
        spk_embed_dim=10,
        lookahead=LookaheadConfig(in_channels=width, channels=13, pre_lookahead_len=ahead),
        cfm=CfmConfig(t_scheduler="linear", inference_cfg_rate=0.3),
        dit=DitConfig(static_chunk_size=BLOCK, **sizes["dit"]),
    )
    config = msgspec.structs.replace(read_config(FIXTURE), flow=parsed)
    state = random_state(config)
    return config, Weights(Path("flow.pt"), state, state.__getitem__)


def random_state(config: Config) -> dict[str, Tensor]:
    """A state dict with upstream's keys and shapes, its values small enough for the net to keep its scale."""
    f, d = config.flow, config.flow.dit
    shapes: dict[str, tuple[int, ...]] = {
        "input_embedding.weight": (f.vocab_size, f.input_size),
        **_layer("spk_embed_affine_layer", f.output_size, f.spk_embed_dim),
        **_layer("pre_lookahead_layer.conv1", f.lookahead.channels, f.input_size, f.pre_lookahead_len + 1),
        **_layer("pre_lookahead_layer.conv2", f.input_size, f.lookahead.channels, 3),
    }
    net: dict[str, tuple[int, ...]] = {
        **_layer("time_embed.time_mlp.0", d.dim, WAVES),
        **_layer("time_embed.time_mlp.2", d.dim, d.dim),
        **_layer("input_embed.proj", d.dim, 2 * d.mel_dim + d.mu + d.speaker),
        **_layer("input_embed.conv_pos_embed.conv1.0", d.dim, d.dim // GROUPS, KERNEL),
        **_layer("input_embed.conv_pos_embed.conv2.0", d.dim, d.dim // GROUPS, KERNEL),
        "rotary_embed.inv_freq": ((d.dim_head + 1) // 2,),
        **_layer("norm_out.linear", 2 * d.dim, d.dim),
        **_layer("proj_out", d.mel_dim, d.dim),
    }
    if d.long_skip_connection:
        net["long_skip_connection.weight"] = (d.dim, 2 * d.dim)
    for i in range(d.depth):
        block = {
            **_layer("attn_norm.linear", 6 * d.dim, d.dim),
            **{k: v for n in "qkv" for k, v in _layer(f"attn.to_{n}", d.inner, d.dim).items()},
            **_layer("attn.to_out.0", d.dim, d.inner),
            **_layer("ff.ff.0.0", d.ff_mult * d.dim, d.dim),
            **_layer("ff.ff.2", d.dim, d.ff_mult * d.dim),
        }
        net |= {f"transformer_blocks.{i}.{name}": shape for name, shape in block.items()}
    shapes |= {f"decoder.estimator.{name}": shape for name, shape in net.items()}
    random = torch.Generator().manual_seed(0)
    state = {n: torch.randn(s, generator=random) * torch.Size(s[1:]).numel() ** -0.5 for n, s in shapes.items()}
    frequencies = 10000 ** -(torch.arange(0, d.dim_head, 2) / d.dim_head)
    return state | {"decoder.estimator.rotary_embed.inv_freq": frequencies}


def _layer(name: str, *shape: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": shape, f"{name}.bias": shape[:1]}


def parts(config: Config, weights: Weights, times: tuple[float, ...] = ()) -> dict[str, Part]:
    return {part.stage.name: part for part in flow.parts(weights, config, times=times)}


def nets(config: Config, weights: Weights, times: tuple[float, ...] = ()) -> dict[str, Session]:
    """The torch nets behind sessions, by stage."""
    return {name: TorchSession(part) for name, part in parts(config, weights, times).items()}


def graphs(
    config: Config,
    weights: Weights,
    target: str,
    folder: Path,
    times: tuple[float, ...] = (),
    recipe: Recipe = Recipe("fp32"),  # noqa: B008 - frozen
) -> dict[str, Session]:
    """The stages exported to `folder`, as a bundle's are, and opened."""
    data = DataFiles()
    with deferring():
        names = []
        for part in flow.parts(weights, config, times=times):
            save(part, folder, recipe, target, data=data)
            names.append(part.stage.name)
    return {name: OrtSession(folder / f"{name}.onnx") for name in names}


def bundle(
    config: Config,
    weights: Weights,
    target: str,
    path: Path,
    recipe: Recipe = Recipe("fp32"),  # noqa: B008 - frozen
) -> Bundle:
    """The flow's stages alone, as a bundle."""
    llm, hift, mel = config.llm, config.hift, config.mel
    section = Section(
        config.token_frame_rate,
        LlmSection(llm.speech_token_size, 1, llm.mix_ratio),
        flow.section(config.flow),
        VocoderSection(hift.hop, 0),
        MelSection(mel.win_size, mel.n_fft, mel.hop_size, mel.num_mels, mel.fmin, mel.fmax),
    )
    with deferring():
        stages = flow.parts(weights, config)
        job = Job("cosyvoice3", "test", config.sample_rate, stages, (), path, section, rehearse=False)
        pack(job, path, recipe, target)
    return Bundle(path)
