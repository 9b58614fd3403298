"""f0 to the source signal (docs/systems/cosyvoice3.md 5, 6): stage `source`, and where upstream's noise begins."""

import math

import torch
from torch import Tensor, nn

from voxport.graphs.stage import Stage, TensorSpec
from voxport.systems.cosyvoice3.noise import BLOCK, FRAMES
from voxport_exporters.checkpoints.weights import Weights
from voxport_exporters.graphs.part import Part
from voxport_exporters.nets.dense import Linear
from voxport_exporters.nets.taps import tap
from voxport_exporters.systems.cosyvoice3.config import Config, HiftConfig
from voxport_exporters.systems.cosyvoice3.f0 import KERNELS

# Hard-coded upstream.
FLOW_BANDS = 80  # flow_matching.py, CausalConditionalCFM: of rand_noise
INITIAL_PHASES = 9  # generator.py, SineGen2: rand_ini, which has no effect


class Source(nn.Module):
    """f0 float64 [frames], noise [frames, hop, harmonics] -> source [frames, hop].

    Upstream's sines stand still within a frame: it repeats each frame's phase for all of its samples. So they are
    computed per frame. State: the cycles of every harmonic until now, summed up in float64 as torch does.
    """

    def __init__(self, w: Weights, config: HiftConfig) -> None:
        super().__init__()
        self.config = config
        self.merge = Linear(w.take("l_linear.weight", 1, config.harmonics).T, w.take("l_linear.bias", 1))

    def forward(self, f0: Tensor, noise: Tensor, cycles: Tensor) -> tuple[Tensor, Tensor]:
        """`noise` is even over [0, 1)."""
        c = self.config
        hertz = f0.to(torch.float32)[:, None]
        step = hertz * torch.arange(1.0, c.harmonics + 1, device=f0.device) / c.sampling_rate
        total = torch.cumsum((step - torch.floor(step)).to(torch.float64), dim=0) + cycles
        phase = total.to(torch.float32) * 2 * math.pi * c.hop  # rounded step by step, as upstream's is
        sines = torch.sin(phase.to(torch.float64)).to(torch.float32) * c.nsf_alpha
        voiced = (hertz > c.nsf_voiced_threshold).to(torch.float32)
        loudness = voiced * c.nsf_sigma + (1 - voiced) * c.nsf_alpha / 3
        waves = (sines * voiced)[:, None] + loudness[:, None] * noise
        tap("sin_gen", waves.flatten(0, 1)[None])
        return torch.tanh(self.merge(waves)).squeeze(-1), total[-1]


def source_part(w: Weights, config: HiftConfig, frames: int) -> Part:
    """From the weights below `m_source`; `frames` of a typical call."""
    stage = Stage(
        "source",
        inputs=(
            TensorSpec("f0", "float64", ("frames",)),
            TensorSpec("noise", "float32", ("frames", config.hop, config.harmonics)),
        ),
        outputs=(TensorSpec("source", "float32", ("frames", config.hop)),),
        state=(TensorSpec("cycles", "float64", (config.harmonics,)),),
    )
    return Part(stage, Source(w, config), axes={"frames": frames})


def draws_before_source(config: Config) -> int:
    """Numbers drawn between the seed and the source's noise, by the modules that upstream builds in between.

    Their weights are overwritten by the checkpoint's; only how many there are matters here.
    """
    flow, f0 = config.flow, config.hift.f0_predictor
    noise = _normals(FLOW_BANDS * FRAMES)
    embedding = _normals(flow.vocab_size * flow.input_size)
    speaker = _layer(flow.spk_embed_dim, flow.output_size)
    inputs = (f0.in_channels, *(f0.cond_channels for _ in KERNELS[1:]))
    convolutions = sum(_layer(n * k, f0.cond_channels) for n, k in zip(inputs, KERNELS, strict=True))
    classifier = _layer(f0.cond_channels, f0.num_class)
    return noise + embedding + speaker + convolutions + classifier + INITIAL_PHASES


def _layer(inputs: int, outputs: int) -> int:
    """A linear layer or convolution draws each weight and each bias once; its weight norm draws nothing."""
    return inputs * outputs + outputs


def _normals(count: int) -> int:
    """What torch draws for `count` normals: in blocks, the last one anew where it is not full.

    Few of them are drawn in pairs of doubles, each made of two numbers.
    """
    if count < BLOCK:
        return 4 * -(-count // 2)
    return count + (BLOCK if count % BLOCK else 0)
