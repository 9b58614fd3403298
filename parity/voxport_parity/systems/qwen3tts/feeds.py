"""Qwen3-TTS: how its goldens are fed (docs/systems/qwen3tts.md; fixtures' golden.json).

Every run of upstream's is made again from its text and its recording, by the code that `say` runs. Of a quantized
model, where one code that rounds the other way changes all that follow, the goldens' codes are said instead, and only
scores are compared.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from voxport import bounds
from voxport.audio import files as audio
from voxport.bounds import Bound
from voxport.bundle import Bundle
from voxport.codecs import codec12hz
from voxport.graphs.session import Array
from voxport.speech.sampler import Sampling
from voxport.speech.speech import SENTENCE
from voxport.systems.qwen3tts.lm import Row, Rule
from voxport.systems.qwen3tts.prompt import Prompt
from voxport.systems.qwen3tts.request import Request
from voxport.systems.qwen3tts.section import Section
from voxport.systems.qwen3tts.speaker import Speaker, stranger
from voxport_parity.reference import taps_of
from voxport_parity.trace import Golden, Trace

FILTERED = np.float32(-1e30)  # how the goldens write a score that was taken out
ABOUT = ("api", "note", "template")  # what a run's settings say beside the settings
MAIN = ("icl", "cv_nonstream")  # the run whose codes the codec's goldens decode
Seen = dict[str, list[Mapping[str, Array]]]
CHUNKED = re.compile(r"dec\.chunked_(\d+)_(\d+)_wav")


def bound(name: str) -> Bound:
    """Of a tensor by the goldens' name."""
    last = name.partition(".")[2]
    if last in ("codes", "talker_tokens", "input_ids", "ids", "probe_codes") or name.startswith("enc.codes"):
        return bounds.EQUAL
    if name.startswith("ref."):
        return bounds.RESAMPLED
    if name.startswith("spk."):
        return bounds.QWEN3TTS_VOICE
    if last.endswith("wav"):
        return bounds.QWEN3TTS_AUDIO
    if last in ("prefill_embeds", "trailing_text", "tts_pad_embed", "special_embeds"):
        return bounds.QWEN3TTS_PROMPT
    scores = ("talker_logits", "cp_logits", "talker_scores", "cp_scores0")
    return bounds.QWEN3TTS_LOGITS if last in scores else bounds.QWEN3TTS_HIDDEN


def stage(name: str) -> str:
    """Where a tensor comes from."""
    first, _, last = name.partition(".")
    groups = {"text": "text", "ref": "audio", "spk": "speaker_encode", "enc": "codec_encode", "dec": "codec_decode"}
    kinds = {"cp_logits": "predictor", "cp_scores0": "predictor", "wav": "end to end", "codes": "end to end"}
    kinds |= dict.fromkeys(("prefill_embeds", "trailing_text", "tts_pad_embed", "ids"), "prompt")
    return groups.get(first) or kinds.get(last, "talker")


def rounded(name: str) -> Bound:
    """Of a quantized graph to the torch net that rounds as it does."""
    return bounds.QUANTIZED_LM if stage(name) in ("talker", "predictor") else bounds.QUANTIZED


def input_reason(name: str) -> str | None:
    """See `Feeds`."""
    if name == "dec.probe_codes":
        return "codes that are decoded"
    return "draws of upstream's" if name.endswith(".uniforms") else None


def without_golden(_bundle: Bundle) -> Golden:
    """A sentence, greedy and drawn, for a checkpoint nobody has goldens for; Base clones a made-up voice."""
    plain = {"text": SENTENCE, "language": None, "max_new_tokens": 12}
    greedy = plain | {"do_sample": False, "subtalker_dosample": False}
    runs = {"greedy": {"settings": greedy}, "drawn": {"settings": plain}}
    runs |= {"fed": {"settings": greedy | {"non_streaming_mode": False}}}
    return Golden({}, {"runs": runs}, None)


