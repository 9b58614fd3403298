"""SNAC codec: release layout -> graphs `codec_decode` and `codec_encode`, for systems that speak SNAC codes."""

import math
from collections.abc import Iterator
from pathlib import Path

import msgspec

from voxport.codecs.snac import SnacSection
from voxport.graphs.stage import Stage, TensorSpec
from voxport.recipe import Recipe, Rule
from voxport_exporters.checkpoints import folder, jsonfile
from voxport_exporters.checkpoints.weights import Weights
from voxport_exporters.codecs.snac.config import DILATIONS, KERNEL, SnacConfig
from voxport_exporters.codecs.snac.decoder import Decoder
from voxport_exporters.codecs.snac.encoder import Encoder, encode_unit, reach
from voxport_exporters.graphs.part import Part

RECIPES = {
    "fp32": Recipe("fp32"),
    # elsewhere int8 does not pay: depthwise convolutions have next to no arithmetic (docs/performance.md 3.4)
    "int8": Recipe("int8", [Rule("int8", stage="codec_decode", weights="blocks.*.up.weight")]),
}


def find(root: Path) -> tuple[Path, Path]:
    """(config.json, weights) of a release folder. Raises FileNotFoundError that says what is missing."""
    config = root / "config.json"
    if not config.is_file():
        raise FileNotFoundError(f"{config}: no such file; is this a SNAC folder?")
    return config, folder.weights(root, "pytorch_model.bin", "model.safetensors")


def read_config(path: Path) -> SnacConfig:
    """A release's config.json. Raises ValueError in one line when it is not one."""
    return SnacConfig.of(jsonfile.read(path), f"{path}: not a SNAC config.json")


def parts(weights: Weights, config: SnacConfig, *, noise: bool = True) -> Iterator[Part]:
    """`codec_decode`, `codec_encode`. Every key of `weights` is accounted for when the last part has been taken.

    `noise=False` leaves the noise blocks out of the decoder: cheaper, without draws, and not upstream's sound.
    """
    if config.noise and not noise:
        weights.drop("decoder.model.*.linear.*", "the decoder is exported without noise")
        config = msgspec.structs.replace(config, noise=False)
    step = max(1, config.frame // config.unit)
    yield Part(_decode_stage(config), Decoder(weights, config), axes={"units": step})
    encode = Part(_encode_stage(config), Encoder(weights, config), axes={"units": 1})
    weights.finish()
    yield encode


def section(config: SnacConfig) -> SnacSection:
    """The codec's part of its system's section of the manifest."""
    before, after = reach(config)
    strides = list(config.vq_strides)
    return SnacSection(_state(config)[1], config.codebook_size, strides, before, after)


def _decode_stage(config: SnacConfig) -> Stage:
    unit = config.unit
    rates = config.upsampled if config.noise else []
    return Stage(
        "codec_decode",
        inputs=(
            TensorSpec("codes", "int64", (len(config.vq_strides), "units", unit)),
            TensorSpec("real", "float32", ("units", unit)),
            *(TensorSpec(f"noise.{i}", "float32", ("units", unit * rate)) for i, rate in enumerate(rates)),
        ),
        outputs=(TensorSpec("audio", "float32", ("units", unit * config.hop)),),
        state=_state(config)[0],
    )


def _state(config: SnacConfig) -> tuple[tuple[TensorSpec, ...], int]:
    """(state of the decoder in order, its delay in samples): what every convolution must see again."""
    state: list[TensorSpec] = []

    def keep(name: str, *shape: int) -> None:
        if shape[-1]:
            state.append(TensorSpec(name, "float32", shape))

    half, widths = KERNEL // 2, config.widths
    keep("front", 1, config.latent, 2 * half)
    wait = -half % config.unit
    keep("window", 1, widths[0], wait)
    delay = half + wait  # in columns of the stream as it is at this layer
    for i, (rate, inputs, outputs) in enumerate(zip(config.decoder_rates, widths, widths[1:], strict=False)):
        keep(f"up.{i}", 1, inputs, 1)
        delay = delay * rate + math.ceil(rate / 2)
        if config.noise:
            keep(f"past_noise.{i}", delay)
        for j, dilation in enumerate(DILATIONS):
            keep(f"unit.{i}.{j}", 1, outputs, 2 * half * dilation)
            delay += half * dilation
    keep("last", 1, widths[-1], 2 * half)
    delay += half
    return (TensorSpec("past_real", "float32", (-(-delay // config.hop),)), *state), delay


def _encode_stage(config: SnacConfig) -> Stage:
    unit = encode_unit(config)
    return Stage(
        "codec_encode",
        inputs=(TensorSpec("audio", "float32", ("units", unit * math.prod(config.encoder_rates))),),
        outputs=tuple(
            TensorSpec(f"codes.{i}", "int64", ("units", unit // stride)) for i, stride in enumerate(config.vq_strides)
        ),
    )
