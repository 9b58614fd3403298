"""Fun-CosyVoice3: upstream's generations of speech tokens, made again (docs/systems/cosyvoice3.md 3; golden.json).

Free runs choose every token, as `say` does, in upstream's own form; forced ones are fed upstream's tokens, so that one
choice that differs cannot hide what follows. Of a quantized model the free ones are reported, not judged.
"""

import re
from contextlib import suppress

import numpy as np

from voxport import bounds, draws
from voxport.bounds import Bound
from voxport.bundle import Bundle
from voxport.graphs.session import Array
from voxport.systems.cosyvoice3 import bistream
from voxport.systems.cosyvoice3.bistream import Dialogue
from voxport.systems.cosyvoice3.lm import SOS, LanguageModel, Row, Rule
from voxport.systems.cosyvoice3.section import Section
from voxport_parity.reference import taps_of
from voxport_parity.systems.cosyvoice3 import sampler
from voxport_parity.systems.cosyvoice3.prompts import Prompt, looked_up, prompt, words
from voxport_parity.trace import Golden, Trace

BEST = Rule(None, compatible=True)
END_OF_PROMPT = "<|endofprompt|>"
LEAST, MOST = 2, 20  # speech tokens per text id (llm/llm.py: min_token_text_ratio, max_token_text_ratio)
TOKENS, RAS_TOKENS, BISTREAM_TOKENS = 12, 20, 70  # of runs of which the goldens hold the first
SCORES = re.compile(r"llm\.(.*_logp|.*_hidden|prefill_cache_.*)")
INPUTS = {
    "llm.ras_draw_q": "draws that chose upstream's tokens",
    "llm.silent_filter_in": "tokens that are filtered",
    "llm.bistream_prompt_text_ids": "ids of a prompt",
    "llm.bistream_prompt_token": "speech of a prompt",
    "sampler.rows": "scores that are sampled from",
    "sampler.history": "tokens that came before",
    "sampler.draw_q": "draws that chose upstream's tokens",
}


def bound(name: str) -> Bound:
    """See `Feeds`."""
    if name.endswith("_logp"):
        return bounds.LM_LOGITS
    return bounds.LM_HIDDEN if SCORES.fullmatch(name) else bounds.EQUAL


def rounded(name: str) -> Bound | None:
    """See `Feeds`."""
    if SCORES.fullmatch(name):
        return bounds.QUANTIZED_LM
    return None if stage(name) == "generate" else bound(name)


def stage(name: str) -> str:
    """See `Feeds`."""
    if name.startswith("sampler.") or "silent_filter" in name:
        return name.removeprefix("llm.").partition("_filter")[0].partition(".")[0]
    return "lm" if SCORES.fullmatch(name) else "prompt" if name.endswith("lm_input") else "generate"


def input_reason(name: str) -> str | None:
    """See `Feeds`."""
    return INPUTS.get(name)


def inputs(bundle: Bundle) -> Trace:
    """Ids to read, for a checkpoint nobody has goldens for."""
    first = bundle.section(Section).llm.speech_tokens
    speech = (draws.uniforms(0, "parity.speech", 0, 2 * TOKENS) * first).astype(np.int64)
    text = words(bundle).encode("The quick brown fox jumps over the lazy dog.")
    return {
        "frontend.text_ids": np.array([text]),
        "frontend.prompt_token": speech[None, :TOKENS],
        "llm.greedy_tokens": speech[TOKENS:],
    }


def trace(bundle: Bundle, golden: Golden) -> Trace:
    """See `Feeds`."""
    model = LanguageModel(bundle, 1, bundle.section(Section).llm)
    outputs = sampler.trace(golden)
    main = prompt(model, bundle, golden)
    if main is not None:
        outputs |= _prefilled(bundle, model, golden, main) | _forced(model, golden, main)
        if golden.folder is not None:
            outputs |= _free(model, golden, main)
    for name in (n.removesuffix("_lm_input") for n in golden.tensors if n.endswith("_lm_input")):
        outputs |= _other(model, bundle, golden, name)
    return outputs | _bistream(model, bundle, golden)


def _prefilled(bundle: Bundle, model: LanguageModel, golden: Golden, main: Prompt) -> Trace:
    """The prompt in one call, then its first token: every layer and cache."""
    lm, embeds, first = bundle.session("lm"), model.prompt(main.text, main.tokens), _tokens(golden, "greedy")[:1]
    past = len(embeds)
    outputs = Trace({"llm.lm_input": embeds[None]})
    state = lm.start(batch=1, capacity=past + 1)
    layers = len([name for name in state if name.startswith("keys.")])
    calls = [("prefill", embeds, 0), ("step1", model.speech(first), past)]
    for call, rows, before in calls[: 1 + len(first)]:
        _, state = lm(state, embeds=rows[None], past=np.array([before]))
        hidden = taps_of(lm).get(f"hidden{layers}")
        if hidden is not None:
            outputs[f"llm.{call}_hidden"] = hidden
    for layer, name in ((0, "0"), (layers - 1, "L")):
        for kind in ("keys", "values"):
            cache = state[f"{kind}.{layer}"]
            if cache.dtype == np.float32:  # of codes only the graph knows what they stand for
                outputs[f"llm.prefill_cache_{kind[0]}{name}"] = cache[:, :, :past].copy()
    return outputs


