"""CosyVoice3's vocoder as eager PyTorch, layer for layer as upstream computes it (docs/systems/cosyvoice3.md 5).

In float32, the pitch in float64 as upstream has it. Weight norms are folded, which upstream does in every call: PyTorch
is a little faster here than there.
"""

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from voxport_exporters.systems.cosyvoice3.config import F0Config, HiftConfig

QUIETEST = 1e-9  # keeps a Snake's division finite
LOUDEST = 100.0  # magnitude of a spectrum's bin
NORM = "parametrizations.weight.original"


class Causal(nn.Conv1d):
    """Padded with zeros on the left, or on the right for a look-ahead."""

    def __init__(self, inputs: int, outputs: int, kernel: int, dilation: int = 1, ahead: bool = False) -> None:
        super().__init__(inputs, outputs, kernel, dilation=dilation)
        width = (kernel - 1) * dilation
        self._pad = (0, width) if ahead else (width, 0)

    def forward(self, x: Tensor) -> Tensor:
        """[1, inputs, time] -> [1, outputs, time]."""
        return super().forward(F.pad(x, self._pad))


class Down(nn.Conv1d):
    """source_downs: of the source's spectrum, to a stage's rate."""

    def __init__(self, inputs: int, outputs: int, rate: int) -> None:
        super().__init__(inputs, outputs, 1 if rate == 1 else 2 * rate, stride=rate)
        self._pad = rate - 1

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.pad(x, (self._pad, 0)))


