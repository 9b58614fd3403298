"""VyvoTTS through the runtime: upstream's prompts, tokens and audio, and what streaming promises."""

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.bundles import Export

from voxport import bounds
from voxport.audio import files
from voxport.bundle import Bundle
from voxport.codecs.noise import from_arrays, seeded
from voxport.speech.sampler import Sampling
from voxport.systems.vyvo.format import Dialect
from voxport.systems.vyvo.lm import Grammar, LanguageModel
from voxport.systems.vyvo.request import SCHEMA
from voxport.systems.vyvo.speaker import Speaker
from voxport.systems.vyvo.voice import Voice

Array = np.ndarray
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


@pytest.fixture(scope="session")
def texts(vyvo_checkpoint: Path) -> dict[str, Any]:
    held: dict[str, Any] = json.loads((vyvo_checkpoint / "golden.json").read_text())["texts"]
    return held


@pytest.fixture(scope="session")
def speaker(vyvo_bundles: Export) -> Speaker:
    return Speaker(Bundle(vyvo_bundles("fp32", "cpu")), threads=1)


@pytest.fixture(scope="session")
def friend(speaker: Speaker, vyvo_checkpoint: Path, texts: dict[str, Any]) -> Voice:
    return speaker.enroll(vyvo_checkpoint / "ref.wav", texts["clone_ref"])


# ------------------------------------------------------------------------------------------------------- goldens


def test_prompts_are_upstreams(
    speaker: Speaker, friend: Voice, texts: dict[str, Any], vyvo_golden: dict[str, Array]
) -> None:
    target = texts["clone_targets"][0]
    both: tuple[Dialect, Dialect] = ("current", "classic")
    for dialect in both:
        assert speaker.prompt(texts["text"], None, dialect) == vyvo_golden["prompt_ids"][0].tolist()
        assert speaker.prompt(texts["text"], texts["voice"], dialect) == vyvo_golden["prompt_ids_voice"][0].tolist()
    assert speaker.prompt(target, friend, "current") == vyvo_golden["clone.input_ids"][0].tolist()
    assert speaker.prompt(target, friend, "classic") == vyvo_golden["clone_legacy.input_ids"][0].tolist()


def test_an_empty_voice_name_is_a_prefix_in_one_dialect_only(speaker: Speaker, texts: dict[str, Any]) -> None:
    plain = speaker.prompt(texts["text"], None, "current")
    assert speaker.prompt(texts["text"], "", "classic") == plain
    assert len(speaker.prompt(texts["text"], "", "current")) > len(plain)


def test_a_reference_has_upstreams_codes(speaker: Speaker, friend: Voice, vyvo_golden: dict[str, Array]) -> None:
    assert np.array_equal(speaker.format.offset_codes(friend.codes), vyvo_golden["encode.interleaved"])
    wav = vyvo_golden["ref.wav24k"]
    assert np.array_equal(speaker.tokenize(wav, 24000), vyvo_golden["encode.interleaved"])


@pytest.mark.parametrize("target", ["cpu", pytest.param("portable", marks=pytest.mark.slow)])
def test_greedy_tokens_are_upstreams(
    target: str, vyvo_bundles: Export, friend: Voice, texts: dict[str, Any], vyvo_golden: dict[str, Array]
) -> None:
    voice = Speaker(Bundle(vyvo_bundles("fp32", target)))
    free = voice.say(texts["text"], greedy=True)
    assert len(free.samples()) == 20480
    assert np.array_equal(free.tokens, vyvo_golden["greedy.tokens"][0])
    assert free.stopped == "end"
    cloned = voice.say(texts["clone_targets"][0], voice=friend, greedy=True)
    assert len(cloned.samples()) == 18432
    assert np.array_equal(cloned.tokens, vyvo_golden["clone.tokens"][0])


def test_without_the_grammar_tokens_are_upstreams(
    speaker: Speaker, texts: dict[str, Any], vyvo_golden: dict[str, Array]
) -> None:
    for given_ in ({"dialect": "classic"}, {"constrained_decoding": "false"}):
        speech = speaker.say(texts["text"], greedy=True, **given_)  # type: ignore[arg-type]
        assert len(speech.samples()) == 0
        assert np.array_equal(speech.tokens, vyvo_golden["unconstrained.tokens"][0])
        assert "no audio: the model did not begin to speak" in speech.warnings[0]


