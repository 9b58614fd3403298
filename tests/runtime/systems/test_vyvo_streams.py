"""VyvoTTS: what streaming promises, alone, in batches and beside other streams."""

from itertools import zip_longest
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from voxport.codecs.noise import seeded
from voxport.speech.speech import Speech
from voxport.systems.vyvo.lm import Grammar, LanguageModel
from voxport.systems.vyvo.speaker import Speaker
from voxport.systems.vyvo.voice import Voice

Array = np.ndarray
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 2**32), chunk_frames=st.sampled_from([1, 2, 3, 5, 40]))
def test_any_chunking_gives_the_same_tokens_and_audio(seed: int, chunk_frames: int, vyvo: Speaker) -> None:
    want = vyvo.say("One more, please.", seed=seed, max_new_tokens=80)
    whole = want.samples()
    got = vyvo.say("One more, please.", seed=seed, max_new_tokens=80, chunk_frames=chunk_frames)
    assert np.abs(got.samples() - whole).max() < 2e-5
    assert np.array_equal(got.tokens, want.tokens)


def test_audio_leaves_while_tokens_are_still_made(vyvo: Speaker) -> None:
    speech = vyvo.say("One, two, three.", min_audio_frames=30, max_new_tokens=2 + 30 * 7)
    counts = []
    for chunk in speech:
        counts.append((len(speech.tokens), len(chunk.samples)))
        assert chunk.sample_rate == 24000
    assert counts[0][0] == 2 + 3 * 7  # as soon as three frames are whole
    assert [tokens for tokens, _ in counts] == sorted(tokens for tokens, _ in counts)
    assert sum(samples for _, samples in counts) == 30 * 2048
    delivered = np.cumsum([samples for _, samples in counts])
    # a listener of a model at 0.6 of real time never runs dry: frame f is there after 0.6 f frames' time
    needed = np.array([0.6 * (tokens - 2) / 7 * 2048 for tokens, _ in counts])
    assert (needed[1:] - needed[0] <= delivered[:-1]).all()


@pytest.mark.parametrize("fade", [0.0, 0.05, 0.3, 0.8533, 1e9])
@pytest.mark.parametrize("chunk_frames", [1, 3, 40])
def test_the_end_fades_also_where_it_is_longer_than_the_codecs_delay(
    fade: float, chunk_frames: int, vyvo: Speaker, vyvo_golden: dict[str, Array]
) -> None:
    codes = vyvo.format.load_codes(vyvo_golden["greedy.tokens"][0])
    request = vyvo.request(None, True, {"fade_out": fade, "chunk_frames": chunk_frames}).settings
    chunks = list(vyvo.decode(codes, request, seeded(0)))
    want = vyvo.codec.decode(vyvo.codec.deinterleave(codes), seeded(0))
    n = min(int(fade * 24000), len(want))
    want[len(want) - n :] *= np.linspace(1, 0, n, dtype=np.float32)
    assert np.abs(np.concatenate(chunks) - want).max() < 2e-5
    if chunk_frames == 1 and fade <= 0.3:
        assert len(chunks[-1]) < len(want)  # it streamed


def test_strict_gives_the_same_audio_at_once_or_none(vyvo: Speaker, vyvo_texts: dict[str, Any]) -> None:
    lenient, strict = (vyvo.say(vyvo_texts["text"], greedy=True, strict=on) for on in (False, True))
    assert np.array_equal(lenient.samples(), strict.samples())
    cut = vyvo.say(vyvo_texts["text"], greedy=True, strict=True, max_new_tokens=40)
    assert len(cut.samples()) == 0
    assert "did not end" in cut.warnings[0]
    assert len(vyvo.say(vyvo_texts["text"], greedy=True, max_new_tokens=40).samples()) == 5 * 2048  # 38 codes


def test_a_classic_clone_streams_with_the_grammar_on(vyvo: Speaker, vyvo_friend: Voice) -> None:
    options: dict[str, Any] = {"dialect": "classic", "constrained_decoding": True, "max_new_tokens": 70}
    speech = vyvo.say("A small test.", voice=vyvo_friend, seed=3, min_audio_frames=10, **options)
    assert len(speech.samples()) == 10 * 2048
    assert (speech.tokens >= 410).all()  # no START_OF_AI, no START_OF_SPEECH: the prompt has what there is


def test_the_same_seed_gives_the_same_tokens_another_seed_others(vyvo: Speaker) -> None:
    def tokens(seed: int) -> list[int]:
        speech = vyvo.say("Once again.", seed=seed, max_new_tokens=60)
        speech.samples()
        values: list[int] = speech.tokens.tolist()
        return values

    assert tokens(1) == tokens(1)
    assert tokens(1) != tokens(2)


def test_two_speeches_at_once_do_not_disturb_each_other(vyvo: Speaker) -> None:
    def speech(seed: int) -> Speech:
        return vyvo.say("One more.", seed=seed, min_audio_frames=9, max_new_tokens=70)

    parts: tuple[list[Array], list[Array]] = ([], [])
    for chunks in zip_longest(speech(1), speech(2)):
        for part, chunk in zip(parts, chunks, strict=True):
            part.append(chunk.samples if chunk is not None else np.empty(0, np.float32))
    for seed, part in zip((1, 2), parts, strict=True):
        assert len(part) > 2
        assert np.array_equal(np.concatenate(part), speech(seed).samples())


def test_a_batch_makes_what_each_text_makes_alone(
    vyvo: Speaker, vyvo_texts: dict[str, Any], vyvo_golden: dict[str, Array]
) -> None:
    both = [vyvo_texts["text"], vyvo_texts["text"], "No."]
    names = [None, vyvo_texts["voice"], None]
    for greedy in (True, False):
        rows = vyvo.batch(both, voices=names, greedy=greedy, max_new_tokens=100)
        # row 0 draws as a call of its own does
        alone = vyvo.say(both[0], greedy=greedy, max_new_tokens=100)
        assert np.abs(rows[0].samples() - alone.samples()).max() < 1e-5
        assert np.array_equal(rows[0].tokens, alone.tokens)
    alone = vyvo.say(both[1], voice=names[1], greedy=True, max_new_tokens=100)
    row = vyvo.batch(both, voices=names, greedy=True, max_new_tokens=100)[1]
    row.samples(), alone.samples()
    assert np.array_equal(row.tokens, alone.tokens)
    assert {row.stopped, alone.stopped} == {"max_new_tokens"}


def test_a_long_prompt_goes_through_the_model_in_parts(vyvo: Speaker, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = vyvo.request(None, True, {})
    prompt = vyvo.prompt("Every word counts. " * 4, None, "current")

    def tokens(model: LanguageModel, grammar: Grammar | None) -> list[int]:
        return [int(row[0]) for row in model.generate([prompt], [40], plan.sampling, grammar, None)]

    want = tokens(vyvo.model, plan.grammar)
    monkeypatch.setattr("voxport.speech.rows.PREFILL", 7)
    assert tokens(vyvo.model, plan.grammar) == want
