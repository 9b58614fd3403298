"""T5Gemma-TTS: a checkpoint -> bundle (docs/systems/t5gemma.md).

Stages: text_embed, encoder, cross, audio_embed, decoder (parts.py); codec_decode, codec_semantic, codec_acoustic,
codec_quantize (codecs/xcodec2).

What the manifest says, for the runtime:

    variant    the codec's sample rate, as in xcodec2-16000: the model itself has one variant
    tokens     empty, eog, pad, eos, y_sep, x_sep: the special ids by name
    sampling   the settings whose defaults the checkpoint brings
    section    what Section of voxport.systems.t5gemma.section lists
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from voxport.codecs.xcodec2 import CodecSection
from voxport.recipe import Recipe
from voxport.systems.t5gemma.section import RopeSection, Section
from voxport_exporters.codecs.xcodec2 import stages as xcodec2
from voxport_exporters.codecs.xcodec2 import w2vbert
from voxport_exporters.graphs.part import Part, Parts
from voxport_exporters.pack import Job
from voxport_exporters.systems.t5gemma import hf
from voxport_exporters.systems.t5gemma import parts as language_model
from voxport_exporters.systems.t5gemma.checkpoint import open_checkpoint
from voxport_exporters.systems.t5gemma.config import Config, Stack
from voxport_exporters.systems.t5gemma.fidelity import fidelity
from voxport_exporters.systems.t5gemma.recipes import LM_RULES
from voxport_exporters.systems.t5gemma.tokenizer import tokenizer as read_tokenizer

RECIPES = {name: Recipe(name, rules) for name, rules in LM_RULES.items()}
CODEC_RECIPES = xcodec2.RECIPES


def job(
    root: Path,
    codec: Path | None = None,
    tokenizer: Path | None = None,
    semantic: Path | None = None,
    weights: Path | None = None,
    lora: Path | None = None,
    softcap: bool = False,
) -> Job:
    """The model in `root`, which is its folder or holds it beside the others.

    `codec`, `tokenizer`, `semantic`: the folders of XCodec2, tokenizer.json and w2v-BERT's config, found when left out;
    `weights`: a trainer's checkpoint instead of the folder's weights; `lora`: a LoRA run, merged; `softcap`: attention
    scores are capped as the config says, which upstream's model does not do.
    Raises FileNotFoundError or ValueError that say in one line what is missing or does not fit.
    """
    checkpoint = open_checkpoint(root, weights, lora)
    config = checkpoint.config
    speech_config, speech_weights = xcodec2.find(checkpoint.codec(codec))
    speech = xcodec2.read_config(speech_config)
    if speech.codes != config.codes:
        raise ValueError(
            f"{speech_config}: the codec has {speech.codes} codes, the model {config.codes}; "
            "is it the codec that the model was trained with?"
        )
    text, text_files = read_tokenizer(checkpoint.tokenizer(tokenizer), config)
    semantic_config = checkpoint.semantic(semantic) / "config.json"
    w2v_bert = w2vbert.read_config(semantic_config)

    def all_parts() -> Iterator[Part]:
        yield from language_model.parts(checkpoint.weights, config, softcap=softcap)
        yield from xcodec2.parts(xcodec2.open_weights(speech_weights), speech, w2v_bert)

    return Job(
        system="t5gemma",
        variant=f"xcodec2-{speech.rate}",
        sample_rate=speech.rate,
        parts=Parts(all_parts),
        checkpoint=(*checkpoint.files, *text_files, speech_config, speech_weights, semantic_config),
        root=root,
        section=section(config, xcodec2.section(speech)),
        tokens=config.tokens,
        sampling={"extra_cutoff": config.voice.extra_cutoff},
        files={"tokenizer.json": text},
        fidelity=partial(fidelity, config=config),
    )


def section(config: Config, codec: CodecSection) -> Section:
    """The manifest's section."""
    voice = config.voice
    return Section(
        codes=config.codes,
        context=config.encoder.max_position_embeddings,
        frame_rate=voice.encodec_sr,
        progress=bool(voice.use_pm_rope),
        progress_scale=voice.progress_scale,
        most_seconds=voice.audio_max_length,
        guard=voice.text_guard_frames_per_token,
        bos=voice.add_bos_to_text,
        eos=voice.add_eos_to_text,
        parallel=bool(voice.parallel_pattern),
        encoder=_rope(config.encoder),
        decoder=_rope(config.decoder),
        codec=codec,
    )


def write_hf(root: Path, out: Path, weights: Path | None = None, lora: Path | None = None, **_: object) -> str:
    """Writes the checkpoint, merged, as a plain Hugging Face folder. Returns what to do before its use."""
    return hf.write_hf(open_checkpoint(root, weights, lora), out)


def _rope(stack: Stack) -> RopeSection:
    return RopeSection(stack.theta, stack.head_dim)
