"""The two halves of the Qwen3-TTS 12 Hz codec, read from speech_tokenizer/config.json (docs/systems/qwen3tts.md 1)."""

import math
from pathlib import Path
from typing import Annotated, Self

import msgspec
from msgspec import Meta

from voxport.audio.files import MAX_RATE
from voxport_exporters.checkpoints.jsonfile import Layers, NotNegative, Positive, Rates, Size, parse, read
from voxport_exporters.nets.checks import require
from voxport_exporters.nets.ops import ACTIVATIONS

DILATIONS = (1, 3, 9)  # hard-coded upstream, like the kernels below
KERNEL, PRE_KERNEL, DEPTHWISE_KERNEL = 7, 3, 7
DOWNSAMPLE = 2  # stride of the encoder's last convolution, hard-coded upstream


class DecoderConfig(msgspec.Struct, frozen=True):
    """`decoder_config` of speech_tokenizer/config.json, defaults as upstream's code has them."""

    codebook_size: Size = 2048
    codebook_dim: Size = 512
    num_quantizers: Size = 16
    latent_dim: Size = 1024
    hidden_size: Size = 1024
    intermediate_size: Size = 3072
    num_hidden_layers: Layers = 8
    num_attention_heads: Size = 16
    num_key_value_heads: Size = 16
    head_dim: Size | None = None
    attention_bias: bool = False
    hidden_act: str = "silu"
    rms_norm_eps: NotNegative = 1e-5
    rope_theta: Positive = 10000
    sliding_window: Size = 72  # frames a frame attends to, itself included
    decoder_dim: Size = 1536
    upsample_rates: Rates = (8, 5, 4, 3)
    upsampling_ratios: Rates = (2, 2)

    @classmethod
    def of(cls, params: object, where: str = "decoder_config") -> Self:
        """From the dict of config.json, whose further keys do not concern this net.

        Raises ValueError that names the field, or what does not hold between several.
        """
        return parse(params, cls, where)

    def __post_init__(self) -> None:
        require(
            self.num_attention_heads % self.num_key_value_heads == 0,
            f"num_attention_heads {self.num_attention_heads} is no multiple of num_key_value_heads "
            f"{self.num_key_value_heads}",
        )
        require(self.head_size % 2 == 0 < self.head_size, f"head_dim is {self.head_size}, wanted an even one (rotary)")
        require(
            self.hidden_act in ACTIVATIONS,
            f"hidden_act is {self.hidden_act!r}, wanted one of {', '.join(ACTIVATIONS)}",
        )
        require(self.num_quantizers >= 2, f"num_quantizers is {self.num_quantizers}, wanted 2 or more")
        require(self.codebook_dim >= 2, f"codebook_dim is {self.codebook_dim}, wanted 2 or more: half of it is in use")
        require(bool(self.upsample_rates), "upsample_rates is empty, wanted one or more")
        require(
            self.channels[-1] > 0,
            f"decoder_dim {self.decoder_dim} leaves no channel after {len(self.upsample_rates)} halvings, one per "
            "entry of upsample_rates",
        )

    @property
    def head_size(self) -> int:
        """Channels of one attention head."""
        return self.head_dim or self.hidden_size // self.num_attention_heads

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
        past, heads, size = self.sliding_window - 1, self.num_key_value_heads, self.head_size
        if not past:
            return {}
        both = {"k": (heads, size, past), "v": (heads, past, size)}
        return {f"{name}.{i}": shape for i in range(self.num_hidden_layers) for name, shape in both.items()}


