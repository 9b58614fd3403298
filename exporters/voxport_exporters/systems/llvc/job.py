"""LLVC: release layout -> bundle of `prenet` (when the config has one) and `convert`."""

from collections.abc import Iterator
from pathlib import Path

from voxport.graphs.stage import Stage, TensorSpec
from voxport.recipe import Recipe, Rule
from voxport.systems.llvc.section import Section
from voxport_exporters.checkpoints import folder
from voxport_exporters.checkpoints.weights import Weights
from voxport_exporters.graphs.part import Part, Parts
from voxport_exporters.pack import Job
from voxport_exporters.systems.llvc.config import LlvcConfig, PreNetConfig, read_config
from voxport_exporters.systems.llvc.net import Converter
from voxport_exporters.systems.llvc.prenet import PreNet

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
        parts=Parts(lambda: parts(Weights.open(weights, inside="model"), net)),
        checkpoint=(config, weights),
        root=root,
        section=Section(hop=net.L),
    )


def _find(root: Path, variant: str | None) -> tuple[str, Path, Path]:
    """(variant, config.json, newest G_*.pth) of models/checkpoints/<variant> and experiments/<variant>."""
    if not root.is_dir():
        raise FileNotFoundError(f"{root}: no such folder")
    found = sorted({path.parent for path in root.glob("models/checkpoints/*/G_*.pth")})
    variant = folder.choose(root, [(path.name, path) for path in found], variant, "an LLVC checkpoint folder").name
    steps = root.glob(f"models/checkpoints/{variant}/G_*.pth")
    weights = max(steps, key=lambda p: (len(p.stem), p.stem))  # G_500000 after G_50000
    config = root / "experiments" / variant / "config.json"
    if not config.is_file():
        config = Path(__file__).parent / "configs" / f"{variant}.json"  # the hub repository has none
    if not config.is_file():
        raise FileNotFoundError(f"{root}: no experiments/{variant}/config.json; give it with --config and --weights")
    return variant, config, weights


def parts(weights: Weights, config: LlvcConfig) -> Iterator[Part]:
    """The graphs of one checkpoint. Every key of `weights` is accounted for before the first part is handed out."""
    prenet = PreNet(weights.at("convnet_pre"), config.prenet) if config.prenet else None
    convert = Converter(weights, config)
    weights.finish()
    if config.prenet and prenet:
        yield Part(_prenet_stage(config.prenet), prenet, axes={"samples": config.chunk})
    yield Part(_convert_stage(config), convert, axes={"chunks": 1})


def _prenet_stage(config: PreNetConfig) -> Stage:
    return Stage(
        "prenet",
        inputs=(TensorSpec("audio", "float32", ("samples",)),),
        outputs=(TensorSpec("filtered", "float32", ("samples",)),),
        state=tuple(
            TensorSpec(f"past.{i}", "float32", (channels, context))
            for i, (channels, context) in enumerate(zip(config.in_channels, config.contexts, strict=True))
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
