"""VyvoTTS: upstream's generations, found by the golden's notes and tensors, and made again.

Two kinds: free ones, whose tokens are compared, and forced ones, in which upstream's own ids go in step by step, so
that one choice that differs cannot hide what follows.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from voxport.graphs.session import Array
from voxport.speech.sampler import Sampling
from voxport.systems.vyvo.lm import Grammar
from voxport.systems.vyvo.speaker import Speaker
from voxport.systems.vyvo.voice import Voice
from voxport_parity.systems.vyvo.texts import Texts, padded
from voxport_parity.trace import Golden, Trace

BEST = 8  # logits of a step that the goldens keep
UNREACHED = -1e9  # upstream's stand-in where the grammar allows one id only
SETTINGS = ("temperature", "top_k", "top_p", "repetition_penalty", "max_new_tokens")
# What the tensors of a generation are called, behind its name.
KINDS = ("tokens", "raw_top8_ids", "raw_top8_logits", "chosen_raw_logit", "top2_scores", "prob_ids", "probs", "u")


@dataclass(frozen=True)
class Run:
    """One generation. `tokens` int [rows, n] are upstream's, `uniforms` [rows, n] its draws; None: the best ids."""

    name: str
    texts: list[str]  # one per row
    voice: str | Voice | None
    prompts: list[list[int]]
    settings: Mapping[str, Any]
    sampling: Sampling
    grammar: Grammar | None
    limit: int
    tokens: Array
    uniforms: Array | None

    @property
    def cloned(self) -> bool:
        return isinstance(self.voice, Voice)


def runs(speaker: Speaker, golden: Golden, texts: Texts) -> Iterator[Run]:
    """The generations of which the golden holds tensors: those in its notes first, in their order."""
    for name, tokens in generations(golden).items():
        if not any(tensor.startswith(f"{name}.") for tensor in golden.tensors):
            continue
        note = golden.notes["generation"].get(name, {})
        wording = _wording(golden, texts, name, note, len(tokens))
        if wording is None:
            continue
        rows, voice = wording
        noted = {k: v for k, v in note.get("settings", {}).items() if k in SETTINGS}
        settings = {"max_new_tokens": tokens.shape[1]} | noted
        plan = speaker.request(voice, True, settings)
        if plan.grammar is not None and tuple(tokens[0, : len(plan.grammar.forced)]) != plan.grammar.forced:
            plan = speaker.request(voice, True, settings | {"constrained_decoding": False})
        prompts = [speaker.prompt(text, voice, "current") for text in rows]
        limit, uniforms = int(plan.settings["max_new_tokens"]), golden.tensors.get(f"{name}.u")
        yield Run(name, rows, voice, prompts, settings, plan.sampling, plan.grammar, limit, tokens, uniforms)


def generations(golden: Golden) -> dict[str, Array]:
    """Run -> upstream's ids int64 [rows, n]: a tensor, or in the notes."""
    notes = golden.notes["generation"]
    named = (name.rpartition(".")[0] for name in golden.tensors if name.rpartition(".")[2] in KINDS)
    tokens = {
        name: golden.tensors.get(f"{name}.tokens", notes.get(name, {}).get("tokens")) for name in (*notes, *named)
    }
    return {name: np.array(ids, np.int64) for name, ids in tokens.items() if ids is not None}


def _wording(
    golden: Golden, texts: Texts, name: str, note: Mapping[str, Any], rows: int
) -> tuple[list[str], str | Voice | None] | None:
    """(text of every row, voice) of a run: what makes a prompt as long as the notes say; None when nothing can be."""
    if golden.meaning(f"{name}.input_ids") or f"{name}.input_ids" in golden.tensors:
        return texts.cloned(rows)
    candidates = [c for c in (texts.plain(), texts.named(), texts.cloned(rows)) if c is not None]
    length = note.get("prompt_len")
    fitting = (c for c in candidates if length in (None, max(map(len, texts.prompts(*c)))))
    return next(fitting, None)