def live(_files: Sequence[Path], _golden: Golden, _trace: Trace) -> Iterator[tuple[str, Array, Array]]:
    """Nothing: upstream's own code is not a package that could be run beside the net."""
    return iter(())


def trace(bundle: Bundle, golden: Golden) -> Trace:
    """Everything the bundle's stages can produce of the golden's names."""
    speaker = Speaker(bundle, threads=1)
    made = _text(speaker, golden) | _reference(bundle, golden) | _decoded(bundle, golden)
    for run in _runs(speaker, golden):
        made |= run.forced() if bundle.manifest.recipe.name != "fp32" else run.free()
        made |= run.prefilled(bundle)
    return made


def streamed(bundle: Bundle, golden: Golden) -> Trace:
    """The runs again: text in random pieces, audio in random pieces."""
    speaker, made = Speaker(bundle, threads=1), Trace()
    for run in _runs(speaker, golden):
        made |= run.free(np.random.default_rng(0))
    return made


# ---------------------------------------------------------------------------------------------------------- runs


@dataclass
class _Run:
    """One generation of upstream's."""

    name: str
    speaker: Speaker
    request: Request
    text: str
    golden: Golden

    def free(self, pieces: np.random.Generator | None = None) -> Trace:
        """As `say` makes it. `pieces`: cuts what goes in and what comes out."""
        prompt, made = self._prompt(pieces)
        model, rule = self.speaker.model, self.request.rule
        most = int(self.request.chosen["max_new_tokens"])
        if self._has("talker_tokens"):  # one more would be wrong already; caches for it all take the nets' time
            most = min(most, len(self.golden.tensors[f"{self.name}.talker_tokens"]) + 1)
        seen: Seen = {"talker": [], "choice": [], "predictor": []}
        row = Row(prompt, most, lambda: most, self._draws())
        codes = np.array(
            [f for (f,) in model.generate([row], rule, lambda s, o: seen[s].append(o)) if f is not None], np.int64
        ).reshape(-1, model.books)
        made |= {"codes": codes, "talker_tokens": np.array([o["code"][0] for o in seen["choice"]])}
        made |= self._seen(seen, made["talker_tokens"], rule)
        if self._has("wav") or not self.golden.tensors:
            made["wav"] = np.concatenate(list(self._audio(codes, pieces)))
        return self._named(made)

    def forced(self) -> Trace:
        """While the golden's codes are said, or any."""
        (prompt, made), model = self._prompt(None), self.speaker.model
        codes = self.golden.tensors.get(f"{self.name}.codes", np.arange(8 * model.books).reshape(8, -1) % model.size)
        seen: Seen = {"talker": [], "predictor": []}
        hidden = self.golden.tensors.get(f"{self.name}.past_hidden")  # so that one stage's rounding stays its own
        for kind, outputs in model.read(prompt, codes.astype(np.int64), hidden):
            seen[kind].append(outputs)
        return self._named(made | _joined(seen))

    def prefilled(self, bundle: Bundle) -> Trace:
        """The talker's layers and caches after the prompt."""
        if not self._has("prefill_hidden.0"):
            return Trace()
        embeds, session = self._prompt(None)[0].embeds, bundle.session("talker")
        start, none = session.start(batch=1, capacity=len(embeds) + 1), np.zeros(1, np.int64)
        _, state = session(start, embeds=embeds[None], past=none, pads=none)
        taps: Mapping[str, Array] = taps_of(session)
        made = {f"prefill_hidden.{i}": taps[f"hidden{i}"] for i in range(len(taps)) if f"hidden{i}" in taps}
        for name, array in state.items():
            kind, _, layer = name.partition(".")
            made[f"prefill_{kind[0]}.{layer}"] = array[:, :, : len(embeds)].copy()
        return self._named(made)

    def _prompt(self, pieces: np.random.Generator | None) -> tuple[Prompt, Trace]:
        request = self.request
        if pieces is not None:  # text that is parsed for special tokens is not read piece by piece
            words = self.speaker.requests.words(False, False)
            request = replace(request, words=words)
        prompt = self.speaker.prompt(self.text if pieces is None else _cut(self.text, pieces), request)
        rows = list(prompt.trailing)
        made = {
            "prefill_embeds": prompt.embeds[None],
            "trailing_text": np.stack(rows or [prompt.pad])[None],
            "tts_pad_embed": prompt.pad[None, None],
        }
        if request.instruct:
            made["ids"] = np.array([request.words.instruct(request.instruct)])
        return replace(prompt, trailing=iter(rows)), made

    def _draws(self) -> Any:
        books = self.speaker.model.books
        if not self._has("uniforms"):
            return lambda frame: np.modf((frame * books + np.arange(books)) * np.sqrt(2))[0]
        u = self.golden.tensors[f"{self.name}.uniforms"]
        u = np.pad(u, (0, -len(u) % books)).reshape(-1, books)  # the last token draws no frame
        return lambda frame: u[frame]

    def _seen(self, seen: Seen, tokens: Array, rule: Rule) -> Trace:
        made = _joined(seen)
        logits, first = made["talker_logits"], self.speaker.prompts.tables.codec(tokens[:1].tolist())
        made["cp_in0"] = np.concatenate((made["past_hidden"][:1], first))[None]
        if rule.first is not None and rule.rest is not None:
            made["talker_scores"] = np.stack([self._scores(logits, tokens, i, rule) for i in range(len(tokens))])
            every = np.arange(made["cp_logits"].shape[-1])
            made["cp_scores0"] = np.stack([_kept(rule.rest, row, every, row) for row in made["cp_logits"][0]])[None]
        return made

    def _scores(self, logits: Array, tokens: Array, step: int, rule: Rule) -> Array:
        said = np.zeros(logits.shape[1], bool)
        said[tokens[:step]] = True
        ids = self.speaker.model.ids(step, rule)
        assert rule.first is not None
        return _kept(rule.first, rule.processed.penalized(logits[step, ids], said[ids]), ids, logits[step])

    def _audio(self, codes: Array, pieces: np.random.Generator | None) -> Iterator[Array]:
        if pieces is None:
            yield from self.speaker.audio(codes, self.request)
            return
        stream, at = self.speaker.after(self.request.spoken), 0
        while at < len(codes):
            size = int(pieces.integers(0, 6))
            yield stream.push(codes[at : at + size])
            at += size

    def _has(self, name: str) -> bool:
        return f"{self.name}.{name}" in self.golden.tensors

    def _named(self, made: Trace) -> Trace:
        """Under the goldens' names, cut to what they hold (of secondary runs the first rows)."""
        cut = [n for n in made if n.endswith(("logits", "scores")) and self._has(n)]
        made |= {n: made[n][: len(self.golden.tensors[f"{self.name}.{n}"])] for n in cut}
        return {f"{self.name}.{n}": array for n, array in made.items()}


