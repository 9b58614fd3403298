"""Qwen3-TTS, 12 Hz: release folder -> bundle (docs/systems/qwen3tts.md). One folder holds one model.

Stages: text_embed, codec_embed, frame_embed (Base), talker, predictor (stages.py); codec_decode, and for Base
codec_analyse, codec_encode (codecs/codec12hz/) and speaker_encode.

What the manifest says, for the runtime:

    variant    <size>-<type>: 0.6b or 1.7b (tts_model_size), base, customvoice or voicedesign
    tokens     text ids: tts_pad, tts_bos, tts_eos
               codec ids: codec.pad, codec.bos, codec.eos, codec.think, codec.nothink, codec.think_bos, codec.think_eos;
               codec.suppressed: this id and all above it but codec.eos are never drawn;
               language.<name>, speaker.<name>: names as in the config, lower case;
               dialect.<speaker>: the language id that a speaker's dialect puts in place of Chinese or auto
    sampling   generation_config.json's settings by upstream's names, and upstream's defaults of non_streaming_mode and
               (Base) x_vector_only_mode
    section    what Section of voxport.systems.qwen3tts.section lists
    voices     the speakers' names
"""

from collections.abc import Iterator
from pathlib import Path

from voxport.recipe import Recipe, Rule
from voxport.systems.qwen3tts.section import Section, SpeakerEncoderSection
from voxport_exporters.checkpoints import bpe, folder
from voxport_exporters.checkpoints.weights import Weights
from voxport_exporters.codecs.codec12hz import config as codec12hz_config
from voxport_exporters.codecs.codec12hz import stages as codec12hz
from voxport_exporters.codecs.codec12hz.config import CodecConfig
from voxport_exporters.graphs.part import Part, Parts
from voxport_exporters.nets.table import table_stage
from voxport_exporters.pack import Job
from voxport_exporters.systems.qwen3tts.config import ModelConfig, read_config, sampling
from voxport_exporters.systems.qwen3tts.predictor import Predictor
from voxport_exporters.systems.qwen3tts.stages import frame_stage, predictor_part, speaker_part, talker_stage
from voxport_exporters.systems.qwen3tts.talker import CodeTable, FrameTable, Talker, TextTable

CAPACITY = 512  # cached tokens a typical step runs beside; sizes the traced example only
WEIGHTS = ("model.safetensors.index.json", "model.safetensors")
# Hard-coded upstream (qwen_tts, modeling_qwen3_tts.py, generate(); docs/systems/qwen3tts.md 9):
SUPPRESSED = 1024  # ids at the end of the talker's vocabulary that are never drawn, codec.eos excepted
LEAST_TOKENS = 2  # min_new_tokens: the speech cannot end before

# Tables keep what a checkpoint in bf16 says; heads keep 8 bits: as fp32 the predictor's would be a fifth of all that a
# frame reads.
_TABLES = [Rule("fp16row", stage="*_embed"), Rule("fp16row", stage="predictor", weights="codec")]
_TABLES += [Rule("fp16row", stage="predictor", weights="tables.*")]


def _recipe(name: str, talker: Rule | None, predictor: Rule | None) -> Recipe:
    layers = [rule for rule in (talker, predictor) if rule is not None]
    heads = [Rule("int8b", stage="talker", weights="head.*"), Rule("int8b", stage="predictor", weights="heads.*")]
    return Recipe(name, [*layers, *heads, *_TABLES])


RECIPES = {
    "mixed": _recipe("mixed", Rule("int4", stage="talker"), Rule("int8b", stage="predictor")),
    # With blocks of 256 the predictor, which reads its weights for every code, takes 17 % less time than with 128, the
    # talker 6 % (Zen 4). What that costs: nbits.RANGES, for normal weights; up to 1.1 dB more for heavy tails.
    "int4": _recipe("int4", Rule("int4", stage="talker", block=256), Rule("int4", stage="predictor", block=256)),
    "hqq4": _recipe("hqq4", Rule("hqq4", stage="talker", block=64), Rule("hqq4", stage="predictor", block=64)),
    "int8": _recipe("int8", Rule("int8b", stage="talker"), Rule("int8b", stage="predictor")),
    "fp32": Recipe("fp32"),
}
CODEC_RECIPES = codec12hz.RECIPES


