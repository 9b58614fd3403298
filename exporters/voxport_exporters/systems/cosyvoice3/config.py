"""The config of a Fun-CosyVoice3 checkpoint: cosyvoice3.yaml and CosyVoice-BlankEN/config.json
(docs/systems/cosyvoice3.md 1). A key that is absent has the default of upstream's class, which is named beside it.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from voxport_exporters.checkpoints import jsonfile
from voxport_exporters.checkpoints.jsonfile import Layers, NotNegative, Positive, Size, parse
from voxport_exporters.nets.checks import require
from voxport_exporters.nets.decoder_config import DecoderConfig
from voxport_exporters.systems.cosyvoice3 import yamlfile

YAML = "cosyvoice3.yaml"
QWEN = "CosyVoice-BlankEN"  # the folder of the language model's config and tokenizer
SPECIAL = 200  # ids behind the speech tokens: sos, eos, task, fill, and more that only stop (llm.py, CosyVoice3LM)
Kernels = Annotated[tuple[Size, ...], Meta(min_length=1, max_length=64)]
Dilations = Annotated[tuple[Kernels, ...], Meta(min_length=1, max_length=64)]


class Sampling(msgspec.Struct, frozen=True):
    """Repetition-aware sampling (utils/common.py, ras_sampling)."""

    top_p: Annotated[float, Meta(gt=0, le=1)] = 0.8
    top_k: Size = 25
    win_size: Size = 10
    tau_r: NotNegative = 0.1


class LlmConfig(msgspec.Struct, frozen=True):
    """llm/llm.py, CosyVoice3LM."""

    llm_input_size: Size
    llm_output_size: Size
    speech_token_size: Size
    mix_ratio: tuple[Size, Size] = (5, 15)  # text tokens and speech tokens in turn, when text comes in pieces
    sampling: Sampling = msgspec.field(default_factory=Sampling)

    @property
    def rows(self) -> int:
        """Of the speech embedding and of the head."""
        return self.speech_token_size + SPECIAL


class LookaheadConfig(msgspec.Struct, frozen=True):
    """transformer/upsample_encoder.py, PreLookaheadLayer."""

    in_channels: Size
    channels: Size
    pre_lookahead_len: Size = 1


class CfmConfig(msgspec.Struct, frozen=True):
    """flow/flow_matching.py: the keys that inference reads."""

    t_scheduler: str = "cosine"
    inference_cfg_rate: NotNegative = 0.7


class DitConfig(msgspec.Struct, frozen=True):
    """flow/DiT/dit.py, DiT."""

    dim: Size
    depth: Layers = 8
    heads: Size = 8
    dim_head: Size = 64
    ff_mult: Size = 4
    mel_dim: Size = 80
    mu_dim: Size | None = None
    spk_dim: Size | None = None
    out_channels: Size | None = None
    static_chunk_size: Size = 50  # frames of a block: what a streamed frame sees ends with its block
    long_skip_connection: bool = False

    @property
    def mu(self) -> int:
        """Channels of what the tokens say."""
        return self.mu_dim or self.mel_dim

    @property
    def speaker(self) -> int:
        """Channels of the projected speaker vector; 0: the net takes none."""
        return self.spk_dim or 0

    @property
    def inner(self) -> int:
        """Channels of queries, keys and values."""
        return self.heads * self.dim_head


class FlowConfig(msgspec.Struct, frozen=True):
    """flow/flow.py, CausalMaskedDiffWithDiT, with what it is built from."""

    input_size: Size
    output_size: Size
    spk_embed_dim: Size
    vocab_size: Size
    token_mel_ratio: Size
    pre_lookahead_len: Size
    lookahead: LookaheadConfig
    cfm: CfmConfig
    dit: DitConfig


class F0Config(msgspec.Struct, frozen=True):
    """hifigan/f0_predictor.py, CausalConvRNNF0Predictor."""

    in_channels: Size = 80
    cond_channels: Size = 512
    num_class: Size = 1


class StftConfig(msgspec.Struct, frozen=True):
    n_fft: Size = 16
    hop_len: Size = 4


class HiftConfig(msgspec.Struct, frozen=True):
    """hifigan/generator.py, CausalHiFTGenerator."""

    f0_predictor: F0Config
    in_channels: Size = 80
    base_channels: Size = 512
    nb_harmonics: Annotated[int, Meta(ge=0, le=1024)] = 8
    sampling_rate: Size = 22050
    nsf_alpha: NotNegative = 0.1
    nsf_sigma: NotNegative = 0.003
    nsf_voiced_threshold: NotNegative = 10
    upsample_rates: Kernels = (8, 8)
    upsample_kernel_sizes: Kernels = (16, 16)
    istft_params: StftConfig = msgspec.field(default_factory=StftConfig)
    resblock_kernel_sizes: Kernels = (3, 7, 11)
    resblock_dilation_sizes: Dilations = ((1, 3, 5), (1, 3, 5), (1, 3, 5))
    source_resblock_kernel_sizes: Kernels = (7, 11)
    source_resblock_dilation_sizes: Dilations = ((1, 3, 5), (1, 3, 5))
    lrelu_slope: NotNegative = 0.1
    audio_limit: Positive = 0.99
    conv_pre_look_right: Size = 4

    @property
    def harmonics(self) -> int:
        """Sines of the source: the fundamental and its overtones."""
        return self.nb_harmonics + 1

    @property
    def hop(self) -> int:
        """Samples per mel frame."""
        hop = self.istft_params.hop_len
        for rate in self.upsample_rates:
            hop *= rate
        return hop

    def __post_init__(self) -> None:
        for name in ("upsample_kernel_sizes", "source_resblock_kernel_sizes", "source_resblock_dilation_sizes"):
            count = len(getattr(self, name))
            require(count == len(self.upsample_rates), f"{name} has {count} entries, upsample_rates another number")
        require(
            len(self.resblock_kernel_sizes) == len(self.resblock_dilation_sizes),
            "resblock_kernel_sizes and resblock_dilation_sizes have different lengths",
        )
        require(
            self.base_channels % 2 ** len(self.upsample_rates) == 0,
            f"base_channels {self.base_channels} cannot be halved {len(self.upsample_rates)} times",
        )


class MelConfig(msgspec.Struct, frozen=True):
    """matcha/utils/audio.py, mel_spectrogram: the mel of the prompt."""

    n_fft: Size
    num_mels: Size
    sampling_rate: Size
    hop_size: Size
    win_size: Size
    fmin: NotNegative = 0
    fmax: Positive | None = None
    center: bool = False

    def __post_init__(self) -> None:
        longest, high = max(self.win_size, self.hop_size), self.fmax or self.sampling_rate / 2
        require(longest <= self.n_fft, f"n_fft {self.n_fft} is shorter than win_size or hop_size ({longest})")
        require(self.fmin < high, f"fmin {self.fmin:g} is not below fmax ({high:g})")
        require(not self.center, "center is true; wanted a mel whose frames stand for one hop each")


class Config(msgspec.Struct, frozen=True):
    """A whole checkpoint's config."""

    sample_rate: Size
    token_frame_rate: Size  # speech tokens per second
    llm: LlmConfig
    decoder: DecoderConfig  # of the language model's layers
    flow: FlowConfig
    hift: HiftConfig
    mel: MelConfig

    @property
    def frame(self) -> int:
        """Samples per speech token."""
        return self.flow.token_mel_ratio * self.hift.hop