def _forced(model: LanguageModel, golden: Golden, main: Prompt) -> Trace:
    """Log-probabilities at every step as the sampler gets them, and what the sampler makes of them."""
    outputs, embeds = Trace(), model.prompt(main.text, main.tokens)
    for name in ("greedy", "ras"):
        tokens = _tokens(golden, name)
        if not tokens:
            continue
        scores = np.stack(list(model.read(embeds, tokens)))
        scores[: _least(main.length), model.control(SOS)] = -np.inf  # upstream's way of a least length
        best = -np.sort(-scores, axis=1)[:, :2]
        outputs |= {
            key: rows[: len(golden.tensors[key])] if key in golden.tensors else rows
            for key, rows in ((f"llm.{name}_logp", scores), (f"llm.{name}_top2_logp", best))
        }
        if name == "ras" and golden.folder is not None:
            outputs |= sampler.drawn(golden, scores, tokens)
    return outputs


def _free(model: LanguageModel, golden: Golden, main: Prompt) -> Trace:
    """What is generated: the best tokens, and those that upstream's draws choose."""
    outputs, embeds, least = Trace(), model.prompt(main.text, main.tokens), _least(main.length)
    if "llm.greedy_tokens" in golden.tensors:
        row = Row(embeds, least, MOST * main.length, sampler.none)
        outputs["llm.greedy_tokens"] = np.array(list(model.generate(row, BEST)))
    if "llm.ras_tokens" in golden.tensors and sampler.has_draws(golden):
        most = max(RAS_TOKENS, len(golden.tensors["llm.ras_tokens"]))
        row = Row(embeds, least, most, sampler.draws(golden))
        outputs["llm.ras_tokens"] = np.array(list(model.generate(row, Rule(sampler.ras(golden), compatible=True))))
    return outputs


def _other(model: LanguageModel, bundle: Bundle, golden: Golden, name: str) -> Trace:
    """A run of which only the embeddings are known that went in."""
    text, speech = looked_up(model, bundle, golden.tensors[f"{name}_lm_input"][0])
    embeds = model.prompt(text, speech)
    most = max(TOKENS, len(golden.tensors.get(f"{name}_tokens", ())))
    tokens = np.array(list(model.generate(Row(embeds, _least(len(text)), most, sampler.none), BEST)))
    return {f"{name}_lm_input": embeds[None], f"{name}_tokens": tokens}


def _bistream(model: LanguageModel, bundle: Bundle, golden: Golden) -> Trace:
    """Text in the pieces that the notes hold."""
    tensors, pieces = golden.tensors, golden.notes.get("bistream_text_chunks")
    if pieces is None or not {f"llm.bistream_{name}" for name in ("prompt_text_ids", "prompt_token")} <= {*tensors}:
        return Trace()
    tokenizer = words(bundle)
    ids, speech = (tensors[f"llm.bistream_{name}"][0].tolist() for name in ("prompt_text_ids", "prompt_token"))
    end = 1 + ids.index(tokenizer.encode(END_OF_PROMPT)[0])
    limit = len(tensors.get("llm.bistream_tokens", range(BISTREAM_TOKENS)))
    text = (tokenizer.encode(piece) for piece in pieces)
    dialogue = Dialogue(ids[:end], ids[end:], speech, text, 0, 0, limit, sampler.none)
    tokens: list[int] = []
    lengths: list[int] = []

    def watch(name: str, array: Array) -> None:
        if name == "embeds":
            lengths.append(len(array))

    # A quantized model may end before the text does, where upstream stops, too.
    with suppress(ValueError):
        tokens.extend(bistream.generate(model, dialogue, BEST, watch))
    return {"llm.bistream_tokens": np.array(tokens), "llm.bistream_step_lens": np.array(lengths)}


def _tokens(golden: Golden, name: str) -> list[int]:
    """Upstream's tokens of a run: a tensor, or in the notes; none where nobody knows them."""
    tokens = golden.tensors.get(f"llm.{name}_tokens", golden.notes.get(f"{name}_tokens", ()))
    return [int(token) for token in tokens]


def _least(length: int) -> int:
    """Tokens before which a text of `length` ids should not end."""
    return LEAST * length
