"""VyvoTTS: an LFM2, Qwen3 or Llama language model that speaks SNAC tokens (docs/systems/vyvo.md).

Stages: `lm` turns token ids into the last hidden state; `head.0`, `head.1` .. turn that into the logits of the ids that
the grammar allows at each place of a frame (the codes of that place in order, then END_OF_SPEECH): seven places of
4,096 codes with the released codec. `head` gives all logits, for runs without the grammar. `codec_decode` and
`codec_encode` are SNAC's (codecs/snac/).
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import msgspec
import numpy as np
import torch

from voxport.graphs.stage import Stage, TensorSpec
from voxport.manifest import Fidelity
from voxport.recipe import Recipe, Rule
from voxport.systems.vyvo.section import Section
from voxport_exporters.checkpoints import folder, jsonfile
from voxport_exporters.checkpoints.jsonfile import Count, parse
from voxport_exporters.checkpoints.lora import EMBEDDING, HEAD, merge
from voxport_exporters.checkpoints.weights import Weights
from voxport_exporters.codecs.snac import stages as snac
from voxport_exporters.graphs.fidelity import fidelity
from voxport_exporters.graphs.part import Part, Parts
from voxport_exporters.nets.decoder import Head, LanguageModel, decoder_stage
from voxport_exporters.nets.decoder_config import DecoderConfig
from voxport_exporters.pack import Job
from voxport_exporters.systems.vyvo import tokens as vyvo_tokens
from voxport_exporters.systems.vyvo.tokens import CodeIds

CAPACITY = 512  # cached tokens a typical step runs beside; sizes the traced example only

_TABLE = Rule("int8row", weights="embedding")
_CACHE = [Rule("int8cache", weights="keys.*"), Rule("int8cache", weights="values.*")]
_CODEC = Rule("fp32", stage="codec_*")  # the codec's recipe is chosen apart from the language model's
RECIPES = {
    "fp32": Recipe("fp32"),
    "int8": Recipe("int8", [Rule("int8b"), _TABLE, *_CACHE, _CODEC]),
    "int4": Recipe("int4", [Rule("int4"), _TABLE, *_CACHE, _CODEC]),
    "int4-32": Recipe("int4-32", [Rule("int4", block=32), _TABLE, *_CACHE, _CODEC]),
    "int4-256": Recipe("int4-256", [Rule("int4", block=256), _TABLE, *_CACHE, _CODEC]),
    "hqq4": Recipe("hqq4", [Rule("hqq4", block=64), _TABLE, *_CACHE, _CODEC]),
}
CODEC_RECIPES = {name: Recipe(f"codec-{name}", [_CODEC, *snac.RECIPES[name].rule]) for name in ("fp32", "int8")}

VOICES = [f"EN_B00000_S{10 * i:05d}" for i in range(12)]  # upstream's DEFAULT_SPEAKERS
REFERENCE_SECONDS = 30  # a longer recording fills the context that is left for speech, and clones no better


def job(
    root: Path,
    variant: str | None = None,
    codec: Path | None = None,
    tokens: str | None = None,
    tokenizer: Path | None = None,
    lora: Path | None = None,
) -> Job:
    """Finds a checkpoint: `root` is the language model's folder, or holds it as lm/ beside the codec's.

    `codec`: SNAC's folder, `tokens`: a built-in token table or a yaml, `tokenizer`: the folder of a tokenizer.json;
    all are found in `root` when not given. `lora`: an adapter that PEFT saved, merged.
    Raises FileNotFoundError or ValueError that say in one line what is missing.
    """
    if not root.is_dir():
        raise FileNotFoundError(f"{root}: no such folder")
    lm = root / "lm" if (root / "lm").is_dir() else root
    config = read_config(lm / "config.json")
    if variant not in (None, config.family):
        raise ValueError(f"{root}: holds variant {config.family}, not {variant}")
    table, yaml = vyvo_tokens.find([root, lm], tokens, config.family)
    speech_config, speech_weights = snac.find(codec or _codec(root))
    speech = snac.read_config(speech_config)
    codes = CodeIds(table["AUDIO_TOKENS_START"], speech.places, speech.codebook_size)
    vyvo_tokens.check(table, config.vocab, codes, str(yaml or lm))
    tokenizer_file = (tokenizer or lm) / "tokenizer.json"
    if not tokenizer_file.is_file():
        raise FileNotFoundError(f"{tokenizer_file}: no such tokenizer; give the folder that holds it with --tokenizer")
    generation = lm / "generation_config.json"
    adapter = [lora / "adapter_config.json", lora / "adapter_model.safetensors"] if lora else []
    optional = [path for path in (generation, yaml) if path is not None and path.is_file()]

    def all_parts() -> Iterator[Part]:
        weights = Weights.open(lm)
        weights = merge(weights, lora, tied=_tied(weights, config)) if lora else weights
        yield from parts(weights, replace(config, tied=_tied(weights, config)), codes, table["END_OF_SPEECH"])
        yield from snac.parts(Weights.open(speech_weights), speech)

    return Job(
        system="vyvo",
        variant=config.family,
        sample_rate=speech.sampling_rate,
        parts=Parts(all_parts),
        checkpoint=(
            *(lm / "config.json", *folder.with_shards(folder.weights(lm))),
            *(*adapter, *optional, tokenizer_file, speech_config, speech_weights),
        ),
        root=root,
        section=Section(config.context, REFERENCE_SECONDS, snac.section(speech)),
        tokens=table,
        sampling={"top_k": _top_k(generation)},
        voices=VOICES,
        files={"tokenizer.json": tokenizer_file},
        fidelity=partial(_fidelity, table=table, codes=codes),
    )


def _codec(root: Path) -> Path:
    """The folder below `root` whose config.json is SNAC's."""
    found = folder.below(root, '"vq_strides"')
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise FileNotFoundError(f"{root}: wanted one SNAC folder below it, found {names}; give it with --codec")
    return found[0]


