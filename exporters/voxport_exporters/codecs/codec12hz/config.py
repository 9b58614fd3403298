"""The two halves of the Qwen3-TTS 12 Hz codec, read from speech_tokenizer/config.json (docs/systems/qwen3tts.md 1)."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Self

from voxport_exporters.nets.ops import ACTIVATIONS

DILATIONS = (1, 3, 9)  # hard-coded upstream, like the kernels below
KERNEL, PRE_KERNEL, DEPTHWISE_KERNEL = 7, 3, 7
DOWNSAMPLE = 2  # stride of the encoder's last convolution, hard-coded upstream


@dataclass(frozen=True)
class DecoderConfig:
    """`decoder_config` of speech_tokenizer/config.json, defaults as upstream's code has them."""

    codebook_size: int = 2048
    codebook_dim: int = 512
    num_quantizers: int = 16
    latent_dim: int = 1024
    hidden_size: int = 1024
    intermediate_size: int = 3072
    num_hidden_layers: int = 8
    num_attention_heads: int = 16
    num_key_value_heads: int = 16
    head_dim: int = 0  # hidden_size / num_attention_heads, where the config has none
    attention_bias: bool = False
    hidden_act: str = "silu"
    rms_norm_eps: float = 1e-5
    rope_theta: float = 10000
    sliding_window: int = 72  # frames a frame attends to, itself included
    decoder_dim: int = 1536
    upsample_rates: tuple[int, ...] = (8, 5, 4, 3)
    upsampling_ratios: tuple[int, ...] = (2, 2)

    @classmethod
    def of(cls, params: Mapping[str, Any]) -> Self:
        """From the dict of config.json, whose further keys do not concern this net. ValueError names a broken law."""
        config = cls(**_known(cls, params))
        size = config.head_dim or config.hidden_size // config.num_attention_heads
        config = replace(config, head_dim=size)
        _hold(
            "decoder_config",
            {
                "num_attention_heads is a multiple of num_key_value_heads": config.num_attention_heads
                % config.num_key_value_heads
                == 0,
                "head_dim is even (rotary)": config.head_dim % 2 == 0,
                "sliding_window is at least 1": isinstance(config.sliding_window, int) and config.sliding_window >= 1,
                f"hidden_act is one of {', '.join(ACTIVATIONS)}": config.hidden_act in ACTIVATIONS,
                "num_quantizers is at least 2": config.num_quantizers >= 2,
                "there is at least one of upsample_rates": len(config.upsample_rates) > 0,
                "decoder_dim leaves a channel after every halving": config.channels[-1] > 0,
            },
        )
        return config

    @property
    def channels(self) -> list[int]:
        """Of the waveform decoder: before the first block, and after each."""
        return [self.decoder_dim // 2**i for i in range(len(self.upsample_rates) + 1)]

    @property
    def frame(self) -> int:
        """Samples per frame."""
        return math.prod(self.upsample_rates) * math.prod(self.upsampling_ratios)

    @property
    def steps(self) -> list[int]:
        """Per frame, that go into each block."""
        return [math.prod((*self.upsampling_ratios, *self.upsample_rates[:i])) for i in range(len(self.upsample_rates))]

    @property
    def tails(self) -> dict[str, tuple[int, ...]]:
        """Name and shape of every convolution's state, in the order the net runs."""
        tails: dict[str, tuple[int, ...]] = {"pre_conv": (PRE_KERNEL - 1, self.codebook_dim)}
        for i in range(len(self.upsampling_ratios)):
            tails[f"upsample.{i}"] = (self.latent_dim, DEPTHWISE_KERNEL - 1)
        tails["decoder.0"] = (KERNEL - 1, self.latent_dim)
        for i, channels in enumerate(self.channels[:-1]):
            tails[f"decoder.{i + 1}.up"] = (1, channels)
            for j, dilation in enumerate(DILATIONS):
                tails[f"decoder.{i + 1}.{j}"] = (self.channels[i + 1], (KERNEL - 1) * dilation)
        return tails | {"decoder.out": (self.channels[-1], KERNEL - 1)}

    @property
    def caches(self) -> dict[str, tuple[int, ...]]:
        """Name and shape of the transformer's keys and values; a window of one frame needs none."""
        kept, shape = self.sliding_window - 1, (self.num_key_value_heads, self.head_dim)
        both = [("k", (*shape, kept)), ("v", (shape[0], kept, shape[1]))]
        return {f"{n}.{i}": s for i in range(self.num_hidden_layers) for n, s in both} if kept else {}


@dataclass(frozen=True)
class EncoderConfig:
    """`encoder_config` of speech_tokenizer/config.json (a MimiConfig of transformers, with its defaults)."""

    audio_channels: int = 1
    num_filters: int = 64
    upsampling_ratios: tuple[int, ...] = (8, 6, 5, 4)  # the encoder goes through them from the last to the first
    kernel_size: int = 7
    last_kernel_size: int = 3
    residual_kernel_size: int = 3
    num_residual_layers: int = 1
    dilation_growth_rate: int = 2
    compress: int = 2
    use_conv_shortcut: bool = False
    use_causal_conv: bool = True
    pad_mode: str = "constant"
    sampling_rate: int = 24000
    _frame_rate: float = 12.5
    hidden_size: int = 512
    intermediate_size: int = 2048
    num_hidden_layers: int = 8
    num_attention_heads: int = 8
    num_key_value_heads: int = 8
    head_dim: int = 64
    attention_bias: bool = False
    hidden_act: str = "gelu"
    norm_eps: float = 1e-5
    rope_theta: float = 10000
    codebook_size: int = 2048
    codebook_dim: int = 256
    vector_quantization_hidden_dimension: int = 256
    num_quantizers: int = 32
    num_semantic_quantizers: int = 1

    @classmethod
    def of(cls, params: Mapping[str, Any]) -> Self:
        """From the dict of config.json, whose further keys do not concern this net. ValueError names a broken law."""
        config = cls(**_known(cls, params))
        _hold(
            "encoder_config",
            {
                "audio_channels is 1": config.audio_channels == 1,
                "use_causal_conv is true": config.use_causal_conv,
                "pad_mode is constant": config.pad_mode == "constant",
                "num_attention_heads is a multiple of num_key_value_heads": config.num_attention_heads
                % config.num_key_value_heads
                == 0,
                "head_dim is even (rotary)": config.head_dim % 2 == 0,
                f"hidden_act is one of {', '.join(ACTIVATIONS)}": config.hidden_act in ACTIVATIONS,
                "num_quantizers is more than num_semantic_quantizers": config.num_quantizers
                > config.num_semantic_quantizers
                > 0,
            },
        )
        return config

    @property
    def hop(self) -> int:
        """Samples per step of the transformer."""
        return math.prod(self.upsampling_ratios)

    @property
    def stride(self) -> int:
        """Steps of the transformer per frame: 1 when its rate is the frame rate already."""
        return 1 if self._steps == self._frame_rate else DOWNSAMPLE

    @property
    def reach(self) -> int:
        """Kernel of the downsampling convolution, in steps."""
        return 2 * int(self._steps / self._frame_rate)

    @property
    def _steps(self) -> int:
        return math.ceil(self.sampling_rate / self.hop)

    @property
    def frame(self) -> int:
        """Samples per frame."""
        return self.hop * self.stride

    @property
    def tails(self) -> dict[str, tuple[int, int]]:
        """Name and shape of every convolution's state, in the order the net runs."""
        width, tails = self.num_filters, {"in": (1, self.kernel_size - 1)}
        for i, ratio in enumerate(reversed(self.upsampling_ratios)):
            for j in range(self.num_residual_layers):
                tails[f"block.{i}.{j}"] = (width, (self.residual_kernel_size - 1) * self.dilation_growth_rate**j)
            tails[f"block.{i}.down"] = (width, ratio)
            width *= 2
        tails["out"] = (width, self.last_kernel_size - 1)
        return {name: shape for name, shape in tails.items() if shape[1]}


def _known(cls: type, params: Mapping[str, Any]) -> dict[str, Any]:
    names = {f.name for f in fields(cls)}
    return {k: tuple(v) if isinstance(v, list) else v for k, v in params.items() if k in names}


def _hold(where: str, laws: Mapping[str, bool]) -> None:
    for law, holds in laws.items():
        if not holds:
            raise ValueError(f"{where}: this must hold and does not: {law}")
