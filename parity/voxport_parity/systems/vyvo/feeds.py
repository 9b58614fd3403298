"""VyvoTTS: how its goldens are fed, and in which layout upstream wrote them (docs/systems/vyvo.md; golden.json).

Two kinds of runs: free ones, whose tokens are compared, and forced ones, in which upstream's own ids go in step by
step, so that one choice that differs cannot hide what follows. Taps (layers) come from the torch nets only.
"""

import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from voxport import bounds, draws
from voxport.bounds import Bound
from voxport.bundle import Bundle
from voxport.codecs import snac
from voxport.graphs.session import Array, State
from voxport.speech.sampler import Sampling
from voxport.speech.speech import recording
from voxport.speech.text import left_padded
from voxport.systems.vyvo.format import Voice
from voxport.systems.vyvo.lm import Grammar
from voxport.systems.vyvo.section import Section
from voxport.systems.vyvo.speaker import Speaker
from voxport_parity.reference import taps_of
from voxport_parity.systems.vyvo import codec as vyvo_codec
from voxport_parity.systems.vyvo import live as vyvo_live
from voxport_parity.trace import Golden, Trace

INPUTS = re.compile(r".*\.(noise\d|u)$")  # draws that upstream made: handed to us, so nothing to compare
TAPS = re.compile(r"^(prefill|step1)\.hidden\d+$|^decode\.(layer\d+|z_q)$|^encode\.(block\d+|z)$")  # of torch nets
# Ids in the order of their scores: in goldens these lie apart, of made-up inputs two may be as good as equal. What they
# score is compared either way.
RANKED = re.compile(r".*\.(raw_top8_ids|top_ids|prob_ids|probs)$")
BEST = 8  # logits of a step that the goldens keep
MANY = 16  # of a row of the batch
FRAMES = 8  # of made-up codes: more than the decoder looks ahead, and back
UNREACHED = -1e9  # upstream's stand-in where the grammar allows one id only
SETTINGS = ("temperature", "top_p", "repetition_penalty", "max_new_tokens")

Run = tuple[list[int], Sampling, Grammar | None, int]  # prompt, how to choose, grammar, limit


def bound(name: str) -> Bound:
    kind = name.rpartition(".")[2]
    if kind == "wav24k":
        return bounds.RESAMPLED
    if kind in ("wav", "wav_faded_tail", "window_chunks"):
        return bounds.SNAC_AUDIO
    if name.startswith(("decode.", "encode.")) and TAPS.match(name):
        return bounds.SNAC_LAYER
    if kind == "probs":
        return bounds.VYVO_CHANCES
    if re.fullmatch(r"hidden\d+|key|value|conv_state", kind):
        return bounds.VYVO_HIDDEN
    return bounds.VYVO_LOGITS if _is_score(kind) else bounds.EQUAL


def rounded(name: str) -> Bound | None:
    """Of a quantized graph to the net that rounds as it does. One activation that rounds the other way may change which
    id is best, and every id after it: what was chosen freely is told, not judged; forced runs are."""
    stages = ("generate", "deinterleave", "clone", "lm")
    if _is_score(name.rpartition(".")[2]) and stage(name) in stages:
        return bounds.QUANTIZED_LM
    chosen = name.endswith(("_ids", ".tokens", ".probs")) and stage(name) in ("generate", "lm")
    return None if chosen or stage(name) == "deinterleave" or name.startswith("clone.row0.codes") else bound(name)


def input_reason(name: str) -> str | None:
    """See `Feeds`."""
    return "a draw of upstream's" if INPUTS.match(name) else None


def _is_score(kind: str) -> bool:
    return re.fullmatch(r".*(hidden\d*|_last|_state|key|value|logits?|scores)", kind) is not None


def stage(name: str) -> str:
    group, _, kind = name.partition(".")
    if group in ("prefill", "step1", "batch") and kind != "input_id":
        return "lm"
    if group in ("decode", "encode"):
        return f"codec_{group}"
    if group == "stream":
        return "codec_decode"
    if kind.startswith("row0."):
        return "codec_decode" if kind.endswith("wav") else "deinterleave"
    if kind.startswith("codes"):
        return "deinterleave"
    generated = kind and group in ("greedy", "sampled", "unconstrained", "clone")
    return "generate" if generated and kind not in ("input_ids", "attention_mask") else "frontend"


