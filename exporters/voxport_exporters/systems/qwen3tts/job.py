"""Qwen3-TTS, 12 Hz: release folder -> bundle (docs/systems/qwen3tts.md). One folder holds one model.

Stages: text_embed, codec_embed, frame_embed (Base), talker, predictor (qwen3tts_stages.py); codec_decode, and for Base
codec_analyse, codec_encode and speaker_encode (codec12hz.py).

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

from safetensors.numpy import save_file

from voxport.bundle import Bundle
from voxport.recipe import Recipe, Rule
from voxport.systems.qwen3tts.section import Section, SpeakerEncoderSection
from voxport.systems.qwen3tts.speaker import Speaker
from voxport_exporters.checkpoints.weights import Weights, weight_map
from voxport_exporters.codecs.codec12hz import stages as codec12hz
from voxport_exporters.codecs.codec12hz.config import DecoderConfig
from voxport_exporters.graphs.part import Part
from voxport_exporters.pack import Job
from voxport_exporters.systems.qwen3tts import text as qwen3tts_text
from voxport_exporters.systems.qwen3tts.config import Held, predictor, read_config, sampling, talker
from voxport_exporters.systems.qwen3tts.config import variant as variant_of
from voxport_exporters.systems.qwen3tts.predictor import Predictor
from voxport_exporters.systems.qwen3tts.stages import (
    embed_stage,
    frame_stage,
    predictor_part,
    speaker_part,
    talker_stage,
)
from voxport_exporters.systems.qwen3tts.talker import CodeTable, FrameTable, Talker, TextTable
from voxport_exporters.systems.qwen3tts.xvector import SpeakerConfig

CAPACITY = 512  # cached tokens a typical step runs beside; sizes the traced example only
SUPPRESSED = 1024  # ids at the end of the talker's vocabulary that upstream never draws, the end but one
LEAST_TOKENS = 2  # upstream's min_new_tokens

# Tables keep what a checkpoint in bf16 says; heads keep 8 bits: as fp32 the predictor's would be a fifth of all that a
# frame reads.
_TABLES = [Rule("fp16row", stage="*_embed"), Rule("fp16row", stage="predictor", weights="codec")]
_TABLES += [Rule("fp16row", stage="predictor", weights="tables.*")]


def _recipe(name: str, talker: Rule | None, predictor: Rule | None) -> Recipe:
    chosen = [rule for rule in (talker, predictor) if rule is not None]
    heads = [Rule("int8b", stage="talker", weights="head.*"), Rule("int8b", stage="predictor", weights="heads.*")]
    return Recipe(name, [*chosen, *heads, *_TABLES])


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
    FileNotFoundError or ValueError say in one line what is missing, or list the variants there are.
    """
    folder = _find(root, variant)
    config = read_config(folder / "config.json")
    codec = codec or folder / "speech_tokenizer"
    if not codec.is_dir():
        raise FileNotFoundError(f"{codec}: no such folder; it is part of every release: name yours with --codec")
    speech = codec12hz.read_config(codec / "config.json")
    base = config["tts_model_type"] == "base"
    weights = _weights(folder)
    held = config["talker_config"]
    _belongs(codec / "config.json", speech, held, base)
    words, read = qwen3tts_text.tokenizer(folder)
    generation = folder / "generation_config.json"
    beside = [p for p in (generation,) if p.is_file()]

    def all_parts() -> Iterator[Part]:
        yield from parts(Weights.open(weights), config)
        yield from codec12hz.parts(codec, encode=base)

    return Job(
        system="qwen3tts",
        variant=variant_of(config),
        sample_rate=int(speech["output_sample_rate"]),
        parts=all_parts(),
        checkpoint=(
            *(folder / "config.json", *_files(weights), *beside, *read),
            *(codec / "config.json", *_files(_weights(codec))),
        ),
        root=folder,
        section=Section(
            books=held["num_code_groups"],
            codes=held["code_predictor_config"]["vocab_size"],
            frame=int(speech["decode_upsample_rate"]),
            least_tokens=LEAST_TOKENS,
            context=held["max_position_embeddings"],
            instruct=not base and variant_of(config) != "0.6b-customvoice",
            speaker_encoder=_speaker_encoder(config["speaker_encoder_config"]) if base else None,
        ),
        tokens=tokens(config),
        sampling=sampling(generation)
        | {"non_streaming_mode": not base}
        | ({"x_vector_only_mode": False} if base else {}),
        voices=sorted(held["spk_id"]),
        files={"tokenizer.json": words},
        golden=_golden,
    )


