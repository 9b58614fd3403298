"""XCodec2's encoder as graphs: `codec_semantic`, `codec_acoustic` and `codec_quantize`."""

from collections.abc import Iterator

from voxport.audio import kaldi
from voxport.graphs.stage import Stage, TensorSpec
from voxport_exporters.checkpoints.weights import Weights
from voxport_exporters.codecs.xcodec2 import trial
from voxport_exporters.codecs.xcodec2.acoustic import Acoustic
from voxport_exporters.codecs.xcodec2.config import CODE_RATE, READ_RATE, CodecConfig
from voxport_exporters.codecs.xcodec2.quantizer import Quantizer
from voxport_exporters.codecs.xcodec2.semantic import Semantic
from voxport_exporters.codecs.xcodec2.w2vbert import W2vBertConfig
from voxport_exporters.graphs.part import Part

FRAMES = 250  # of a typical reference, 5 s; sizes the traced example and what costs are counted for
FRAME = READ_RATE // CODE_RATE  # samples
STRIDE = FRAME // kaldi.HOP  # filter banks side by side in a frame's features


def parts(weights: Weights, config: CodecConfig, speech: W2vBertConfig) -> Iterator[Part]:
    """The three graphs, largest first. `speech`: of the w2v-BERT whose weights are among the codec's."""
    semantic, acoustic = (
        TensorSpec(name, "float32", ("frames", width))
        for name, width in (
            ("semantic", config.semantic_hidden_size),
            ("acoustic", config.codec_encoder_hidden_size),
        )
    )

    net = Semantic(weights, speech, config.semantic_hidden_size)
    if net.inputs % STRIDE:
        raise ValueError(
            f"{weights.source}: w2v-BERT reads {net.inputs} features a frame, wanted a multiple of {STRIDE}"
        )
    features = TensorSpec("features", "float32", ("frames", net.inputs))
    stage = Stage("codec_semantic", (features,), (semantic,))
    yield Part(stage, net, axes={"frames": FRAMES}, trial=trial.semantic(net.inputs))

    audio = TensorSpec("audio", "float32", ("frames", FRAME))
    stage = Stage("codec_acoustic", (audio,), (acoustic,))
    yield Part(stage, Acoustic(weights.at("CodecEnc"), config), axes={"frames": FRAMES})

    stage = Stage("codec_quantize", (semantic, acoustic), (TensorSpec("codes", "int64", ("frames",)),))
    yield Part(stage, Quantizer(weights, config), axes={"frames": FRAMES})