def without_golden(bundle: Bundle) -> Golden:
    """Inputs for a checkpoint nobody has goldens for: a sentence, eight frames of codes or more, and draws."""
    ids, codec = bundle.manifest.tokens, snac.Codec.of(bundle, bundle.section(Section).codec)
    frames = FRAMES * math.lcm(codec.frame, codec.unit) // codec.frame  # whole attention windows
    size, places = codec.size, len(codec.order)
    codes = (draws.uniforms(0, "parity.codes", 0, (frames, places)) * size).astype(np.int64)
    spoken = (codes + ids["AUDIO_TOKENS_START"] + size * np.arange(places)).reshape(-1)
    tokens = np.concatenate(([ids["START_OF_AI"], ids["START_OF_SPEECH"]], spoken))[None]
    given: Trace = {f"greedy.codes{i}": level[None] for i, level in enumerate(codec.deinterleave(codes))}
    for i, rate in enumerate(codec.rates):
        given[f"decode.noise{i}"] = draws.normals(0, f"parity.noise.{i}", 0, frames * codec.frame * rate)
    given |= {"greedy.tokens": tokens, "sampled.tokens": tokens}
    given["sampled.u"] = draws.uniforms(0, "parity.tokens", 0, tokens.shape)
    given["ref.wav24k"] = draws.normals(0, "parity.reference", 0, bundle.manifest.sample_rate) * np.float32(0.1)
    notes = {"texts": {"text": "The quick brown fox.", "voice": "zoe"}, "generation": {}}
    return Golden(given, notes, None)


def live(files: Sequence[Path], golden: Golden, made: Trace) -> Iterator[tuple[str, Array, Array]]:
    """(name, the nets', upstream's) of what upstream's own classes compute of the same inputs."""
    for name, wanted in vyvo_live.upstream(files, golden, made):
        if name in made:
            got = made[name]
            columns = min(got.shape[-1], wanted.shape[-1])  # the codec's taps: of one that goes on past the end
            yield (name, got[..., :columns], wanted[..., :columns]) if TAPS.match(name) else (name, got, wanted)


def trace(bundle: Bundle, golden: Golden) -> Trace:
    """Everything the bundle can produce of the golden's names."""
    speaker, tensors = Speaker(bundle, threads=1), golden.tensors
    made = _frontend(speaker, golden)
    runs = _runs(speaker, golden)
    for name, run in runs.items():
        made |= _free(speaker, tensors, name, run)
        if name != "unconstrained":
            made |= _forced(speaker, tensors[f"{name}.tokens"][0].tolist(), name, run)
    made |= _calls(speaker, bundle, runs["greedy"][0]) | _batch(bundle, speaker, runs)
    made |= vyvo_codec.encoded(speaker, bundle, tensors["ref.wav24k"])
    made |= vyvo_codec.decoded(bundle, speaker, tensors) | dict(vyvo_codec.audio(speaker, tensors))
    if golden.folder is None:
        made = {name: value for name, value in made.items() if not RANKED.match(name)}
    wanted = tensors.keys()
    return {n: _cut(v, tensors[n]) if n in wanted and TAPS.match(n) else v for n, v in made.items()}


def streamed(bundle: Bundle, golden: Golden) -> Trace:
    """The audio again, its codes fed in pieces of random length; and the tokens of a listener who takes it by frame."""
    speaker, texts = Speaker(bundle, threads=1), golden.notes["texts"]
    made = dict(vyvo_codec.audio(speaker, golden.tensors, np.random.default_rng(0)))
    limit = golden.tensors["greedy.tokens"].shape[1]
    speech = speaker.say(texts["text"], greedy=True, max_new_tokens=limit, chunk_frames=1)
    speech.samples()
    return made | {"greedy.tokens": speech.tokens[None]}