def _speaker_encoder(config: Held) -> SpeakerEncoderSection:
    net = SpeakerConfig.of(config)
    return SpeakerEncoderSection(net.sample_rate, net.least)


def _golden(bundle: Bundle, folder: Path) -> None:
    """What this bundle makes of fixed inputs, for `voxport verify` on the target machine."""
    save_file(Speaker(bundle).rehearse(), folder / "rehearsal.safetensors")


def _find(root: Path, variant: str | None) -> Path:
    if not root.is_dir():
        raise FileNotFoundError(f"{root}: no such folder")
    if (root / "config.json").is_file():
        held = {variant_of(read_config(root / "config.json")): root}
    else:
        found = (p for p in sorted(root.glob("*/config.json")) if '"qwen3_tts"' in p.read_text(errors="replace"))
        held = {variant_of(read_config(p)): p.parent for p in found}
    if variant is None and len(held) == 1:
        return next(iter(held.values()))
    if variant not in held:
        choose = "choose one with --variant" if held else "is this a Qwen3-TTS folder?"
        raise ValueError(f"{root}: wanted {variant or 'one model'}, found {', '.join(held) or 'none'}; {choose}")
    return held[variant]


def _weights(folder: Path) -> Path:
    for name in ("model.safetensors.index.json", "model.safetensors"):
        if (folder / name).is_file():
            return folder / name
    raise FileNotFoundError(f"{folder}: no model.safetensors and no index of shards")


def _files(weights: Path) -> list[Path]:
    """The file, or an index and its shards."""
    if weights.suffix != ".json":
        return [weights]
    return [weights, *sorted(weights.parent / name for name in set(weight_map(weights).values()))]


def _belongs(path: Path, speech: Held, talker: Held, base: bool) -> None:
    """ValueError when the codec does not speak the talker's codes."""
    books, codes = talker["num_code_groups"], talker["code_predictor_config"]["vocab_size"]
    decoder = DecoderConfig.of(speech["decoder_config"])
    heard = speech["encoder_valid_num_quantizers"] if base else books
    if (decoder.num_quantizers, heard) != (books, books) or decoder.codebook_size < codes:
        raise ValueError(
            f"{path}: {decoder.num_quantizers} codes of {decoder.codebook_size} per frame (encoder: {heard}), the "
            f"talker says {books} of {codes}: they do not belong together; name the model's own codec with --codec"
        )


def parts(weights: Weights, config: Held) -> Iterator[Part]:
    """The language model's graphs and the speaker encoder; every key of `weights` is accounted for by the last one."""
    held = config["talker_config"]
    w, books, width, vocab = weights.at("talker"), held["num_code_groups"], held["hidden_size"], held["vocab_size"]
    heard, rest = talker(config), predictor(config)
    text = TextTable(w, held["text_vocab_size"], held["text_hidden_size"], width, held["hidden_act"])
    yield Part(embed_stage("text_embed", width), text, {"tokens": 1})
    yield Part(embed_stage("codec_embed", width), CodeTable(w, vocab, width), {"tokens": 1})
    if config["tts_model_type"] == "base":
        frames = FrameTable(w, vocab, rest.vocab, books, width)
        yield Part(frame_stage(books, width), frames, {"frames": 1})
    yield predictor_part(Predictor(w, rest, books, vocab, width))
    yield Part(talker_stage(heard), Talker(w, heard), {"batch": 1, "time": 1, "capacity": CAPACITY})
    if config["tts_model_type"] == "base":
        yield speaker_part(weights, config["speaker_encoder_config"])
    else:
        weights.drop("speaker_encoder.*", "only Base hears a reference")
    weights.finish()


def tokens(config: Held) -> dict[str, int]:
    """Every id the prompt and the token rule need, by name: see the top of this file."""
    held = config["talker_config"]
    text = {f"tts_{n}": f"tts_{n}_token_id" for n in ("pad", "bos", "eos")}
    codec = {n: f"codec_{n}_id" for n in ("pad", "bos", "think", "nothink", "think_bos", "think_eos")}
    codec |= {"eos": "codec_eos_token_id"}
    languages, speakers = held["codec_language_id"], held["spk_id"]
    dialects = {s: d for s, d in held["spk_is_dialect"].items() if d}
    return {
        **{name: config[key] for name, key in text.items()},
        **{f"codec.{name}": held[key] for name, key in codec.items()},
        "codec.suppressed": max(0, held["vocab_size"] - SUPPRESSED),
        **{f"language.{name.lower()}": i for name, i in languages.items()},
        **{f"speaker.{name.lower()}": i for name, i in speakers.items()},
        **{f"dialect.{name.lower()}": languages[dialect] for name, dialect in dialects.items()},
    }