def test_sampled_tokens_and_their_chances_are_upstreams(
    speaker: Speaker, vyvo_golden: dict[str, Array], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[Array, Array]] = []
    chances = Sampling.chances

    def spy(self: Sampling, scores: Array) -> tuple[Array, Array]:
        kept, p = chances(self, scores)
        seen.append((kept, p))
        return kept, p

    monkeypatch.setattr(Sampling, "chances", spy)
    plan = speaker.request(None, False, {})
    prompt, u = vyvo_golden["prompt_ids_voice"][0].tolist(), vyvo_golden["sampled.u"]
    rows = list(speaker.model.generate([prompt], [160], plan.sampling, plan.grammar, u))
    assert [int(row[0]) for row in rows] == vyvo_golden["sampled.tokens"][0].tolist()
    for (_, p), want in zip(seen, vyvo_golden["sampled.probs"][0, 2:], strict=True):
        assert np.abs(np.sort(p)[::-1] - want[want > 0]).max() < 1e-5


def test_a_batch_makes_what_each_text_makes_alone(
    speaker: Speaker, texts: dict[str, Any], vyvo_golden: dict[str, Array]
) -> None:
    both = [texts["text"], texts["text"], "No."]
    names = [None, texts["voice"], None]
    for greedy in (True, False):
        rows = speaker.batch(both, voices=names, greedy=greedy, max_new_tokens=100)
        # row 0 draws as a call of its own does
        alone = speaker.say(both[0], greedy=greedy, max_new_tokens=100)
        assert np.abs(rows[0].samples() - alone.samples()).max() < 1e-5
        assert np.array_equal(rows[0].tokens, alone.tokens)
    alone = speaker.say(both[1], voice=names[1], greedy=True, max_new_tokens=100)
    row = speaker.batch(both, voices=names, greedy=True, max_new_tokens=100)[1]
    row.samples(), alone.samples()
    assert np.array_equal(row.tokens, alone.tokens)
    assert {row.stopped, alone.stopped} == {"max_new_tokens"}


def test_audio_is_upstreams_faded_at_its_end(speaker: Speaker, vyvo_golden: dict[str, Array]) -> None:
    codes = speaker.format.load_codes(vyvo_golden["greedy.tokens"][0])
    noise = from_arrays([vyvo_golden[f"decode.noise{i}"].reshape(-1) for i in range(4)])
    plan = speaker.request(None, True, {})
    made = np.concatenate(list(speaker.decode(codes, plan.settings, noise)))
    want = vyvo_golden["decode.wav"].reshape(-1).copy()
    want[-2048:] = vyvo_golden["decode.wav_faded_tail"].reshape(-1)
    assert np.abs(made - want).max() < bounds.SNAC_AUDIO.absolute
    for chosen in (speaker.request(None, True, {"dialect": "classic"}), speaker.request(Voice("a", codes), True, {})):
        plain = np.concatenate(list(speaker.decode(codes, chosen.settings, noise)))
        assert np.abs(plain - vyvo_golden["decode.wav"].reshape(-1)).max() < bounds.SNAC_AUDIO.absolute


@pytest.mark.parametrize("fade", [0.0, 0.05, 0.3, 0.8533, 1e9])
@pytest.mark.parametrize("chunk_frames", [1, 3, 40])
def test_the_end_fades_also_where_it_is_longer_than_the_codecs_delay(
    fade: float, chunk_frames: int, speaker: Speaker, vyvo_golden: dict[str, Array]
) -> None:
    codes = speaker.format.load_codes(vyvo_golden["greedy.tokens"][0])
    chosen = speaker.request(None, True, {"fade_out": fade, "chunk_frames": chunk_frames}).settings
    chunks = list(speaker.decode(codes, chosen, seeded(0)))
    want = speaker.codec.decode(speaker.codec.deinterleave(codes), seeded(0))
    n = min(int(fade * 24000), len(want))
    want[len(want) - n :] *= np.linspace(1, 0, n, dtype=np.float32)
    assert np.abs(np.concatenate(chunks) - want).max() < 2e-5
    if chunk_frames == 1 and fade <= 0.3:
        assert len(chunks[-1]) < len(want)  # it streamed


