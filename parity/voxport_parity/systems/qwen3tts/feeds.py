"""Qwen3-TTS: how its goldens are fed (docs/systems/qwen3tts.md; golden.json's notes)."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from voxport import bounds, draws
from voxport.bounds import Bound
from voxport.bundle import Bundle
from voxport.graphs.session import Array
from voxport.speech.speech import SENTENCE
from voxport.systems.qwen3tts.section import Section
from voxport.systems.qwen3tts.speaker import Speaker
from voxport_parity.systems.qwen3tts import codec
from voxport_parity.systems.qwen3tts.runs import runs
from voxport_parity.trace import Golden, Trace

FRAMES = 6  # of made-up codes
SCORES = ("talker_logits", "cp_logits", "talker_scores", "cp_scores0")
GROUPS = {"text": "text", "ref": "audio", "spk": "speaker_encode", "enc": "codec_encode", "dec": "codec_decode"}
KINDS = {
    "input_ids": "text",
    "special_embeds": "text",
    "prefill_embeds": "prompt",
    "trailing_text": "prompt",
    "tts_pad_embed": "prompt",
    "ids": "prompt",
    "cp_logits": "predictor",
    "cp_scores0": "predictor",
    "wav": "end to end",
    "codes": "end to end",
}


def bound(name: str) -> Bound:
    """See `Feeds`."""
    last = name.partition(".")[2]
    if last in ("codes", "talker_tokens", "input_ids", "ids", "probe_codes") or name.startswith("enc.codes"):
        return bounds.EQUAL
    if name.startswith("ref."):
        return bounds.RESAMPLED
    if name.startswith("spk."):
        return bounds.XVECTOR
    if last.endswith("wav"):
        return bounds.CODEC12HZ_AUDIO
    if last in ("prefill_embeds", "trailing_text", "tts_pad_embed", "special_embeds"):
        return bounds.TALKER_PROMPT
    return bounds.TALKER_LOGITS if last in SCORES else bounds.TALKER_HIDDEN


def stage(name: str) -> str:
    """See `Feeds`."""
    first, _, last = name.partition(".")
    return GROUPS.get(first) or KINDS.get(last, "talker")


def rounded(name: str) -> Bound | None:
    """See `Feeds`."""
    return bounds.QUANTIZED_LM if stage(name) in ("talker", "predictor") else bounds.QUANTIZED


def input_reason(name: str) -> str | None:
    """See `Feeds`."""
    if name == codec.PROBE:
        return "codes that are decoded"
    return "draws that chose upstream's codes" if name.endswith(".uniforms") else None


def options(golden: Golden) -> Mapping[str, Any]:
    """See `Feeds`: nothing."""
    return {}


def without_golden(bundle: Bundle) -> Golden:
    """A sentence, greedy and drawn, for a checkpoint nobody has goldens for, and codes and noise for the codec.

    Base clones a synthetic voice.
    """
    section, rate = bundle.section(Section), bundle.manifest.sample_rate
    plain = {"text": SENTENCE, "language": None, "max_new_tokens": 12}
    greedy = plain | {"do_sample": False, "subtalker_dosample": False}
    notes = {"greedy": {"settings": greedy}, "drawn": {"settings": plain}}
    notes |= {"fed": {"settings": greedy | {"non_streaming_mode": False}}}
    codes = draws.uniforms(0, "parity.codes", 0, (1, section.books, FRAMES)) * section.codes
    sound = draws.normals(0, "parity.reference", 0, rate) * np.float32(0.1)
    return Golden({codec.PROBE: codes.astype(np.int64), codec.SOUND: sound}, {"runs": notes}, None)


def live(_files: Sequence[Path], _golden: Golden, _trace: Trace) -> Iterator[tuple[str, Array, Array]]:
    """Nothing: upstream's own code is not a package that could be run beside the net."""
    return iter(())


def trace(bundle: Bundle, golden: Golden) -> Trace:
    """See `Feeds`. A quantized model is fed the golden's codes (runs.py)."""
    speaker = Speaker(bundle, threads=1)
    outputs = _text(speaker, golden) | codec.reference(bundle, golden) | codec.decoded(bundle, golden)
    for run in runs(speaker, golden):
        outputs |= run.forced() if bundle.manifest.recipe.name != "fp32" else run.free()
        outputs |= run.prefilled(bundle)
    return outputs


def streamed(bundle: Bundle, golden: Golden) -> Trace:
    """See `Feeds`: the runs again, text in random pieces, audio in random pieces."""
    speaker, outputs = Speaker(bundle, threads=1), Trace()
    for run in runs(speaker, golden):
        outputs |= run.free(np.random.default_rng(0))
    return outputs


def _text(speaker: Speaker, golden: Golden) -> Trace:
    """The embeddings of special tokens, and the ids of texts that the notes say were only tokenized."""
    tokens, tables = speaker.bundle.manifest.tokens, speaker.prompts.tables
    special = tables.text([tokens[f"tts_{name}"] for name in ("bos", "eos", "pad")])[None]
    names = golden.tensors if golden.folder is not None else ("text.special_embeds",)
    outputs = {name: special for name in names if name.endswith(".special_embeds")}
    for name, note in golden.notes["runs"].items():
        if isinstance(note, dict) and "text" in note:
            outputs[f"{name}.input_ids"] = np.array([speaker.requests.words(True, False).ids(note["text"])])
    return outputs
