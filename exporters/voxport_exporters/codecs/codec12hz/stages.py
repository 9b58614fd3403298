"""The Qwen3-TTS 12 Hz codec: speech_tokenizer/ -> `codec_decode`, `codec_analyse`, `codec_encode`."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from voxport.codecs.codec12hz import PIECE, READ
from voxport.graphs.stage import Stage, TensorSpec
from voxport.recipe import Kind, Recipe, Rule
from voxport_exporters.checkpoints import jsonfile
from voxport_exporters.checkpoints.weights import Weights
from voxport_exporters.codecs.codec12hz.config import DecoderConfig, EncoderConfig
from voxport_exporters.codecs.codec12hz.decoder import Decoder
from voxport_exporters.codecs.codec12hz.encoder import Analysis, Encoder
from voxport_exporters.graphs.part import Part

# Of the codec alone, chosen apart from the language model's. The transformer's few rows per call cost what its weights
# weigh: by blocks it is as fast, and nearer to float32. The convolution to one channel has nothing to gain.
_FP32 = [Rule("fp32", stage=f"codec_{name}") for name in ("decode", "analyse", "encode")]
_WEIGHTS: dict[Kind, tuple[str, ...]] = {
    "int8b": ("codebooks.*", "enter.*", "layers.*", "leave.*"),
    "int8": ("pre_conv.*", "stretch.*", "smooth.*", "conv.*", "blocks.*"),
}
_INT8 = [Rule(kind, stage="codec_decode", weights=names) for kind, held in _WEIGHTS.items() for names in held]
RECIPES = {"fp32": Recipe("codec-fp32", _FP32), "int8": Recipe("codec-int8", [*_FP32, *_INT8])}

DEFAULTS = {  # upstream's, where config.json is silent
    "encoder_valid_num_quantizers": 16,
    "output_sample_rate": 24000,
    "decode_upsample_rate": 1920,
    "encode_downsample_rate": 1920,
}


def parts(folder: Path, encode: bool = True) -> Iterator[Part]:
    """The codec's graphs from the folder speech_tokenizer/ (config.json, model.safetensors).

    `encode`: with the two graphs that make codes of a reference; the decoder alone is all that speaking needs.
    FileNotFoundError or ValueError say in one line what is missing or wrong.
    """
    config = read_config(folder / "config.json")
    weights = Weights.open(folder)
    decoder = DecoderConfig.of(config["decoder_config"])
    _agree(folder, config, "decode_upsample_rate", decoder.frame)
    yield Part(decode_stage(decoder), Decoder(weights.at("decoder"), decoder), axes={"frames": PIECE})
    if encode:
        encoder, books = EncoderConfig.of(config["encoder_config"]), config["encoder_valid_num_quantizers"]
        _agree(folder, config, "encode_downsample_rate", encoder.frame)
        w = weights.at("encoder")
        yield Part(analyse_stage(encoder), Analysis(w, encoder), axes={"frames": READ})
        yield Part(encode_stage(encoder, books), Encoder(w, encoder, books), axes={"frames": 40})
    else:
        weights.drop("encoder.*", "not asked for")
    weights.finish()


def read_config(path: Path) -> dict[str, Any]:
    """The config.json of speech_tokenizer/, checked for what every use of it needs."""
    config = jsonfile.read(path)
    missing = [name for name in ("decoder_config", "encoder_config") if not isinstance(config.get(name), dict)]
    if missing:
        raise ValueError(f"{path}: not the config of a 12 Hz speech tokenizer; it lacks {', '.join(missing)}")
    return DEFAULTS | config


def _agree(folder: Path, config: Mapping[str, Any], key: str, frame: int) -> None:
    if config.get(key, frame) != frame:
        raise ValueError(f"{folder}/config.json: {key} is {config[key]}, the rates make {frame} samples per frame")


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