def read_config(root: Path) -> Config:
    """The config of the checkpoint in `root`. FileNotFoundError or ValueError in one line that names the file."""
    path = root / YAML
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; is {root} a Fun-CosyVoice3 checkpoint?")
    top = yamlfile.read(path)
    decoder = DecoderConfig.of(jsonfile.read(root / QWEN / "config.json"), str(root / QWEN / "config.json"))
    flow = _section(top, "flow", "CausalMaskedDiffWithDiT", path)
    cfm = _section(flow, "decoder", "CausalConditionalCFM", path)
    parts = {
        "lookahead": _section(flow, "pre_lookahead_layer", "PreLookaheadLayer", path),
        "cfm": (cfm.get("cfm_params") or {}).get("content", {}),
        "dit": _section(cfm, "estimator", "DiT", path),
    }
    hift = _section(top, "hift", "CausalHiFTGenerator", path)
    _section(hift, "f0_predictor", "CausalConvRNNF0Predictor", path)
    llm = _section(top, "llm", "CosyVoice3LM", path)
    try:
        config = Config(
            sample_rate=_number(top, "sample_rate"),
            token_frame_rate=_number(top, "token_frame_rate"),
            llm=parse(llm, LlmConfig, "llm"),
            decoder=decoder,
            flow=parse(flow | parts, FlowConfig, "flow"),
            hift=parse(hift, HiftConfig, "hift"),
            mel=parse(top.get("feat_extractor"), MelConfig, "feat_extractor"),
        )
        _check(config)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return config