@pytest.mark.parametrize(
    ("name", "value", "wanted"),
    [
        ("runaway_seconds", "inf", "a number from 0 to 1e+09"),
        ("runaway_seconds_per_letter", "1e308", "a number from 0 to 1e+09"),
        ("runaway_seconds", "nan", "a number from 0 to 1e+09"),
        ("split_pause", "inf", "a number from 0 to 60"),
        ("fade_out", "inf", "a number from 0 to 1e+09"),
        ("fade_out", "-0.1", "a number from 0 to 1e+09"),
        ("min_audio_frames", "-1", "a whole number from 0 to 1e+09"),
    ],
)
def test_a_setting_that_cannot_be_is_named(name: str, value: str, wanted: str, speaker: Speaker) -> None:
    with pytest.raises(ValueError, match=rf"^setting {name}: wanted {re.escape(wanted)}, got '{value}'$"):
        speaker.say("Hi.", **{name: value})  # type: ignore[arg-type]


def test_a_number_of_400_digits_is_refused_in_one_line(speaker: Speaker) -> None:
    for name, setting in SCHEMA.items():
        if type(setting.default) is int:
            for value in ("9" * 400, 10**400, 10**5000):
                with pytest.raises(ValueError, match=rf"^setting {name}: wanted a whole number .*, got .{{1,50}}$"):
                    speaker.say("Hi.", **{name: value})  # type: ignore[arg-type]


def test_masking_all_logits_is_what_the_cut_heads_compute(speaker: Speaker, vyvo_golden: dict[str, Array]) -> None:
    form = speaker.format
    hidden = next(speaker.model.read(vyvo_golden["prompt_ids"][0].tolist(), [0]))
    whole = speaker.model.logits("head", hidden)[0]
    for place, start in enumerate(form.starts):
        cut = speaker.model.logits(f"head.{place}", hidden)[0]
        assert np.abs(cut[:-1] - whole[start : start + form.size]).max() < 2e-5
        assert abs(cut[-1] - whole[form.end]) < 2e-5


# ----------------------------------------------------------------------------------------------------- streaming


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 2**32), chunk_frames=st.sampled_from([1, 2, 3, 5, 40]))
def test_any_chunking_gives_the_same_tokens_and_audio(seed: int, chunk_frames: int, speaker: Speaker) -> None:
    want = speaker.say("One more, please.", seed=seed, max_new_tokens=80)
    whole = want.samples()
    got = speaker.say("One more, please.", seed=seed, max_new_tokens=80, chunk_frames=chunk_frames)
    assert np.abs(got.samples() - whole).max() < 2e-5
    assert np.array_equal(got.tokens, want.tokens)


def test_audio_leaves_while_tokens_are_still_made(speaker: Speaker) -> None:
    speech = speaker.say("One, two, three.", min_audio_frames=30, max_new_tokens=2 + 30 * 7)
    counts = []
    for chunk in speech:
        counts.append((len(speech.tokens), len(chunk.samples)))
        assert chunk.sample_rate == 24000
    assert counts[0][0] == 2 + 3 * 7  # as soon as three frames are whole
    assert [tokens for tokens, _ in counts] == sorted(tokens for tokens, _ in counts)
    assert sum(samples for _, samples in counts) == 30 * 2048
    heard = np.cumsum([samples for _, samples in counts])
    # a listener of a model at 0.6 of real time never runs dry: frame f is there after 0.6 f frames' time
    made = np.array([0.6 * (tokens - 2) / 7 * 2048 for tokens, _ in counts])
    assert (made[1:] - made[0] <= heard[:-1]).all()


