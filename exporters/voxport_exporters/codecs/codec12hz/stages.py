"""The Qwen3-TTS 12 Hz codec: speech_tokenizer/ -> `codec_decode`, `codec_analyse`, `codec_encode`."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from voxport.codecs.codec12hz import PIECE, READ
from voxport.graphs.stage import Stage, TensorSpec
from voxport.recipe import Kind, Recipe, Rule
from voxport_exporters.checkpoints.weights import Weights
from voxport_exporters.codecs.codec12hz.config import DecoderConfig, EncoderConfig, read_config
from voxport_exporters.codecs.codec12hz.decoder import Decoder
from voxport_exporters.codecs.codec12hz.encoder import Analysis, Encoder
from voxport_exporters.graphs.part import Part

# Of the codec alone, chosen apart from the language model's. The transformer's few rows per call cost what its weights
# weigh: by blocks it is as fast, and nearer to float32. The convolution to one channel has nothing to gain.
_FP32 = [Rule("fp32", stage="codec_*e")]  # decode, analyse, encode; codec_embed is a table of the talker
_WEIGHTS: dict[Kind, tuple[str, ...]] = {
    "int8b": ("codebooks.*", "enter.*", "layers.*", "leave.*"),
    "int8": ("pre_conv.*", "stretch.*", "smooth.*", "conv.*", "blocks.*"),
}
_INT8 = [Rule(kind, stage="codec_decode", weights=names) for kind, patterns in _WEIGHTS.items() for names in patterns]
RECIPES = {"fp32": Recipe("codec-fp32", _FP32), "int8": Recipe("codec-int8", [*_FP32, *_INT8])}


def parts(root: Path, encode: bool = True) -> Iterator[Part]:
    """The codec's graphs from the folder speech_tokenizer/ (config.json, model.safetensors).

    `encode`: with the two graphs that make codes of a reference; the decoder alone is all that speaking needs.
    Raises FileNotFoundError or ValueError that say in one line what is missing or wrong.
    """
    config = read_config(root / "config.json")
    weights = Weights.open(root)
    decoder = config.decoder_config
    rebuild = partial(Decoder, weights.at("decoder"), decoder)
    yield Part(decode_stage(decoder), rebuild(), axes={"frames": PIECE}, rebuild=rebuild)
    if encode:
        encoder, books = config.encoder_config, config.encoder_valid_num_quantizers
        w = weights.at("encoder")
        yield Part(analyse_stage(encoder), Analysis(w, encoder), axes={"frames": READ})
        yield Part(encode_stage(encoder, books), Encoder(w, encoder, books), axes={"frames": 40})
    else:
        weights.drop("encoder.*", "not asked for")
    weights.finish()


def decode_stage(config: DecoderConfig) -> Stage:
    return Stage(
        "codec_decode",
        inputs=(TensorSpec("codes", "int64", ("frames", config.num_quantizers)),),
        outputs=(TensorSpec("wave", "float32", ("frames", config.frame)),),
        state=(
            *(TensorSpec(name, "float32", shape) for name, shape in config.tails.items()),
            TensorSpec("position", "int64", (1,)),
            *(TensorSpec(name, "float32", shape) for name, shape in config.caches.items()),
        ),
    )


def analyse_stage(config: EncoderConfig) -> Stage:
    return Stage(
        "codec_analyse",
        inputs=(TensorSpec("audio", "float32", ("frames", config.frame)), TensorSpec("samples", "int64", (1,))),
        outputs=(TensorSpec("features", "float32", ("frames", config.stride, config.hidden_size)),),
        state=tuple(TensorSpec(name, "float32", shape) for name, shape in config.tails.items()),
    )


def encode_stage(config: EncoderConfig, books: int) -> Stage:
    return Stage(
        "codec_encode",
        inputs=(
            TensorSpec("features", "float32", ("frames", config.stride, config.hidden_size)),
            TensorSpec("steps", "int64", (1,)),
        ),
        outputs=(TensorSpec("codes", "int64", ("frames", books)),),
    )