def job(root: Path, variant: str | None = None, codec: Path | None = None) -> Job:
    """The model in `root` (release layout), or in the one folder below it that is the `variant`.

    `codec`: the folder of the 12 Hz tokenizer, where it is not root/speech_tokenizer.
    Raises FileNotFoundError or ValueError that say in one line what is missing, or list the variants there are.
    """
    model = _find(root, variant)
    config = read_config(model / "config.json")
    codec = codec or model / "speech_tokenizer"
    if not codec.is_dir():
        raise FileNotFoundError(f"{codec}: no such folder; it is part of every release: name yours with --codec")
    speech = codec12hz_config.read_config(codec / "config.json")
    _check_codec(codec / "config.json", speech, config)
    weights, codec_weights = folder.weights(model, *WEIGHTS), folder.weights(codec, *WEIGHTS)
    tokenizer, tokenizer_files = bpe.tokenizer(model)
    generation = model / "generation_config.json"
    base = config.speaker is not None

    def all_parts() -> Iterator[Part]:
        yield from parts(Weights.open(weights), config)
        yield from codec12hz.parts(codec, encode=base)

    return Job(
        system="qwen3tts",
        variant=config.variant,
        sample_rate=speech.output_sample_rate,
        parts=Parts(all_parts),
        checkpoint=(
            *(model / "config.json", *folder.with_shards(weights)),
            *((generation,) if generation.is_file() else ()),
            *tokenizer_files,
            *(codec / "config.json", *folder.with_shards(codec_weights)),
        ),
        root=model,
        section=Section(
            books=config.talker.num_code_groups,
            codes=config.predictor_layers.vocab,
            frame=speech.decode_upsample_rate,
            least_tokens=LEAST_TOKENS,
            context=config.talker_layers.context,
            instruct=not base and config.variant != "0.6b-customvoice",
            speaker_encoder=(
                SpeakerEncoderSection(config.speaker.sample_rate, config.speaker.least) if config.speaker else None
            ),
        ),
        tokens=tokens(config),
        sampling=sampling(generation)
        | {"non_streaming_mode": not base}
        | ({"x_vector_only_mode": False} if base else {}),
        voices=sorted(config.talker.speakers),
        files={"tokenizer.json": tokenizer},
    )


def _find(root: Path, variant: str | None) -> Path:
    """The folder of the model: `root`, or the one below it. Raises ValueError that lists all there are."""
    if not root.is_dir():
        raise FileNotFoundError(f"{root}: no such folder")
    folders = [root] if (root / "config.json").is_file() else folder.below(root, '"qwen3_tts"')
    found = [(read_config(path / "config.json").variant, path) for path in folders]
    return folder.choose(root, found, variant, "a Qwen3-TTS folder")


def _check_codec(path: Path, speech: CodecConfig, config: ModelConfig) -> None:
    """Raises ValueError when the codec does not speak the talker's codes."""
    books, codes = config.talker.num_code_groups, config.predictor_layers.vocab
    decoder = speech.decoder_config
    encoded = speech.encoder_valid_num_quantizers if config.speaker else books
    if (decoder.num_quantizers, encoded) != (books, books) or decoder.codebook_size < codes:
        raise ValueError(
            f"{path}: {decoder.num_quantizers} codes of {decoder.codebook_size} per frame (encoder: {encoded}), the "
            f"talker says {books} of {codes}: they do not belong together; name the model's own codec with --codec"
        )


def parts(weights: Weights, config: ModelConfig) -> Iterator[Part]:
    """The language model's graphs and the speaker encoder; every key of `weights` is accounted for by the last one."""
    talker, layers, predictor = config.talker, config.talker_layers, config.predictor_layers
    w, books, width, vocab = weights.at("talker"), talker.num_code_groups, talker.hidden_size, talker.vocab_size
    text = TextTable(w, talker.text_vocab_size, talker.text_hidden_size, width, talker.hidden_act)
    yield Part(table_stage("text_embed", width), text, {"tokens": 1})
    yield Part(table_stage("codec_embed", width), CodeTable(w, vocab, width), {"tokens": 1})
    if config.speaker:
        frames = FrameTable(w, vocab, predictor.vocab, books, width)
        yield Part(frame_stage(books, width), frames, {"frames": 1})
    yield predictor_part(Predictor(w, predictor, books, vocab, width))
    yield Part(talker_stage(layers), Talker(w, layers), {"batch": 1, "time": 1, "capacity": CAPACITY})
    if config.speaker:
        yield speaker_part(weights, config.speaker)
    else:
        weights.drop("speaker_encoder.*", "only Base hears a reference")
    weights.finish()


def tokens(config: ModelConfig) -> dict[str, int]:
    """Every id the prompt and the token rule need, by name: see the top of this file."""
    header, talker = config.header, config.talker
    return {
        "tts_pad": header.tts_pad_token_id,
        "tts_bos": header.tts_bos_token_id,
        "tts_eos": header.tts_eos_token_id,
        "codec.pad": talker.codec_pad_id,
        "codec.bos": talker.codec_bos_id,
        "codec.eos": talker.codec_eos_token_id,
        "codec.think": talker.codec_think_id,
        "codec.nothink": talker.codec_nothink_id,
        "codec.think_bos": talker.codec_think_bos_id,
        "codec.think_eos": talker.codec_think_eos_id,
        "codec.suppressed": max(0, talker.vocab_size - SUPPRESSED),
        **{f"language.{name.lower()}": i for name, i in talker.languages.items()},
        **{f"speaker.{name.lower()}": i for name, i in talker.speakers.items()},
        **{f"dialect.{name.lower()}": talker.languages[dialect] for name, dialect in talker.dialects.items()},
    }