def free(speaker: Speaker, run: Run) -> Trace:
    """What is generated, and the codes in it."""
    limit = run.limit if run.uniforms is None else min(run.limit, run.uniforms.shape[1])  # upstream drew no more
    limits = [limit] * len(run.prompts)
    steps = speaker.model.generate(run.prompts, limits, run.sampling, run.grammar, run.uniforms)
    tokens = np.stack(list(steps), axis=1)
    outputs: Trace = {f"{run.name}.tokens": tokens, f"{run.name}.prompt": padded(speaker, run.prompts)[0]}
    if run.grammar is not None:
        for row, ids in enumerate(tokens):
            prefix = f"{run.name}.row{row}" if run.cloned else run.name
            levels = codes(speaker, ids)
            outputs |= {f"{prefix}.codes{i}": level[None] for i, level in enumerate(levels)}
    return outputs


def codes(speaker: Speaker, tokens: Array) -> list[Array]:
    """The codec's levels int64 [n] in ids int [n] that the grammar allowed."""
    form = speaker.format
    speech = tokens[len(form.grammar(False, "current", 0).forced) :]
    ended = np.flatnonzero(speech == form.end)
    speech = speech[: ended[0]] if len(ended) else speech
    whole = speech[: len(speech) // form.frame * form.frame]
    return speaker.codec.deinterleave(form.ids_to_codes(whole).reshape(-1))


def forced(speaker: Speaker, run: Run) -> Trace:
    """Every step's best logits, best scores and, where ids were drawn, chances; only of runs with a grammar."""
    rows = [_forced_row(speaker, run, row) for row in range(len(run.prompts))]
    outputs = {f"{run.name}.{key}": np.stack([steps[key] for steps, _ in rows]) for key in rows[0][0]}
    if run.uniforms is not None:
        most = max(len(p) for _, chances in rows for _, p in chances)
        ids, p = (
            np.stack(
                [[np.pad(c[i], (0, most - len(c[i])), constant_values=fill) for c in chances] for _, chances in rows]
            )
            for i, fill in enumerate((-1, 0))
        )
        outputs |= {f"{run.name}.prob_ids": ids, f"{run.name}.probs": p}
    return outputs


def _forced_row(speaker: Speaker, run: Run, row: int) -> tuple[Trace, list[tuple[Array, Array]]]:
    """Of one row: every output by kind, [steps, ...]; per step the ids that may come, the likeliest first, and how
    likely they are."""
    prompt, grammar, tokens = run.prompts[row], run.grammar, run.tokens[row].tolist()
    assert grammar is not None
    model = speaker.model
    occurred = np.zeros(model.vocabulary, bool)  # by id: in the prompt or generated
    occurred[prompt] = True
    steps: dict[str, list[Array]] = {}
    chances: list[tuple[Array, Array]] = []
    for step, (hidden, token) in enumerate(zip(model.read(prompt, tokens), tokens, strict=True)):
        logits = model.logits("head", hidden)[0]
        ids, scores = np.array([token]), logits[[token]]
        if step >= len(grammar.forced):
            ids, allowed = model.allowed(hidden, grammar, step)
            scores = allowed[0]
        scores = run.sampling.penalized(scores, occurred[ids])
        best = np.argsort(-logits, kind="stable")[:BEST]
        two = np.append(np.sort(scores)[::-1][:2], np.float32(UNREACHED))[:2].astype(np.float32)
        values = {"raw_top8_ids": best, "raw_top8_logits": logits[best], "chosen_raw_logit": logits[token]}
        for key, value in (values | {"top2_scores": two}).items():
            steps.setdefault(key, []).append(value)
        remaining, p = run.sampling.chances(scores)
        order = np.argsort(-p, kind="stable")
        chances.append((ids[remaining[order]], p[order]))
        occurred[token] = True
    return {key: np.stack(values) for key, values in steps.items()}, chances