class _Generation(msgspec.Struct, frozen=True):
    """generation_config.json. Upstream's code sets no top_k, and transformers takes 50 where the file has none."""

    top_k: Count | None = 50


def _top_k(path: Path) -> int:
    return parse(jsonfile.read(path), _Generation, str(path)).top_k or 0 if path.is_file() else 50


def _fidelity(graphs: Mapping[str, Part], target: Path, table: Mapping[str, int], codes: CodeIds) -> Fidelity:
    """On an invented prompt and eight frames of codes, every place read by its own head."""
    text, speech = _example(table["TOKENIZER_LENGTH"], codes, frames=8)
    tokens = np.concatenate((text, [table["START_OF_SPEECH"]], speech))
    heads = [(len(text) + k, f"head.{k % codes.places}") for k in range(speech.size)]
    return fidelity(graphs, target, tokens, heads)


def _example(words: int, codes: CodeIds, frames: int) -> tuple[np.ndarray, np.ndarray]:
    """Twelve random ids below `words`, and the ids of some random frames of codes."""
    rng = np.random.default_rng(0)
    text = rng.integers(0, words, 12)
    starts = codes.start + codes.size * np.arange(codes.places)
    return text, (rng.integers(0, codes.size, (frames, codes.places)) + starts).ravel()


def read_config(path: Path) -> DecoderConfig:
    """The language model's config.json. Raises FileNotFoundError or ValueError that name the file, in one line."""
    return DecoderConfig.of(jsonfile.read(path), str(path))


def _tied(weights: Weights, config: DecoderConfig) -> bool:
    """Whether the head is the embedding: not where the file holds another one, whatever its config says.

    That is how transformers reads such a file; merging an adapter that trained either in full makes one.
    """
    if not config.tied or not weights.has(HEAD):
        return config.tied
    head, embedding = (weights.take(key, *weights.shape(key)) for key in (HEAD, EMBEDDING))
    return torch.equal(head, embedding)


def parts(weights: Weights, config: DecoderConfig, codes: CodeIds, end_of_speech: int) -> Iterator[Part]:
    """The graphs of the language model; every key of `weights` is accounted for when the last one has been taken."""
    if codes.stop > config.vocab:
        raise ValueError(
            f"{weights.source}: its vocabulary of {config.vocab} has no audio ids {codes.start}..{codes.stop - 1}; "
            "is the token table that of this checkpoint?"
        )
    sizes = {"batch": 1, "time": 1, "capacity": CAPACITY}
    net = LanguageModel(weights, config)
    end = (end_of_speech, end_of_speech + 1)
    heads = {f"head.{place}": Head(weights, config, [codes.of(place), end]) for place in range(codes.places)}
    heads["head"] = Head(weights, config)
    if config.tied:
        weights.drop(HEAD, "the embedding is the head")
    weights.finish()

    def sample() -> tuple[torch.Tensor, ...]:
        tokens = np.concatenate(_example(codes.start, codes, frames=32))
        return torch.from_numpy(tokens)[None], torch.zeros(1, dtype=torch.int64)

    yield Part(lm_stage(config), net, sizes, sample=sample)
    for name, head in heads.items():
        yield Part(head_stage(name, config.width, head.weight.shape[1]), head, {"batch": 1})


def lm_stage(config: DecoderConfig) -> Stage:
    tokens = TensorSpec("tokens", "int64", ("batch", "time"))
    return decoder_stage("lm", config, tokens, (TensorSpec("hidden", "float32", ("batch", config.width)),))


def head_stage(name: str, width: int, rows: int) -> Stage:
    return Stage(
        name,
        inputs=(TensorSpec("hidden", "float32", ("batch", width)),),
        outputs=(TensorSpec("logits", "float32", ("batch", rows)),),
    )
