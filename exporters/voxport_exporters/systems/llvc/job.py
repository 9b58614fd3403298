"""LLVC: release layout -> bundle of `prenet` (when the config has one) and `convert`."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import msgspec
from safetensors.numpy import save_file

from voxport.audio.files import MAX_RATE
from voxport.bundle import Bundle
from voxport.graphs.stage import Stage, TensorSpec
from voxport.recipe import Recipe, Rule
from voxport.systems.llvc.converter import Converter as Runtime
from voxport.systems.llvc.section import Section
from voxport_exporters.checkpoints.weights import Weights
from voxport_exporters.graphs.part import Part
from voxport_exporters.pack import Job
from voxport_exporters.systems.llvc.config import LlvcConfig
from voxport_exporters.systems.llvc.net import Converter, PreNet

RECIPES = {
    "fp32": Recipe("fp32"),
    # in_conv and out_conv hold 2 % of the weights and cost 12 dB (docs/systems/llvc.md 7).
    "int8": Recipe("int8", [Rule("int8"), Rule("fp32", weights="in_conv*"), Rule("fp32", weights="out_conv*")]),
}


def job(root: Path, variant: str | None = None, config: Path | None = None, weights: Path | None = None) -> Job:
    """Finds the checkpoint in `root` (release layout) unless `config` and `weights` name its two files.

    `variant` chooses among several in one folder. FileNotFoundError or ValueError say in one line what is missing.
    """
    if (config is None) != (weights is None):
        raise ValueError("--config and --weights go together: give both, or a folder in the release layout")
    if config is None or weights is None:
        variant, config, weights = _find(root, variant)
    net, rate = read_config(config)
    return Job(
        system="llvc",
        variant=variant or weights.parent.name,
        sample_rate=rate,
        parts=parts(Weights.open(weights, inside="model"), net),
        checkpoint=(config, weights),
        root=root,
        section=Section(hop=net.L),
        golden=_golden,
    )


def _find(root: Path, variant: str | None) -> tuple[str, Path, Path]:
    """(variant, config.json, newest G_*.pth) of models/checkpoints/<variant> and experiments/<variant>."""
    if not root.is_dir():
        raise FileNotFoundError(f"{root}: no such folder")
    found = sorted({p.parent.name for p in root.glob("models/checkpoints/*/G_*.pth")})
    if variant is None:
        if len(found) != 1:
            raise ValueError(
                f"{root}: wanted models/checkpoints/VARIANT/G_*.pth, found {', '.join(found) or 'none'}"
                + ("; choose one with --variant" if found else "; is this an LLVC checkpoint folder?")
            )
        variant = found[0]
    elif variant not in found:
        raise FileNotFoundError(f"{root}: no models/checkpoints/{variant}/G_*.pth (found {', '.join(found) or 'none'})")
    steps = root.glob(f"models/checkpoints/{variant}/G_*.pth")
    weights = max(steps, key=lambda p: (len(p.stem), p.stem))  # G_500000 after G_50000
    config = root / "experiments" / variant / "config.json"
    if not config.is_file():
        config = Path(__file__).parent / "configs" / f"{variant}.json"  # the hub repository has none
    if not config.is_file():
        raise FileNotFoundError(f"{root}: no experiments/{variant}/config.json; give it with --config and --weights")
    return variant, config, weights


def read_config(path: Path) -> tuple[LlvcConfig, int]:
    """(net config, sample rate in Hz) of a config.json."""
    try:
        held = json.loads(path.read_text())
        params, rate = held["model_params"], held["data"]["sr"]
    except OSError as error:
        raise FileNotFoundError(f"{path}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: not an LLVC config.json (wanted model_params and data.sr): {error}") from None
    try:
        config = LlvcConfig.of(params)
        msgspec.convert(msgspec.to_builtins(config), LlvcConfig)  # every value of its declared type
        rate = msgspec.convert(rate, Annotated[int, msgspec.Meta(ge=1, le=MAX_RATE)])
    except (ValueError, TypeError, ArithmeticError, msgspec.ValidationError) as error:
        raise ValueError(f"{path}: {error}") from None
    pre = config.convnet_config
    if min([config.enc_dim, *pre.dilations, *pre.out_channels]) < 1:
        raise ValueError(f"{path}: model_params: enc_dim, dilations, out_channels >= 1 does not hold")
    return config, rate


def _golden(bundle: Bundle, folder: Path) -> None:
    """What this bundle makes of a fixed signal, for `voxport verify` on the target machine."""
    save_file(Runtime(bundle).rehearse(), folder / "rehearsal.safetensors")


def parts(weights: Weights, config: LlvcConfig) -> Iterator[Part]:
    """The graphs of one checkpoint. Every key of `weights` is accounted for before the first part is handed out."""
    pre = config.convnet_config
    prenet = PreNet(weights.at("convnet_pre"), pre) if pre.convnet_prenet else None
    convert = Converter(weights, config)
    weights.finish()
    if prenet is not None:
        yield Part(_prenet_stage(config), prenet, axes={"samples": config.chunk})
    yield Part(_convert_stage(config), convert, axes={"chunks": 1})


def _prenet_stage(config: LlvcConfig) -> Stage:
    pre = config.convnet_config
    return Stage(
        "prenet",
        inputs=(TensorSpec("audio", "float32", ("samples",)),),
        outputs=(TensorSpec("filtered", "float32", ("samples",)),),
        state=tuple(
            TensorSpec(f"past.{i}", "float32", (channels, context))
            for i, (channels, context) in enumerate(zip(pre.in_channels, pre.contexts, strict=True))
        ),
    )


def _convert_stage(config: LlvcConfig) -> Stage:
    E, D, A = config.enc_dim, config.dec_dim, config.dec_buf_len
    context = (TensorSpec("context", "float32", (config.context,)),) if config.context else ()
    return Stage(
        "convert",
        inputs=(TensorSpec("audio", "float32", ("chunks", config.chunk)), TensorSpec("frames", "int64", (1,))),
        outputs=(TensorSpec("converted", "float32", ("chunks", config.chunk)),),
        state=(
            *context,
            *(TensorSpec(f"enc.{i}", "float32", (2 * 2**i, E)) for i in range(config.num_enc_layers)),
            TensorSpec("dec.mem", "float32", (A, D)),
            *(TensorSpec(f"dec.{j}", "float32", (A, D)) for j in range(config.num_dec_layers)),
            TensorSpec("out", "float32", (config.out_buf_len, E)),
        ),
    )