# ---------------------------------------------------------------------------------------------------- text to ids


def _frontend(speaker: Speaker, golden: Golden) -> Trace:
    texts = golden.notes["texts"]
    prompts = [speaker.prompt(texts["text"], voice, "current") for voice in (None, texts["voice"])]
    ids, pads = left_padded(prompts, speaker.format.ids["PAD_TOKEN"])
    made = {
        "prompt_ids": np.array([prompts[0]]),
        "prompt_ids_voice": np.array([prompts[1]]),
        "batch_ids": ids,
        "batch_mask": (np.arange(ids.shape[1]) >= pads[:, None]).astype(np.int64),
    }
    if "clone.input_ids" in golden.tensors:
        friend, target = _friend(speaker, golden), texts["clone_targets"][0]
        made["clone.input_ids"] = np.array([speaker.prompt(target, friend, "current")])
        made["clone.attention_mask"] = np.ones_like(made["clone.input_ids"])
        made["clone_legacy.input_ids"] = np.array([speaker.prompt(target, friend, "classic")])
        made["ref.wav24k"] = speaker.resampled(*recording(_reference(golden)))
    return made


def _friend(speaker: Speaker, golden: Golden) -> Voice:
    return speaker.enroll(_reference(golden), golden.notes["texts"]["clone_ref"])


def _reference(golden: Golden) -> str:
    return str(golden.folder / golden.notes["files"]["reference"].split()[0])


# ---------------------------------------------------------------------------------------------------- ids to ids


def _runs(speaker: Speaker, golden: Golden) -> dict[str, Run]:
    texts, notes = golden.notes["texts"], golden.notes["generation"]

    def run(name: str, text: str, voice: str | Voice | None, **given: bool) -> Run:
        said = notes.get(name, {}).get("settings", {})
        most = golden.tensors[f"{name}.tokens"].shape[1] if not said else 0
        limit = {"max_new_tokens": most} if most else {}
        plan = speaker.plan(voice, True, {k: said[k] for k in SETTINGS if k in said} | limit | given)
        return speaker.prompt(text, voice, "current"), plan.sampling, plan.grammar, int(plan.chosen["max_new_tokens"])

    runs = {"greedy": run("greedy", texts["text"], None), "sampled": run("sampled", texts["text"], texts["voice"])}
    if "unconstrained.tokens" in golden.tensors:
        runs["unconstrained"] = run("unconstrained", texts["text"], None, constrained_decoding=False)
    if "clone.tokens" in golden.tensors:
        runs["clone"] = run("clone", texts["clone_targets"][0], _friend(speaker, golden))
    return runs