def _section(parent: Mapping[str, Any], name: str, kind: str, path: Path) -> dict[str, Any]:
    """The mapping `name`, which upstream makes a `kind` of. ValueError when it is another."""
    section = parent.get(name)
    tag = str(section.get(yamlfile.TAG, "")) if isinstance(section, dict) else ""
    if not isinstance(section, dict) or tag.rpartition(".")[2] != kind:
        found = tag.rpartition(".")[2] or "no such section"
        raise ValueError(f"{path}: {name}: wanted a {kind}, found {found}; is this a Fun-CosyVoice3 checkpoint?")
    return section


def _number(top: Mapping[str, Any], name: str) -> int:
    value = top.get(name)
    require(isinstance(value, int) and not isinstance(value, bool) and value > 0, f"{name} is {value!r}, wanted a size")
    assert isinstance(value, int)
    return value


def _check(config: Config) -> None:
    """Numbers that are said in two places must agree."""
    llm, flow, hift, mel, dit = config.llm, config.flow, config.hift, config.mel, config.flow.dit
    width = config.decoder.width
    require(
        llm.llm_input_size == llm.llm_output_size == width,
        f"llm: llm_input_size {llm.llm_input_size}, llm_output_size {llm.llm_output_size}, but {QWEN} is {width} wide",
    )
    require(
        llm.speech_token_size == flow.vocab_size,
        f"llm: speech_token_size {llm.speech_token_size}, but flow: vocab_size {flow.vocab_size}",
    )
    require(
        flow.lookahead.in_channels == flow.input_size and flow.lookahead.pre_lookahead_len == flow.pre_lookahead_len,
        "flow: pre_lookahead_layer disagrees with input_size or pre_lookahead_len",
    )
    require(
        dit.mu == flow.input_size and (dit.out_channels or dit.mel_dim) == dit.mel_dim == flow.output_size,
        f"flow: mel_dim {dit.mel_dim}, mu_dim {dit.mu}, out_channels {dit.out_channels} disagree with "
        f"input_size {flow.input_size} or output_size {flow.output_size}",
    )
    require(dit.speaker in (0, flow.output_size), f"flow: spk_dim {dit.speaker} is not output_size {flow.output_size}")
    require(flow.cfm.t_scheduler in ("cosine", "linear"), f"flow: t_scheduler {flow.cfm.t_scheduler!r} is not known")
    require(
        hift.in_channels == hift.f0_predictor.in_channels == flow.output_size == mel.num_mels,
        f"the mel has {flow.output_size} bands in flow, {hift.in_channels} in hift, {mel.num_mels} in feat_extractor",
    )
    require(
        hift.sampling_rate == config.sample_rate == mel.sampling_rate,
        f"sample_rate is {config.sample_rate}, but {hift.sampling_rate} in hift, {mel.sampling_rate} in feat_extractor",
    )
    require(
        hift.hop == mel.hop_size, f"hift makes {hift.hop} samples per frame, feat_extractor's hop is {mel.hop_size}"
    )
    require(
        config.frame * config.token_frame_rate == config.sample_rate,
        f"{config.token_frame_rate} tokens of {config.frame} samples are not the sample_rate {config.sample_rate}",
    )