def _joined(seen: Seen) -> Trace:
    """Outputs of the steps of one run, one after the other, by the goldens' names; a run has a frame at least."""
    names = {"talker_logits": ("talker", "logits"), "past_hidden": ("talker", "hidden")}
    names |= {"cp_logits": ("predictor", "logits")}
    return {name: np.concatenate([o[key] for o in seen[kind]]) for name, (kind, key) in names.items()}


def _runs(speaker: Speaker, golden: Golden) -> Iterator[_Run]:
    for name, run in golden.notes["runs"].items():
        if not isinstance(run, dict) or "settings" not in run or "text" not in run["settings"]:
            continue
        given = {k: v for k, v in run["settings"].items() if k not in ABOUT}
        text, language, voice = given.pop("text"), given.pop("language"), given.pop("speaker", None)
        instruct, ref_text = given.pop("instruct", None), given.pop("ref_text", None)
        ref_audio = golden.folder / given.pop("ref_audio") if "ref_audio" in given else None
        if ref_audio is None and voice is None:
            voice = stranger(speaker)
        given["parse_special"] = True
        request = speaker.requests.of(voice, language, None, ref_audio, ref_text, 0, False, given)
        # upstream's wrapper drops the instruct of a 0.6B model; the golden was made below it
        yield _Run(name, speaker, replace(request, instruct=instruct or ""), text, golden)


