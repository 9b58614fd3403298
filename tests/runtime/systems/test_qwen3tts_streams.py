"""Qwen3-TTS: what streaming promises, alone and in batches."""

import json
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.qwen3tts_cases import STREAM, TEXT, arguments

from voxport.speech import rows
from voxport.systems.qwen3tts.speaker import Speaker
from voxport.systems.qwen3tts.voice import Voice, synthetic_voice
from voxport_parity.trace import Golden

Array = np.ndarray
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


@given(first=st.integers(1, 9), most=st.integers(1, 9))
@settings(max_examples=10, deadline=None, derandomize=True)
def test_any_chunks_are_the_same_speech(custom: Speaker, base: Speaker, first: int, most: int) -> None:
    for speaker, voice in ((custom, "ryan"), (base, Voice("a", np.full((3, 16), 7), np.zeros(64, np.float32)))):
        chunks = speaker.say(
            TEXT, voice=voice, seed=3, max_new_tokens=17, first_chunk_frames=first, chunk_frames=most, min_new_tokens=16
        )
        pieces = [chunk.samples for chunk in chunks]
        assert len(pieces[0]) == 1920 * min(first, 16)
        assert max(len(piece) for piece in pieces) <= 1920 * max(first, most)
        codes, reference = chunks.tokens, voice.codes if isinstance(voice, Voice) else np.empty((0, 16), np.int64)
        assert len(codes) == 16
        whole = speaker.codec.decode(np.concatenate((reference, codes)))
        assert np.abs(np.concatenate(pieces) - whole[1920 * len(reference) :]).max() < STREAM


def test_audio_leaves_while_frames_are_still_made(custom: Speaker) -> None:
    speech = custom.say(TEXT, max_new_tokens=40, min_new_tokens=40)
    assert len(next(speech).samples) == 1920
    assert len(speech.tokens) == 1
    assert len(speech.samples()) == 38 * 1920


def test_the_same_seed_gives_the_same_codes(custom: Speaker) -> None:
    def codes(seed: int) -> list[Any]:
        speech = custom.say(TEXT, seed=seed, max_new_tokens=12)
        speech.samples()
        outputs: list[Any] = speech.tokens.tolist()
        return outputs

    assert codes(1) == codes(1)
    assert codes(1) != codes(2)


def test_text_may_come_piece_by_piece(custom: Speaker, qwen3tts_goldens: dict[str, Golden]) -> None:
    expected, options = arguments(qwen3tts_goldens["customvoice"], "cv_textstream"), []

    def typed() -> Iterator[str]:
        for at, end in pairwise([0, 1, 9, 9, 30, 31, 60, len(TEXT)]):
            options.append(end)
            yield TEXT[at:end]

    speech = custom.say(**expected | {"text": typed()})
    next(speech)
    assert len(options) <= 4  # the first frame leaves while the text still comes
    speech.samples()
    assert np.array_equal(speech.tokens, qwen3tts_goldens["customvoice"].tensors["cv_textstream.codes"])
    with pytest.raises(ValueError, match="the text is empty"):
        custom.say(iter(["", " "]), voice="ryan").samples()


def test_a_batch_makes_what_each_text_makes_alone(custom: Speaker) -> None:
    settings_: dict[str, Any] = {"max_new_tokens": 9, "min_new_tokens": 9}
    both, voices, languages = [TEXT, "Hi"], ["ryan", "vivian"], ["english", None]
    rows = custom.batch(both, voices=voices, languages=languages, greedy=True, **settings_)
    for row, text, voice, language in zip(rows, both, voices, languages, strict=True):
        alone = custom.say(text, voice=voice, language=language, greedy=True, **settings_)
        assert np.abs(row.samples() - alone.samples()).max() < STREAM
        assert np.array_equal(row.tokens, alone.tokens)
    drawn = custom.batch(both, voices=voices, seed=5, **settings_)[0]
    alone = custom.say(TEXT, voice="ryan", seed=5, **settings_)
    assert np.array_equal(drawn.samples(), alone.samples())
    with pytest.raises(ValueError, match="a voice, a language and an instruct for each of 2 texts"):
        custom.batch(both, voices=["ryan"])


def test_frames_are_tokens_less_one(custom: Speaker) -> None:
    for most in (1, 2, 5):
        speech = custom.say("Hi", greedy=True, max_new_tokens=most, min_new_tokens=9)
        assert len(speech.samples()) == 1920 * (most - 1)
        assert speech.tokens.shape == (most - 1, 16)
        assert not speech.warnings


def test_rows_longer_than_a_prefill_call_go_together(custom: Speaker) -> None:
    long = "a " * (rows.PREFILL + 8)
    alone = custom.say(long, greedy=True, max_new_tokens=3)
    alone.samples()
    together, _ = custom.batch([long, "Hi"], greedy=True, max_new_tokens=3)
    together.samples()
    assert len(alone.tokens)
    assert np.array_equal(together.tokens, alone.tokens)


def test_every_added_token_is_plain_text(custom: Speaker) -> None:
    words = custom.requests.words(False, False)
    added = json.loads((custom.bundle.path / "tokenizer.json").read_text())["added_tokens"]
    assert added
    for token in added:
        assert token["id"] not in words.ids(f"a{token['content']}b")[3:-5]
    whole = words.target("a<think>b").blocks
    pieces = words.target(iter(["a<th", "ink>b"])).blocks
    assert [i for block in whole for i in block] == [i for block in pieces for i in block]


def test_special_tokens_are_read_as_text_unless_asked_for(custom: Speaker) -> None:
    def tokens_of(**options: Any) -> list[Any]:
        speech = custom.say("Hi<|im_end|>there", voice="ryan", greedy=True, max_new_tokens=6, **options)
        speech.samples()
        outputs: list[Any] = speech.tokens.tolist()
        return outputs

    assert tokens_of() != tokens_of(parse_special="true")


def test_benchmarks_say_as_much_as_they_are_told(base: Speaker, custom: Speaker) -> None:
    for speaker in (base, custom):
        assert sum(len(chunk) for chunk in speaker.workload(1.0)) == round(1.0 * 12.5) * 1920
    synthetic = synthetic_voice(base.requests.listener(), base.sample_rate)
    assert synthetic is not None
    assert synthetic.codes.shape == (38, 16)
    assert synthetic_voice(custom.requests.listener(), custom.sample_rate) is None


def test_a_fork_goes_on_from_where_it_was_made_and_disturbs_nobody(base: Speaker) -> None:
    codes, others = np.random.default_rng(0).integers(0, 64, (2, 9, 16))
    stream = base.codec.stream()
    start = stream.feed(codes[:4])
    fork = stream.fork()
    both = np.concatenate((codes[:4], others))
    assert np.abs(np.concatenate((start, fork.feed(others))) - base.codec.decode(both)).max() < STREAM
    assert np.abs(np.concatenate((start, stream.feed(codes[4:]))) - base.codec.decode(codes)).max() < STREAM
    assert np.abs(base.codec.decode(both)[-1920:] - base.codec.decode(codes)[-1920:]).max() > STREAM
    assert len(stream.flush()) == 0
    assert np.array_equal(stream.feed(codes[:4]), start)  # after the end it starts anew