def test_strict_gives_the_same_audio_at_once_or_none(speaker: Speaker, texts: dict[str, Any]) -> None:
    lenient, strict = (speaker.say(texts["text"], greedy=True, strict=on) for on in (False, True))
    assert np.array_equal(lenient.samples(), strict.samples())
    cut = speaker.say(texts["text"], greedy=True, strict=True, max_new_tokens=40)
    assert len(cut.samples()) == 0
    assert "did not end" in cut.warnings[0]
    assert len(speaker.say(texts["text"], greedy=True, max_new_tokens=40).samples()) == 5 * 2048  # 38 codes


def test_a_classic_clone_streams_with_the_grammar_on(speaker: Speaker, friend: Voice) -> None:
    given_: dict[str, Any] = {"dialect": "classic", "constrained_decoding": True, "max_new_tokens": 70}
    speech = speaker.say("A small test.", voice=friend, seed=3, min_audio_frames=10, **given_)
    assert len(speech.samples()) == 10 * 2048
    assert (speech.tokens >= 410).all()  # no START_OF_AI, no START_OF_SPEECH: the prompt has what there is


def test_the_same_seed_gives_the_same_tokens_another_seed_others(speaker: Speaker) -> None:
    def tokens(seed: int) -> list[int]:
        speech = speaker.say("Once again.", seed=seed, max_new_tokens=60)
        speech.samples()
        held: list[int] = speech.tokens.tolist()
        return held

    assert tokens(1) == tokens(1)
    assert tokens(1) != tokens(2)


@pytest.mark.parametrize("limit", [1, 2, 3, 9, 10])
def test_max_new_tokens_counts_as_upstream_counts(limit: int, speaker: Speaker, vyvo_golden: dict[str, Array]) -> None:
    speech = speaker.say("Hey there, my name is Elise.", greedy=True, max_new_tokens=limit)
    samples = speech.samples()
    assert np.array_equal(speech.tokens, vyvo_golden["greedy.tokens"][0, :limit])
    assert len(samples) == (limit - 2) // 7 * 2048 * (limit > 2)
    assert speech.stopped == "max_new_tokens"


def test_two_speeches_at_once_do_not_disturb_each_other(speaker: Speaker) -> None:
    alone = speaker.say("One more.", seed=1, max_new_tokens=100).samples()
    one, two = (speaker.say("One more.", seed=seed, max_new_tokens=100) for seed in (1, 2))
    got = [a.samples for a, _ in zip(one, two, strict=False)]
    assert np.array_equal(np.concatenate([*got, one.samples()])[: len(alone)], alone)


# ------------------------------------------------------------------------------------------------------- reading


def test_generations_are_read_as_the_dialects_read_them(speaker: Speaker) -> None:
    form = speaker.format
    frame = [410 + p * 4096 + p for p in range(7)]
    want = [[0, 1, 2, 3, 4, 5, 6]]

    def read(ids: list[int], dialect: Dialect, strict: bool = True, clone: bool = False) -> list[list[int]]:
        held: list[list[int]] = form.parse_generation(np.array(ids), clone, dialect, strict).tolist()
        return held

    assert read([405, 401, *frame, 402], "current") == want
    assert read([401, 5, 401, *frame, 402, 9, 9], "current") == want  # the last start, the first end after it
    assert read([401, *frame, frame[0]], "current", strict=False) == want
    assert read([401, *frame[:3], 402, *frame[3:], 402], "classic") == want  # ends are taken out
    assert read([*frame, *frame[:2], 402], "classic", clone=True) == want
    for ids, why in (
        ([405, *frame, 402], "did not begin"),
        ([401, *frame], "did not end"),
        ([401, *frame[:6], 402], "not whole frames"),
        ([401, 402], "less than one frame"),
        ([401, *frame[:6], 99, 402], "speech id 6 is out of place"),
    ):
        with pytest.raises(ValueError, match=why):
            read(ids, "current")


def test_tokens_go_through_files_and_back(
    speaker: Speaker, vyvo_golden: dict[str, Array], vyvo_checkpoint: Path
) -> None:
    coded = speaker.tokenize(*files.read(vyvo_checkpoint / "ref.wav"))
    one = np.concatenate(list(speaker.detokenize(coded, seed=1)))
    assert len(one) == 12 * 2048
    generated = np.concatenate(list(speaker.detokenize(vyvo_golden["greedy.tokens"][0], seed=1)))
    levels = [vyvo_golden[f"greedy.codes{i}"][0] for i in range(3)]
    assert np.abs(generated - speaker.codec.decode(levels, seeded(1))).max() < 2e-5