class EncoderConfig(msgspec.Struct, frozen=True):
    """`encoder_config` of speech_tokenizer/config.json (a MimiConfig of transformers, with its defaults)."""

    audio_channels: Size = 1
    num_filters: Size = 64
    upsampling_ratios: Rates | None = None  # the encoder goes through them from the last to the first
    kernel_size: Size = 7
    last_kernel_size: Size = 3
    residual_kernel_size: Size = 3
    num_residual_layers: Annotated[int, Meta(ge=0, le=64)] = 1
    dilation_growth_rate: Size = 2
    compress: Size = 2
    use_conv_shortcut: bool = False
    use_causal_conv: bool = True
    pad_mode: str = "constant"
    sampling_rate: Size = 24000
    _frame_rate: Positive = 12.5
    hidden_size: Size = 512
    intermediate_size: Size = 2048
    num_hidden_layers: Layers = 8
    num_attention_heads: Size = 8
    num_key_value_heads: Size = 8
    head_dim: Size | None = None
    attention_bias: bool = False
    hidden_act: str = "gelu"
    norm_eps: NotNegative = 1e-5
    rope_theta: Positive = 10000
    codebook_size: Size = 2048
    vector_quantization_hidden_dimension: Size = 256
    num_quantizers: Size = 32
    num_semantic_quantizers: Size = 1

    @classmethod
    def of(cls, params: object, where: str = "encoder_config") -> Self:
        """From the dict of config.json, whose further keys do not concern this net.

        Raises ValueError that names the field, or what does not hold between several.
        """
        return parse(params, cls, where)

    def __post_init__(self) -> None:
        require(self.audio_channels == 1, f"audio_channels is {self.audio_channels}, only 1 is supported")
        require(self.use_causal_conv, "use_causal_conv is false, only true is supported")
        require(self.pad_mode == "constant", f"pad_mode is {self.pad_mode!r}, only 'constant' is supported")
        require(
            self.num_attention_heads % self.num_key_value_heads == 0,
            f"num_attention_heads {self.num_attention_heads} is no multiple of num_key_value_heads "
            f"{self.num_key_value_heads}",
        )
        require(self.head_size % 2 == 0 < self.head_size, f"head_dim is {self.head_size}, wanted an even one (rotary)")
        require(
            self.hidden_act in ACTIVATIONS,
            f"hidden_act is {self.hidden_act!r}, wanted one of {', '.join(ACTIVATIONS)}",
        )
        require(
            self.num_quantizers > self.num_semantic_quantizers,
            f"num_quantizers {self.num_quantizers} is not more than num_semantic_quantizers "
            f"{self.num_semantic_quantizers}",
        )
        require(
            self.compress <= self.num_filters or not self.num_residual_layers,
            f"compress {self.compress} leaves none of num_filters {self.num_filters}",
        )
        require(
            self._frame_rate <= self._steps,
            f"_frame_rate {self._frame_rate} is more than the {self._steps} steps per second that the rates make",
        )

    @property
    def ratios(self) -> tuple[int, ...]:
        """Steps that become one, as the encoder goes through them."""
        return tuple(reversed(self.upsampling_ratios or (8, 6, 5, 4)))

    @property
    def head_size(self) -> int:
        """Channels of one attention head."""
        return self.head_dim or self.hidden_size // self.num_attention_heads

    @property
    def hop(self) -> int:
        """Samples per step of the transformer."""
        return math.prod(self.ratios)

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
        for i, ratio in enumerate(self.ratios):
            for j in range(self.num_residual_layers):
                tails[f"block.{i}.{j}"] = (width, (self.residual_kernel_size - 1) * self.dilation_growth_rate**j)
            tails[f"block.{i}.down"] = (width, ratio)
            width *= 2
        tails["out"] = (width, self.last_kernel_size - 1)
        return {name: shape for name, shape in tails.items() if shape[1]}


class CodecConfig(msgspec.Struct, frozen=True):
    """speech_tokenizer/config.json, defaults as upstream's code has them."""

    decoder_config: DecoderConfig
    encoder_config: EncoderConfig
    encoder_valid_num_quantizers: Size = 16  # codes per frame that the encoder makes
    output_sample_rate: Annotated[int, Meta(ge=1, le=MAX_RATE)] = 24000
    decode_upsample_rate: Size = 1920  # samples per frame
    encode_downsample_rate: Size = 1920

    def __post_init__(self) -> None:
        for name, rate, frame in (
            ("decode_upsample_rate", self.decode_upsample_rate, self.decoder_config.frame),
            ("encode_downsample_rate", self.encode_downsample_rate, self.encoder_config.frame),
        ):
            require(rate == frame, f"{name} is {rate}, the rates make {frame} samples per frame")
        books, stored = self.encoder_valid_num_quantizers, self.encoder_config.num_quantizers
        require(books <= stored, f"encoder_valid_num_quantizers is {books}, num_quantizers of encoder_config {stored}")


def read_config(path: Path) -> CodecConfig:
    """The config.json of speech_tokenizer/. Raises FileNotFoundError or ValueError that name the file and the key."""
    return parse(read(path), CodecConfig, str(path))
