"""hift.pt: mel to samples (docs/systems/cosyvoice3.md 5). Stages `f0`, `source` and `vocoder`."""

from collections.abc import Iterator
from functools import partial

from voxport.graphs.stage import Stage, TensorSpec
from voxport.recipe import Recipe, Rule
from voxport.systems.cosyvoice3.section import VocoderSection
from voxport.systems.cosyvoice3.vocoder import PIECE
from voxport_exporters.checkpoints.weights import Weights
from voxport_exporters.graphs.part import Part
from voxport_exporters.systems.cosyvoice3 import hift_shapes
from voxport_exporters.systems.cosyvoice3.config import Config, HiftConfig
from voxport_exporters.systems.cosyvoice3.f0 import f0_part
from voxport_exporters.systems.cosyvoice3.hift import Hift
from voxport_exporters.systems.cosyvoice3.source import draws_before_source, source_part

TRAINED = "generator"  # the prefix of every key where the file was written by GAN training
_FP32 = [Rule("fp32", stage=stage) for stage in ("f0", "source", "vocoder")]
_INT8 = [Rule("int8", stage="vocoder", weights=names) for names in ("pre.*", "stages.*")]
CODEC_RECIPES = {"fp32": Recipe("codec-fp32", _FP32), "int8": Recipe("codec-int8", [*_FP32, *_INT8])}


def parts(weights: Weights, config: Config) -> Iterator[Part]:
    """The vocoder's graphs from hift.pt; every key of `weights` is accounted for by the last one.

    Raises ValueError that says in one line what is missing or wrong.
    """
    hift = config.hift
    hift_shapes.check(hift)
    w = weights.at(TRAINED) if any(key.startswith(f"{TRAINED}.") for key in weights.keys) else weights
    yield f0_part(w.at("f0_predictor"), hift.f0_predictor, PIECE)
    yield source_part(w.at("m_source"), hift, PIECE)
    rebuild = partial(Hift, w, hift)
    yield Part(vocoder_stage(hift), rebuild(), axes={"frames": PIECE}, rebuild=rebuild)
    weights.finish()


def vocoder_stage(config: HiftConfig) -> Stage:
    return Stage(
        "vocoder",
        inputs=(
            TensorSpec("mel", "float32", ("frames", config.in_channels)),
            TensorSpec("source", "float32", ("frames", config.hop)),
            TensorSpec("steps", "int64", (1,)),
        ),
        outputs=(TensorSpec("wave", "float32", ("frames", config.hop)),),
        state=tuple(TensorSpec(name, "float32", shape) for name, shape in hift_shapes.tails(config).items()),
    )


def section(config: Config) -> VocoderSection:
    """What the manifest says of the vocoder."""
    return VocoderSection(hop=config.hift.hop, skip=draws_before_source(config))