class Snake(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        alpha = self.alpha[:, None]
        return x + 1.0 / (alpha + QUIETEST) * torch.sin(x * alpha) ** 2


class ResBlock(nn.Module):
    def __init__(self, width: int, kernel: int, dilations: tuple[int, ...]) -> None:
        super().__init__()
        self.convs1 = nn.ModuleList(Causal(width, width, kernel, dilation) for dilation in dilations)
        self.convs2 = nn.ModuleList(Causal(width, width, kernel) for _ in dilations)
        self.activations1, self.activations2 = (nn.ModuleList(Snake(width) for _ in dilations) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        layers = zip(self.activations1, self.convs1, self.activations2, self.convs2, strict=True)
        for snake1, conv1, snake2, conv2 in layers:
            x = x + conv2(snake2(conv1(snake1(x))))
        return x


class Pitch(nn.Module):
    """f0_predictor."""

    def __init__(self, c: F0Config) -> None:
        super().__init__()
        sizes = [(c.in_channels, 4, True), *[(c.cond_channels, 3, False)] * 4]
        layers = [[Causal(i, c.cond_channels, k, ahead=ahead), nn.ELU()] for i, k, ahead in sizes]
        self.condnet = nn.Sequential(*(layer for pair in layers for layer in pair))
        self.classifier = nn.Linear(c.cond_channels, c.num_class)

    def forward(self, mel: Tensor) -> Tensor:
        """mel [1, bands, frames] -> Hz [1, frames]."""
        f0: Tensor = self.classifier(self.condnet(mel).transpose(1, 2))[..., 0].abs()
        return f0


class Source(nn.Module):
    """m_source: harmonics of a pitch, and noise."""

    def __init__(self, c: HiftConfig) -> None:
        super().__init__()
        self._config = c
        self.l_linear = nn.Linear(c.harmonics, 1)

    def forward(self, f0: Tensor, noise: Tensor) -> Tensor:
        """f0 [1, frames] in Hz, noise [1, samples, harmonics] in 0 .. 1 -> [1, 1, samples]."""
        c = self._config
        hz = F.interpolate(f0[:, None], scale_factor=float(c.hop)).transpose(1, 2)
        turns = (hz * torch.arange(1, c.harmonics + 1) / c.sampling_rate % 1).transpose(1, 2)
        frames = F.interpolate(turns, scale_factor=1 / c.hop, mode="linear")
        phase = torch.cumsum(frames, dim=2) * 2 * torch.pi
        sines = torch.sin(F.interpolate(phase * c.hop, scale_factor=float(c.hop))).transpose(1, 2)
        voiced = (hz > c.nsf_voiced_threshold).float()
        loudness = voiced * c.nsf_sigma + (1 - voiced) * c.nsf_alpha / 3
        mixed: Tensor = self.l_linear(c.nsf_alpha * sines * voiced + loudness * noise)
        return mixed.tanh().transpose(1, 2)


class Hift(nn.Module):
    """hift.pt: mel to sound."""

    def __init__(self, c: HiftConfig) -> None:
        super().__init__()
        self._config = c
        spectrum, widths = c.istft_params.n_fft + 2, [c.base_channels >> i for i in range(len(c.upsample_rates) + 1)]
        self.f0_predictor, self.m_source = Pitch(c.f0_predictor), Source(c)
        self.conv_pre = Causal(c.in_channels, widths[0], c.conv_pre_look_right + 1, ahead=True)
        self.ups, self.source_downs, self.source_resblocks, self.resblocks = (nn.ModuleList() for _ in range(4))
        rate = c.hop // c.istft_params.hop_len
        for i, width in enumerate(widths[1:]):
            rate //= c.upsample_rates[i]
            self.ups.append(Causal(widths[i], width, c.upsample_kernel_sizes[i]))
            self.source_downs.append(Down(spectrum, width, rate))
            self.source_resblocks.append(
                ResBlock(width, c.source_resblock_kernel_sizes[i], c.source_resblock_dilation_sizes[i])
            )
            for kernel, dilations in zip(c.resblock_kernel_sizes, c.resblock_dilation_sizes, strict=True):
                self.resblocks.append(ResBlock(width, kernel, dilations))
        self.conv_post = Causal(widths[-1], spectrum, 7)
        self._window = torch.hann_window(c.istft_params.n_fft)

    @torch.inference_mode()
    def forward(self, mel: Tensor, noise: Tensor) -> Tensor:
        """mel [1, bands, frames], noise [1, samples, harmonics] in 0 .. 1 -> sound [1, samples]."""
        f0 = self.f0_predictor(mel.double()).float()
        return self.decode(mel, self.m_source(f0, noise))

    @torch.inference_mode()
    def decode(self, mel: Tensor, source: Tensor) -> Tensor:
        """mel [1, bands, frames], source [1, 1, samples] -> sound [1, samples]."""
        c, (size, hop) = self._config, (self._config.istft_params.n_fft, self._config.istft_params.hop_len)
        transform = torch.stft(source[:, 0], size, hop, size, self._window, return_complex=True)
        spectrum = torch.cat((transform.real, transform.imag), 1)
        x, blocks = self.conv_pre(mel), len(c.resblock_kernel_sizes)
        for i, rate in enumerate(c.upsample_rates):
            x = self.ups[i](F.interpolate(F.leaky_relu(x, c.lrelu_slope), scale_factor=float(rate)))
            if i == len(c.upsample_rates) - 1:
                x = F.pad(x, (1, 0), mode="reflect")
            x = x + self.source_resblocks[i](self.source_downs[i](spectrum))
            x = torch.stack([block(x) for block in self.resblocks[i * blocks : (i + 1) * blocks]]).mean(0)
        x = self.conv_post(F.leaky_relu(x))
        magnitude = x[:, : size // 2 + 1].exp().clip(max=LOUDEST)
        phase = x[:, size // 2 + 1 :].sin()
        bins = torch.complex(magnitude * phase.cos(), magnitude * phase.sin())
        return torch.istft(bins, size, hop, size, self._window).clamp(-c.audio_limit, c.audio_limit)


def load(checkpoint: Path, config: HiftConfig) -> Hift:
    """The net of hift.pt, weight norms folded."""
    net, state = Hift(config), torch.load(checkpoint / "hift.pt", weights_only=True)
    state = {name.replace("generator.", ""): value for name, value in state.items()}
    for name in [name for name in state if name.endswith(f"{NORM}1")]:
        length, kernel = state.pop(name.replace(f"{NORM}1", f"{NORM}0")), state.pop(name)
        state[name.replace(f"{NORM}1", "weight")] = length * kernel / kernel.flatten(1).norm(dim=1)[:, None, None]
    net.load_state_dict(state)
    net.f0_predictor.double()
    return net.eval()
