"""VyvoTTS: how its goldens are fed, and in which layout upstream wrote them (docs/systems/vyvo.md; golden.json).

Taps (layers) come from the torch nets only.
"""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from voxport import bounds, draws
from voxport.bounds import Bound
from voxport.bundle import Bundle
from voxport.codecs import snac
from voxport.graphs.session import Array
from voxport.systems.vyvo.section import Section
from voxport.systems.vyvo.speaker import Speaker
from voxport_parity.systems.vyvo import calls, codec, runs
from voxport_parity.systems.vyvo import live as vyvo_live
from voxport_parity.systems.vyvo.texts import Texts
from voxport_parity.trace import Golden, Trace

TAPS = re.compile(r"^(prefill|step1)\.hidden\d+$|^decode\.(layer\d+|z_q)$|^encode\.(block\d+|z)$")  # of torch nets
# Ids in the order of their scores: in goldens these lie apart, of made-up inputs two may be as good as equal. What they
# score is compared either way.
RANKED = re.compile(r".*\.(raw_top8_ids|top_ids|prob_ids|probs)$")
FRAMES = 8  # of made-up codes: more than the decoder looks ahead, and back
INPUTS = {"noise": "a draw of upstream's codec", "u": "draws that chose upstream's ids"}  # kind -> why it goes in


def bound(name: str) -> Bound:
    """See `Feeds`."""
    kind = name.rpartition(".")[2]
    if kind == "wav24k":
        return bounds.RESAMPLED
    if kind in ("wav", "wav_faded_tail", "window_chunks"):
        return bounds.SNAC_AUDIO
    if name.startswith(("decode.", "encode.")) and TAPS.match(name):
        return bounds.SNAC_LAYER
    if kind == "probs":
        return bounds.LM_CHANCES
    if re.fullmatch(r"hidden\d+|key|value|conv_state", kind):
        return bounds.LM_HIDDEN
    return bounds.LM_LOGITS if _is_score(kind) else bounds.EQUAL


def rounded(name: str) -> Bound | None:
    """See `Feeds`. One activation that rounds the other way may change which id is best, and every id after it: what
    was chosen freely is reported, not judged; forced runs are."""
    if _is_score(name.rpartition(".")[2]) and stage(name) in ("generate", "lm"):
        return bounds.QUANTIZED_LM
    is_choice = name.endswith(("_ids", ".tokens", ".probs")) and stage(name) in ("generate", "lm")
    return None if is_choice or stage(name) == "deinterleave" else bound(name)


def _is_score(kind: str) -> bool:
    return re.fullmatch(r".*(hidden\d*|_last|_state|key|value|logits?|scores)", kind) is not None


def stage(name: str) -> str:
    """See `Feeds`."""
    group, _, kind = name.partition(".")
    last = name.rpartition(".")[2]
    if group in ("prefill", "step1", "batch") and kind != "input_id":
        return "lm"
    if group in ("decode", "encode"):
        return f"codec_{group}"
    if group == "stream" or last == "wav":
        return "codec_decode"
    if re.fullmatch(r"codes\d+", last):
        return "deinterleave"
    return "generate" if last in runs.KINDS else "frontend"


def input_reason(name: str) -> str | None:
    """See `Feeds`."""
    return INPUTS.get(name.rpartition(".")[2].rstrip("0123456789"))


def options(golden: Golden) -> Mapping[str, Any]:
    """See `Feeds`: nothing."""
    return {}


def without_golden(bundle: Bundle) -> Golden:
    """Inputs for a checkpoint nobody has goldens for: a sentence, eight frames of codes or more, and draws."""
    ids, speech = bundle.manifest.tokens, snac.Codec.of(bundle, bundle.section(Section).codec)
    frames = FRAMES * math.lcm(speech.frame, speech.unit) // speech.frame  # whole attention windows
    size, places = speech.size, len(speech.order)
    codes = (draws.uniforms(0, "parity.codes", 0, (frames, places)) * size).astype(np.int64)
    codes_as_ids = (codes + ids["AUDIO_TOKENS_START"] + size * np.arange(places)).reshape(-1)
    tokens = np.concatenate(([ids["START_OF_AI"], ids["START_OF_SPEECH"]], codes_as_ids))[None]
    tensors: Trace = {f"greedy.codes{i}": level[None] for i, level in enumerate(speech.deinterleave(codes))}
    for i, rate in enumerate(speech.rates):
        tensors[f"decode.noise{i}"] = draws.normals(0, f"parity.noise.{i}", 0, frames * speech.frame * rate)
    tensors |= {"greedy.tokens": tokens, "sampled.tokens": tokens}
    tensors["sampled.u"] = draws.uniforms(0, "parity.tokens", 0, tokens.shape)
    tensors["ref.wav24k"] = draws.normals(0, "parity.reference", 0, bundle.manifest.sample_rate) * np.float32(0.1)
    notes = {"texts": {"text": "The quick brown fox.", "voice": "zoe"}, "generation": {}}
    return Golden(tensors, notes, None)


def live(files: Sequence[Path], golden: Golden, trace: Trace) -> Iterator[tuple[str, Array, Array]]:
    """See `Feeds`."""
    for name, expected in vyvo_live.upstream(files, golden, trace):
        if name in trace:
            got = trace[name]
            columns = min(got.shape[-1], expected.shape[-1])  # the codec's taps: of one that goes on past the end
            yield (name, got[..., :columns], expected[..., :columns]) if TAPS.match(name) else (name, got, expected)


def trace(bundle: Bundle, golden: Golden) -> Trace:
    """See `Feeds`."""
    speaker, tensors = Speaker(bundle, threads=1), golden.tensors
    texts = Texts(speaker, golden)
    outputs = texts.trace()
    for run in runs.runs(speaker, golden, texts):
        outputs |= runs.free(speaker, run)
        if run.grammar is not None:
            outputs |= runs.forced(speaker, run)
    plain, named = texts.prompts(*texts.plain()), texts.named()
    outputs |= calls.steps(speaker, bundle, plain[0])
    if named is not None:
        outputs |= calls.batch(speaker, bundle, [*plain, *texts.prompts(*named)])
    sources = codec.sources(speaker, golden)
    reference = tensors.get("ref.wav24k", texts.recording)
    if reference is not None:
        outputs |= codec.encoded(speaker, bundle, reference)
    outputs |= {name: codes for name, codes in sources.items() if name not in tensors}  # `live` decodes them as well
    outputs |= codec.decoded(bundle, speaker, sources) | dict(codec.audio(speaker, sources))
    if golden.folder is None:
        outputs = {name: value for name, value in outputs.items() if not RANKED.match(name)}
    return {n: v[..., : tensors[n].shape[-1]] if n in tensors and TAPS.match(n) else v for n, v in outputs.items()}


def streamed(bundle: Bundle, golden: Golden) -> Trace:
    """See `Feeds`: codes in pieces of random length, and the tokens of a listener who takes the audio by frame."""
    speaker = Speaker(bundle, threads=1)
    outputs = dict(codec.audio(speaker, codec.sources(speaker, golden), np.random.default_rng(0)))
    for run in runs.runs(speaker, golden, Texts(speaker, golden)):
        if run.uniforms is None and run.grammar is not None and len(run.texts) == 1:
            limit = {"max_new_tokens": run.tokens.shape[1]}
            settings = {**run.settings, **limit, "chunk_frames": 1}
            speech = speaker.say(run.texts[0], voice=run.voice, greedy=True, **settings)
            speech.samples()
            outputs[f"{run.name}.tokens"] = speech.tokens[None]
    return outputs
