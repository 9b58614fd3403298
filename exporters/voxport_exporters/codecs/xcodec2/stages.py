"""XCodec2: release layout -> graph `codec_decode`, and those of the encoder, for systems that speak its codes."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from voxport.codecs.xcodec2 import CodecSection
from voxport.graphs.stage import Stage, TensorSpec
from voxport.recipe import Recipe, Rule
from voxport_exporters.checkpoints import folder
from voxport_exporters.checkpoints.weights import Weights
from voxport_exporters.codecs.xcodec2 import config as codec_config
from voxport_exporters.codecs.xcodec2 import encoder
from voxport_exporters.codecs.xcodec2.config import CODE_RATE, READ_RATE, CodecConfig
from voxport_exporters.codecs.xcodec2.decoder import Decoder
from voxport_exporters.codecs.xcodec2.trial import streamed, trial
from voxport_exporters.codecs.xcodec2.w2vbert import W2vBertConfig
from voxport_exporters.graphs.part import Part

CHECKPOINT = "ckpt/*.ckpt"  # as upstream's trainer leaves it
FRAMES = 250  # of a typical call; sizes the traced example and what costs are counted for
# How a stream decodes, in codes (docs/systems/t5gemma.md 8). Of a random full-size decoder and 8 s it keeps 16.6 dB for
# 3.2 times the work of a decode at once; a context of 150 adds 0.7 dB and 1.0, one of 50 takes 0.8 dB and 1.0 away.
# Fewer codes ahead are heard at the end of the first chunk, whose window is the shortest.
CHUNK, CONTEXT, AHEAD = 50, 100, 10

_FP32 = [Rule("fp32", stage="codec_*")]
# Of a random full-size decoder int8 keeps 29.8 dB and takes a third of the time. What makes the spectrum stays, for its
# magnitudes are exponents; so does what reads the codes. Both are a hundredth of the work.
_INT8 = [
    Rule("int8", stage="codec_decode"),
    Rule("int8r", stage="codec_decode", weights="layers.*"),
    *(Rule("fp32", stage="codec_decode", weights=name) for name in ("dequantizer.*", "out.*")),
]
RECIPES = {"fp32": Recipe("codec-fp32", _FP32), "int8": Recipe("codec-int8", [*_FP32, *_INT8])}

read_config = codec_config.read_config


def find(root: Path) -> tuple[Path, Path]:
    """(config.json, weights) of a release folder. Raises FileNotFoundError that says what is missing."""
    config = root / "config.json"
    if not config.is_file():
        raise FileNotFoundError(f"{config}: no such file; is this an XCodec2 folder?")
    lightning = sorted(root.glob(CHECKPOINT))
    whole = next(root.glob("*.safetensors*"), None)
    return config, lightning[-1] if lightning and whole is None else folder.weights(root)


def open_weights(path: Path) -> Weights:
    """The file of weights that `find` gives."""
    if path.suffix == ".ckpt":  # which keeps the trainer's settings, objects of omegaconf, too
        return Weights.open(path, inside="state_dict", strangers=True)
    return Weights.open(path)


def parts(weights: Weights, config: CodecConfig, speech: W2vBertConfig | None = None) -> Iterator[Part]:
    """`codec_decode`, and the graphs that make codes of a reference, see encoder.py.

    `speech`: of the codec's w2v-BERT; None leaves the encoder out, for a bundle that only speaks.
    Every key of `weights` is accounted for when the last part has been taken.
    """
    yield decoder_part(weights, config)
    weights.drop("*discriminator*", "upstream's trainer keeps them")
    if speech is not None:
        yield from encoder.parts(weights, config, speech)
    else:
        for name in ("semantic_model", "SemanticEncoder_module", "CodecEnc", "fc_prior"):
            weights.drop(f"{name}.*", "of the encoder, not asked for")
        weights.drop("generator.quantizer.project_in.*", "of the encoder, not asked for")
    weights.finish()


def decoder_part(weights: Weights, config: CodecConfig) -> Part:
    """`codec_decode` alone."""
    rebuild = partial(Decoder, weights, config)
    net = rebuild()
    return Part(
        _decode_stage(config, net.extra),
        net,
        axes={"frames": FRAMES},
        rebuild=rebuild,
        trial=trial(config.codes),
        streamed=streamed(section(config)),
    )


def section(config: CodecConfig) -> CodecSection:
    """The codec's part of its system's section of the manifest."""
    hop = READ_RATE // CODE_RATE
    return CodecSection(config.codes, READ_RATE, hop, chunk=CHUNK, context=CONTEXT, ahead=AHEAD)


def _decode_stage(config: CodecConfig, extra: int) -> Stage:
    return Stage(
        "codec_decode",
        inputs=(TensorSpec("codes", "int64", ("frames",)),),
        outputs=(
            TensorSpec("wave", "float32", ("frames", config.frame)),
            *((TensorSpec("rest", "float32", (extra,)),) if extra else ()),
        ),
    )
