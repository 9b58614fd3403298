"""Mel and source to samples (docs/systems/cosyvoice3.md 5), written for export.

It looks back only, but its inputs come late: the mel by what the first convolution looks ahead, the source by half an
STFT window. With its state passed in and handed back any number of frames per call gives the same samples:

    ahead, samples            frames and samples that the first outputs need; whoever starts a stream puts them there
    spectrum                  STFT frames before the first one of a call
    up.<i>                    what a convolution over repeated steps looks back at
    down.<i>.<k>              the same of every convolution of the source's residual block, [channels, context]
    block.<i>.<j>.<k>         the same of the other residual blocks
    going, last               of the last stage: whether there were steps before, and the last of them
    post, istft               of the last convolution, and the frames that the next samples are made of too

Weights that a recipe may name, as the graph has them (kernels are MatMuls' only where int8):

    pre.weight                                  the first convolution
    stages.<i>.up.weight                        the convolution over repeated steps
    stages.<i>.source.units.<k>.conv.weight     residual block of the source
    stages.<i>.blocks.<j>.units.<k>.conv.weight residual blocks
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from voxport_exporters.checkpoints.weights import Weights
from voxport_exporters.nets.conv import Conv, causal
from voxport_exporters.nets.istft import Istft, Stft, hann
from voxport_exporters.nets.states import States, last
from voxport_exporters.nets.taps import tap
from voxport_exporters.systems.cosyvoice3 import hift_shapes as shapes
from voxport_exporters.systems.cosyvoice3.config import HiftConfig
from voxport_exporters.systems.cosyvoice3.hift_stage import Stage

# Hard-coded upstream (generator.py).
POST_SLOPE = 0.01  # before the last convolution: torch's default, not lrelu_slope
LOUDEST = 100.0  # magnitude of a bin


class Hift(nn.Module):
    """mel [frames, bands], source [frames, hop] -> samples [frames, hop], late by half an STFT window."""

    def __init__(self, w: Weights, config: HiftConfig, int8: frozenset[str] = frozenset()) -> None:
        """`int8`: names of int8 weights. Where the blocks of a stage hold one, their convolutions are MatMuls."""
        super().__init__()
        self.config = c = config
        n_fft, hop, widths = c.istft_params.n_fft, c.istft_params.hop_len, shapes.channels(c)
        self.past, self.steps = shapes.past_frames(c), shapes.steps(c)[-1]
        pre = w.at("conv_pre")
        weight = pre.folded(widths[0], c.in_channels, c.conv_pre_look_right + 1)
        self.pre = Conv(weight, pre.take("bias", widths[0]), as_matmul=True)
        blocks = [(f"stages.{i}.source.", f"stages.{i}.blocks.") for i in range(len(c.upsample_rates))]
        as_matmul = [any(name.startswith(below) for name in int8) for below in blocks]
        self.stft = Stft(hann(n_fft), hop)
        self.stages = nn.ModuleList(Stage(w, c, i, as_matmul[i]) for i in range(len(blocks)))
        self.post = Conv.weight_normed(w.at("conv_post"), widths[-1], n_fft + 2, shapes.POST_KERNEL)
        self.istft = Istft(hann(n_fft), hop)

    def forward(self, mel: Tensor, source: Tensor, steps: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        """`steps` int64 [1]: of the call's STFT frames, how many there are; all, but after the last mel frame one.

        State as hift_shapes.tails declares it -> samples, next state.
        """
        c, states, frames = self.config, States(state), mel.shape[0]
        x = self.pre(states.join(mel))
        tap("conv_pre", x.T[None])
        spectrum = self._spectrum(states.join(source.flatten()), states)
        for stage in self.stages:
            x = stage(x, spectrum, states)
        x = causal(self.post, F.leaky_relu(x.T[None], POST_SLOPE), states)
        tap("conv_post", x)
        loud, turned = x.chunk(2, dim=1)
        loud, phase = torch.exp(loud).clamp(max=LOUDEST), torch.sin(turned)
        bins = torch.cat((loud * torch.cos(phase), loud * torch.sin(phase)), dim=1)
        present = (torch.arange(frames * self.steps, device=mel.device) < steps).to(torch.float32)
        wave = self.istft(bins, present, states).clamp(-c.audio_limit, c.audio_limit)
        return wave.view(frames, c.hop), *states.after

    def _spectrum(self, samples: Tensor, states: States) -> Tensor:
        """STFT [1, bins, past + frames + 1] of the source: frames before the call's, its own, the first of the next."""
        spectrum: Tensor = self.stft(samples[None, None])
        tap("s_stft", spectrum[..., :-1])
        if self.past == 0:
            return spectrum
        spectrum = torch.cat((states.take()[None], spectrum), dim=2)
        states.keep(last(spectrum[0, :, :-1], self.past, axis=1))
        return spectrum
