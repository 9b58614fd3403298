"""Qwen3-TTS: upstream's generations, made again from their settings in the golden's notes.

Every run is made from its text and its recording, by the code that `say` runs. Of a quantized model, where one code
that rounds the other way changes all that follow, the goldens' codes are fed instead, and only scores are compared.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np

from voxport.bundle import Bundle
from voxport.graphs.session import Array
from voxport.speech.sampler import Sampling
from voxport.systems.qwen3tts.lm import Row, Rule
from voxport.systems.qwen3tts.prompt import Prompt
from voxport.systems.qwen3tts.request import Request
from voxport.systems.qwen3tts.speaker import Speaker
from voxport.systems.qwen3tts.voice import synthetic_voice
from voxport_parity.reference import taps_of
from voxport_parity.trace import Golden, Trace

FILTERED = np.float32(-1e30)  # how the goldens write a score that was taken out
ABOUT = ("api", "note", "template")  # what a run's settings say beside the settings

Steps = dict[str, list[Mapping[str, Array]]]  # by stage: the outputs of every call


def runs(speaker: Speaker, golden: Golden) -> "Iterator[Run]":
    """The generations in the notes of which the golden holds tensors; all of them where upstream made none."""
    for name, note in golden.notes["runs"].items():
        if not isinstance(note, dict) or "text" not in note.get("settings", {}):
            continue
        if golden.folder is not None and not any(tensor.startswith(f"{name}.") for tensor in golden.tensors):
            continue
        settings = {k: v for k, v in note["settings"].items() if k not in ABOUT}
        text, language, voice = settings.pop("text"), settings.pop("language", None), settings.pop("speaker", None)
        instruct, ref_text = settings.pop("instruct", None), settings.pop("ref_text", None)
        ref_audio = settings.pop("ref_audio", None)
        if ref_audio is not None and golden.folder is not None:
            ref_audio = golden.folder / ref_audio
        if ref_audio is None and voice is None:
            voice = synthetic_voice(speaker.requests.listener(), speaker.sample_rate)
        settings["parse_special"] = True
        request = speaker.requests.request(
            voice=voice, language=language, ref_audio=ref_audio, ref_text=ref_text, options=settings
        )
        # upstream's wrapper drops the instruct of a 0.6B model; the golden was made below it
        yield Run(name, speaker, replace(request, instruct=instruct or ""), text, golden)


@dataclass
class Run:
    """One generation of upstream's."""

    name: str
    speaker: Speaker
    request: Request
    text: str
    golden: Golden

    def free(self, pieces: np.random.Generator | None = None) -> Trace:
        """As `say` makes it. `pieces`: cuts what goes in and what comes out."""
        prompt, outputs = self._prompt(pieces)
        model, rule = self.speaker.model, self.request.rule
        most = int(self.request.settings["max_new_tokens"])
        if self._has("talker_tokens"):  # one more would be wrong already; caches for it all take the nets' time
            most = min(most, len(self.golden.tensors[f"{self.name}.talker_tokens"]) + 1)
        steps: Steps = {"talker": [], "choice": [], "predictor": []}
        row = Row(prompt, most, lambda: most, self._draws())
        frames = model.generate([row], rule, lambda stage, outputs: steps[stage].append(outputs))
        codes = np.array([frame for (frame,) in frames if frame is not None], np.int64).reshape(-1, model.books)
        tokens = np.array([outputs["code"][0] for outputs in steps["choice"]])
        outputs |= {"codes": codes, "talker_tokens": tokens} | self._scored(steps, tokens, rule)
        if self._has("wav") or self.golden.folder is None:
            outputs["wav"] = np.concatenate(list(self._audio(codes, pieces)))
        return self._named(outputs)

    def forced(self) -> Trace:
        """While the golden's codes are fed, or any."""
        (prompt, outputs), model = self._prompt(None), self.speaker.model
        codes = self.golden.tensors.get(f"{self.name}.codes", np.arange(8 * model.books).reshape(8, -1) % model.size)
        steps: Steps = {"talker": [], "predictor": []}
        hidden = self.golden.tensors.get(f"{self.name}.past_hidden")  # so that one stage's rounding stays its own
        for stage, results in model.read(prompt, codes.astype(np.int64), hidden):
            steps[stage].append(results)
        return self._named(outputs | _joined(steps))

    def prefilled(self, bundle: Bundle) -> Trace:
        """The talker's layers and caches after the prompt."""
        kinds = ("prefill_hidden.", "prefill_k.", "prefill_v.")
        if not any(name.startswith(tuple(f"{self.name}.{kind}" for kind in kinds)) for name in self.golden.tensors):
            return Trace()
        embeds, session = self._prompt(None)[0].embeds, bundle.session("talker")
        start, none = session.start(batch=1, capacity=len(embeds) + 1), np.zeros(1, np.int64)
        _, state = session(start, embeds=embeds[None], past=none)
        taps = taps_of(session)
        outputs = {f"prefill_hidden.{i}": taps[f"hidden{i}"] for i in range(len(taps)) if f"hidden{i}" in taps}
        for name, array in state.items():
            kind, _, layer = name.partition(".")
            outputs[f"prefill_{kind[0]}.{layer}"] = array[:, :, : len(embeds)].copy()
        return self._named(outputs)

    def _prompt(self, pieces: np.random.Generator | None) -> tuple[Prompt, Trace]:
        request = self.request
        if pieces is not None:  # text that is parsed for special tokens is not read piece by piece
            request = replace(request, words=self.speaker.requests.words(False, False))
        prompt = self.speaker.prompt(self.text if pieces is None else _cut(self.text, pieces), request)
        rows = list(prompt.trailing)
        outputs = {
            "prefill_embeds": prompt.embeds[None],
            "trailing_text": np.stack(rows or [prompt.pad])[None],
            "tts_pad_embed": prompt.pad[None, None],
        }
        if request.instruct:
            outputs["ids"] = np.array([request.words.instruct(request.instruct)])
        return replace(prompt, trailing=iter(rows)), outputs

    def _draws(self) -> Callable[[int], Array]:
        """The draws of a frame, float32 [books]: upstream's, or any."""
        books = self.speaker.model.books
        if not self._has("uniforms"):
            return lambda frame: np.modf((frame * books + np.arange(books)) * np.sqrt(2))[0]
        u = self.golden.tensors[f"{self.name}.uniforms"]
        u = np.pad(u, (0, -len(u) % books)).reshape(-1, books)  # the last token draws no frame
        return lambda frame: u[frame]

    def _scored(self, steps: Steps, tokens: Array, rule: Rule) -> Trace:
        """The outputs of all steps, and of a run that draws the scores as upstream's processors leave them."""
        outputs = _joined(steps)
        logits, first = outputs["talker_logits"], self.speaker.prompts.tables.codec(tokens[:1].tolist())
        outputs["cp_in0"] = np.concatenate((outputs["past_hidden"][:1], first))[None]
        if rule.first is not None and rule.rest is not None:
            outputs["talker_scores"] = np.stack([self._scores(logits, tokens, i, rule) for i in range(len(tokens))])
            every = np.arange(outputs["cp_logits"].shape[-1])
            rest = [_filtered(rule.rest, row, every, row) for row in outputs["cp_logits"][0]]
            outputs["cp_scores0"] = np.stack(rest)[None]
        return outputs

    def _scores(self, logits: Array, tokens: Array, step: int, rule: Rule) -> Array:
        occurred = np.zeros(logits.shape[1], bool)
        occurred[tokens[:step]] = True
        ids = self.speaker.model.ids(step, rule)
        assert rule.first is not None
        return _filtered(rule.first, rule.processed.penalized(logits[step, ids], occurred[ids]), ids, logits[step])

    def _audio(self, codes: Array, pieces: np.random.Generator | None) -> Iterator[Array]:
        if pieces is None:
            yield from self.speaker.decode(codes, self.request)
            return
        stream, at = self.speaker.stream(self.request.reference), 0
        while at < len(codes):
            size = int(pieces.integers(0, 6))
            yield stream.feed(codes[at : at + size])
            at += size

    def _has(self, name: str) -> bool:
        return f"{self.name}.{name}" in self.golden.tensors

    def _named(self, outputs: Trace) -> Trace:
        """Under the goldens' names, cut to what they hold (of secondary runs the first rows)."""
        cut = [n for n in outputs if n.endswith(("logits", "scores")) and self._has(n)]
        outputs |= {n: outputs[n][: len(self.golden.tensors[f"{self.name}.{n}"])] for n in cut}
        return {f"{self.name}.{n}": array for n, array in outputs.items()}


def _joined(steps: Steps) -> Trace:
    """Outputs of the steps of one run, one after the other, by the goldens' names; a run has a frame at least."""
    names = {"talker_logits": ("talker", "logits"), "past_hidden": ("talker", "hidden")}
    names |= {"cp_logits": ("predictor", "logits")}
    return {name: np.concatenate([o[key] for o in steps[stage]]) for name, (stage, key) in names.items()}


def _filtered(sampling: Sampling, scores: Array, ids: Array, logits: Array) -> Array:
    """Scores as upstream's processors leave them, [vocabulary]."""
    remaining, _ = sampling.chances(scores)
    out = np.full(len(logits), FILTERED)
    out[ids[remaining]] = scores[remaining] / np.float32(sampling.temperature)
    return out


def _cut(text: str, rng: np.random.Generator) -> Iterator[str]:
    while text:
        size = int(rng.integers(0, 7))
        yield text[:size]
        text = text[size:]