def _free(speaker: Speaker, tensors: Trace, name: str, run: Run) -> Trace:
    """What is generated, and the codes in it."""
    prompt, sampling, grammar, limit = run
    u = tensors.get(f"{name}.u")
    limit = limit if u is None else min(limit, u.shape[1])  # upstream drew no more
    tokens = np.stack(list(speaker.model.generate([prompt], [limit], sampling, grammar, u)), axis=1)
    made = {f"{name}.tokens": tokens}
    if grammar is not None:
        end = speaker.format.end
        spoken = tokens[0, len(grammar.forced) :]
        spoken = spoken[spoken != end]
        whole = spoken[: len(spoken) // speaker.format.frame * speaker.format.frame]
        levels = speaker.codec.deinterleave(speaker.format.frames(whole).reshape(-1))
        prefix = "clone.row0" if name == "clone" else name
        made |= {f"{prefix}.codes{i}": level[None] for i, level in enumerate(levels)}
    return made


def _forced(speaker: Speaker, tokens: list[int], name: str, run: Run) -> Trace:
    """Every step's best logits, best scores and, where ids were drawn, chances."""
    prompt, sampling, grammar, _ = run
    assert grammar is not None
    said = np.zeros(speaker.model.vocabulary, bool)
    said[prompt] = True
    steps: dict[str, list[Array]] = {}
    chances: list[tuple[Array, Array]] = []
    for step, (hidden, token) in enumerate(zip(speaker.model.read(prompt, tokens), tokens, strict=True)):
        whole = speaker.model.logits("head", hidden)[0]
        ids, scores = np.array([token]), whole[[token]]
        if step >= len(grammar.forced):
            ids, rows = speaker.model.allowed(hidden, grammar, step)
            scores = rows[0]
        scores = sampling.penalized(scores, said[ids])
        best = np.argsort(-whole, kind="stable")[:BEST]
        two = np.append(np.sort(scores)[::-1][:2], np.float32(UNREACHED))[:2]
        seen = {"raw_top8_ids": best, "raw_top8_logits": whole[best], "chosen_raw_logit": whole[token]}
        for key, value in (seen | {"top2_scores": two.astype(np.float32)}).items():
            steps.setdefault(f"{name}.{key}", []).append(value)
        kept, p = sampling.chances(scores)
        order = np.argsort(-p, kind="stable")
        chances.append((ids[kept[order]], p[order]))
        said[token] = True
    made = {key: np.stack(values)[None] for key, values in steps.items()}
    if name == "sampled":
        del made["sampled.top2_scores"]
        most = max(len(p) for _, p in chances)
        drawn = [np.pad(i, (0, most - len(i)), constant_values=-1) for i, _ in chances]
        made["sampled.prob_ids"] = np.stack(drawn)[None]
        made["sampled.probs"] = np.stack([np.pad(p, (0, most - len(p))) for _, p in chances])[None]
    return made


def _calls(speaker: Speaker, bundle: Bundle, prompt: list[int]) -> Trace:
    """The prompt in one call, then one step, layer by layer."""
    lm, none = bundle.session("lm"), np.zeros(1, np.int64)
    state = lm.start(batch=1, capacity=len(prompt) + 1)
    first = speaker.format.ids["START_OF_AI"]
    made: Trace = {"step1.input_id": np.array([[first]])}
    # upstream keeps a column more of each convolution than is ever read: the first of those one token before
    _, before = lm(state.copy(), tokens=np.array([prompt[:-1]]), past=none, pads=none)
    for call, ids, past in (("prefill", prompt, 0), ("step1", [first], len(prompt))):
        out, state = lm(state, tokens=np.array([ids]), past=np.array([past]), pads=none)
        made |= {f"{call}.{name}": value for name, value in taps_of(lm).items()}
        if call == "prefill":
            made["prefill.logits_last"] = speaker.model.logits("head", out["hidden"])
        made |= _caches(call, state, before, past + len(ids))
        before = state.copy()
    return made


def _caches(call: str, state: State, before: State, total: int) -> Iterator[tuple[str, Array]]:
    for name, array in state.items():
        kind, _, layer = name.partition(".")
        if kind == "conv":
            columns = np.concatenate((before[name][:, :1], array), axis=1).transpose(0, 2, 1)
            yield f"{call}.layer{layer}.conv_state", columns
        elif array.dtype == np.float32:  # of codes only the graph knows what they stand for
            yield f"{call}.layer{layer}.{kind.removesuffix('s')}", array[:, :, :total].copy()


def _batch(bundle: Bundle, speaker: Speaker, runs: dict[str, Run]) -> Trace:
    ids, pads = left_padded([runs[name][0] for name in ("greedy", "sampled")], speaker.format.ids["PAD_TOKEN"])
    lm = bundle.session("lm")
    state = lm.start(batch=2, capacity=ids.shape[1])
    hidden = lm(state, tokens=ids, past=np.zeros(1, np.int64), pads=pads)[0]["hidden"]
    logits = speaker.model.logits("head", hidden)
    best = np.argsort(-logits, axis=1, kind="stable")[:, :MANY]
    return {
        "batch.hidden_last": hidden,
        "batch.top_ids": best,
        "batch.top_logits": np.take_along_axis(logits, best, axis=1),
    }


def _cut(value: Array, wanted: Array) -> Array:
    """A tap, of which upstream's golden keeps the first columns."""
    return value[..., : wanted.shape[-1]]