def _kept(sampling: Sampling, scores: Array, ids: Array, whole: Array) -> Array:
    """Scores as upstream's processors leave them, [vocabulary]."""
    kept, _ = sampling.chances(scores)
    out = np.full(len(whole), FILTERED)
    out[ids[kept]] = scores[kept] / np.float32(sampling.temperature)
    return out


def _cut(text: str, rng: np.random.Generator) -> Iterator[str]:
    while text:
        size = int(rng.integers(0, 7))
        yield text[:size]
        text = text[size:]


# -------------------------------------------------------------------------------------------------- single stages


def _text(speaker: Speaker, golden: Golden) -> Trace:
    tokens, tables = speaker.bundle.manifest.tokens, speaker.prompts.tables
    made = {"text.special_embeds": tables.text([tokens[f"tts_{n}"] for n in ("bos", "eos", "pad")])[None]}
    if "text" in golden.notes["runs"]:
        words = speaker.requests.words(True, False)
        made["text.input_ids"] = np.array([words.ids(golden.notes["runs"]["text"]["text"])])
    return made


def _reference(bundle: Bundle, golden: Golden) -> Trace:
    """The recording: resampled, and what the encoders see in it, each in one call."""
    if golden.folder is None or not (golden.folder / "ref.wav").is_file():
        return Trace()
    source, rate = audio.read(golden.folder / "ref.wav")
    samples = codec12hz.reference(source, rate)
    made: Trace = {"ref.wav_src": source, "ref.wav_24k": samples}
    if "speaker_encode" in bundle.manifest.stages:
        mel = codec12hz.speaker_mel(samples)
        session = bundle.session("speaker_encode")
        made["spk.mel"] = mel.T[None]
        made["spk.embedding"] = session(session.start(), mel=mel)[0]["embedding"]
        made |= taps_of(session)
    if "codec_encode" in bundle.manifest.stages:
        made |= _encoded(bundle, samples, golden)
    return made


def _encoded(bundle: Bundle, samples: Array, golden: Golden) -> Trace:
    analyse, encode = bundle.session("codec_analyse"), bundle.session("codec_encode")
    frame, steps = (int(t[0].shape[1]) for t in (analyse.stage.inputs, analyse.stage.outputs))
    sound = np.pad(samples, (0, -len(samples) % frame)).reshape(-1, frame)
    found = analyse(analyse.start(), audio=sound, samples=np.array([len(samples)]))[0]["features"]
    real = np.array([-(-len(samples) * steps // frame)])
    made = {"enc.codes": encode(encode.start(), features=found, steps=real)[0]["codes"]}
    taps = taps_of(analyse) | taps_of(encode)
    return made | {n: v[..., : golden.tensors[n].shape[-1]] for n, v in taps.items() if n in golden.tensors}


def _decoded(bundle: Bundle, golden: Golden) -> Trace:
    """The codec alone, on the goldens' codes."""
    if "dec.probe_codes" not in golden.tensors:
        return Trace()
    session = bundle.session("codec_decode")
    decoder = codec12hz.Decoder(session, bundle.section(Section).codes)
    made: Trace = {"dec.probe_wav": decoder.decode(golden.tensors["dec.probe_codes"][0].T)[None, None]}
    made |= taps_of(session)
    codes = next(golden.tensors[f"{run}.codes"] for run in MAIN if f"{run}.codes" in golden.tensors)
    made["dec.full_wav"] = decoder.decode(codes)[None, None]
    for name in golden.tensors:
        if match := CHUNKED.fullmatch(name):
            made[name] = decoder.chunked(codes, int(match[1]), int(match[2]))[None, None]
    return made