# -------------------------------------------------------------------------------------------------- guard, splits


def test_what_does_not_end_is_cut_kept_and_said(speaker: Speaker) -> None:
    speech = speaker.say("Hm.", seed=0, min_audio_frames=10**6)
    samples = speech.samples()
    assert speech.stopped == "runaway"
    assert "did not end" in speech.warnings[-1]
    assert len(samples) == int((3.0 + 0.25 * 3) * 24000 / 2048) * 2048
    assert samples[-1] == 0  # faded like any other end
    others: tuple[dict[str, Any], ...] = ({"greedy": True}, {"max_new_tokens": 1100})
    for given_ in others:
        free = speaker.say("Hm.", min_audio_frames=10**6, **given_)
        free.samples()
        assert len(free.tokens) == given_.get("max_new_tokens", 1200)
        assert free.stopped == "max_new_tokens"


def test_long_text_is_said_in_pieces_unless_upstreams_limit_is_asked_for(speaker: Speaker) -> None:
    text = "This is a sentence of some length. " * 3
    speech = speaker.say(text, seed=5, split_letters=40)
    speech.samples()
    assert np.count_nonzero(speech.tokens == 405) == 3
    others: tuple[dict[str, Any], ...] = ({"greedy": True}, {"max_new_tokens": 30}, {"split_letters": 0})
    for given_ in others:
        whole = speaker.say(text, seed=5, **{"split_letters": 40, **given_})
        whole.samples()
        assert np.count_nonzero(whole.tokens == 405) == 1


# ---------------------------------------------------------------------------------------------------------- voices


def test_any_name_is_accepted_and_an_unknown_one_is_said(speaker: Speaker) -> None:
    with pytest.warns(UserWarning, match=r"'zoe' is not known.*EN_B00000_S00110"):
        speech = speaker.say("Hi.", voice="zoe", max_new_tokens=16)
    assert "zoe" in speech.warnings[0]
    assert speaker.say("Hi.", voice="EN_B00000_S00010", max_new_tokens=16).warnings == []
    named = speaker.say("Hi.", use_random_voice=True, max_new_tokens=16)
    assert named.warnings == []


def test_a_voice_is_enrolled_once_and_reused(friend: Voice, tmp_path: Path, vyvo_copy: Path) -> None:
    friend.save(tmp_path / "friend.safetensors")
    (vyvo_copy / "voices").mkdir()
    friend.save(vyvo_copy / "voices" / "ann.safetensors")
    loaded = Speaker(Bundle(vyvo_copy))
    assert loaded.voices[-1] == "ann"

    def tokens(voice: str | Voice) -> list[int]:
        speech = loaded.say("Hi.", voice=voice, greedy=True)
        speech.samples()
        held: list[int] = speech.tokens.tolist()
        assert speech.warnings == []
        return held

    assert tokens(friend) == tokens(str(tmp_path / "friend.safetensors")) == tokens("ann")


def test_a_voice_of_another_codec_is_refused(speaker: Speaker, friend: Voice) -> None:
    for codes in (friend.codes + 4096, friend.codes[:, :6]):
        with pytest.raises(ValueError, match="belongs to another codec"):
            speaker.say("Hi.", voice=dataclasses.replace(friend, codes=codes))


# ----------------------------------------------------------------------------------------------------------- model


def test_a_long_prompt_goes_through_the_model_in_parts(speaker: Speaker, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = speaker.request(None, True, {})
    prompt = speaker.prompt("Every word counts. " * 4, None, "current")

    def tokens(model: LanguageModel, grammar: Grammar | None) -> list[int]:
        return [int(row[0]) for row in model.generate([prompt], [40], plan.sampling, grammar, None)]

    want = tokens(speaker.model, plan.grammar)
    monkeypatch.setattr("voxport.speech.rows.PREFILL", 7)
    assert tokens(speaker.model, plan.grammar) == want
