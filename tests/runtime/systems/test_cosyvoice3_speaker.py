"""Fun-CosyVoice3: what a Speaker says, in every mode and schedule."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.bundles import FIXTURES
from tests.conftest import Golden

from voxport import bounds
from voxport.audio import files
from voxport.systems.cosyvoice3.audio import LowLatency, Player, Upstream, Whole, stretched, trimmed
from voxport.systems.cosyvoice3.flowstream import Reference
from voxport.systems.cosyvoice3.silence import SilenceFilter
from voxport.systems.cosyvoice3.speaker import Speaker
from voxport.systems.cosyvoice3.voice import Voice

Array = np.ndarray
TEXT, RECORDING = "Good day, all.", FIXTURES / "cosyvoice3" / "prompt.wav"
PLAIN: dict[str, Any] = {"text_frontend": False}
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # a tiny model rarely ends


def test_greedy_speech_says_upstreams_tokens(
    cosyvoice3: Speaker, cosyvoice3_friend: Voice, cosyvoice3_golden: Golden
) -> None:
    speech = cosyvoice3.say(TEXT, voice=cosyvoice3_friend, greedy=True, stream=False, **PLAIN)
    samples = speech.samples()
    assert np.array_equal(speech.tokens, cosyvoice3_golden["llm.greedy_tokens"])
    assert speech.stopped == "end"
    assert len(samples) == cosyvoice3_golden["pipeline.wav_nonstream"].shape[1]
    assert np.abs(samples).max() <= np.float32(0.99)


def test_a_recording_alone_is_read_across_languages(cosyvoice3: Speaker, cosyvoice3_golden: Golden) -> None:
    speech = cosyvoice3.say(TEXT, ref_audio=RECORDING, greedy=True, max_new_tokens=12, **PLAIN)
    speech.samples()
    assert np.array_equal(speech.tokens, cosyvoice3_golden["llm.cross_lingual_tokens"])


def test_the_schedules_differ_in_the_audio_alone(cosyvoice3: Speaker, cosyvoice3_friend: Voice) -> None:
    tokens, audio = [], {}
    for schedule in ("whole", "upstream", "low_latency"):
        speech = cosyvoice3.say(TEXT, voice=cosyvoice3_friend, greedy=True, schedule=schedule, **PLAIN)
        audio[schedule] = speech.samples()
        tokens.append(speech.tokens.tolist())
    assert tokens[0] == tokens[1] == tokens[2]
    assert len({len(samples) for samples in audio.values()}) == 1
    assert np.abs(audio["whole"] - audio["upstream"]).max() > 0.1  # full attention and blocks: as upstream's own
    assert np.abs(audio["whole"] - audio["low_latency"]).max() > 0.1


def test_a_stream_is_heard_before_its_tokens_end(cosyvoice3: Speaker, cosyvoice3_friend: Voice) -> None:
    speech = cosyvoice3.say(TEXT, voice=cosyvoice3_friend, greedy=True, **PLAIN)
    next(speech)
    assert len(speech.tokens) < 40
    speech.close()


def test_a_request_leaves_nothing_behind(cosyvoice3: Speaker, cosyvoice3_friend: Voice) -> None:
    """Upstream's hop grows on the model: its second request starts with another one than its first."""
    for schedule in ("upstream", "low_latency"):
        first, second = (
            [len(chunk.samples) for chunk in cosyvoice3.say(
                TEXT, voice=cosyvoice3_friend, greedy=True, schedule=schedule, **PLAIN
            )]
            for _ in range(2)
        )  # fmt: skip
        assert first == second


def test_the_seed_decides_whatever_the_schedule(cosyvoice3: Speaker, cosyvoice3_friend: Voice) -> None:
    def tokens(seed: int, **options: Any) -> list[int]:
        speech = cosyvoice3.say(TEXT, voice=cosyvoice3_friend, seed=seed, max_new_tokens=30, **PLAIN, **options)
        speech.samples()
        ids: list[int] = speech.tokens.tolist()
        return ids

    assert tokens(1) == tokens(1, schedule="whole") == tokens(1, stream=False)
    assert tokens(1) != tokens(2)


def test_text_in_pieces_is_said_while_it_comes(cosyvoice3: Speaker, cosyvoice3_friend: Voice) -> None:
    def say(*pieces: str) -> list[int]:
        speech = cosyvoice3.say(iter(pieces), voice=cosyvoice3_friend, max_new_tokens=60, seed=3)
        speech.samples()
        ids: list[int] = speech.tokens.tolist()
        return ids

    text = "Good day to all of you, the lazy dog sleeps again and again until the morning comes."
    assert say(text) == say(text[:13], text[13:40], text[40:])


def test_text_is_not_asked_for_before_it_is_needed(cosyvoice3: Speaker, cosyvoice3_friend: Voice) -> None:
    waiting = threading.Event()

    def pieces() -> Iterator[str]:
        yield "Good day to all of you, the lazy dog sleeps again. "
        waiting.set()
        yield "The end."

    with cosyvoice3.say(pieces(), voice=cosyvoice3_friend, seed=1, max_new_tokens=80) as speech:
        next(speech)
        assert not waiting.is_set()  # what is heard first needs the first piece alone
        speech.samples()
    assert waiting.is_set()


def test_speed_stretches_the_whole_speech(cosyvoice3: Speaker, cosyvoice3_friend: Voice) -> None:
    def length(**options: Any) -> int:
        return len(cosyvoice3.say(TEXT, voice=cosyvoice3_friend, greedy=True, **PLAIN, **options).samples())

    assert length(speed=2.0) * 2 == length()


def test_a_voice_is_put_on_what_was_said(cosyvoice3: Speaker, cosyvoice3_friend: Voice) -> None:
    samples, rate = files.read(RECORDING)
    speech = cosyvoice3.revoice(samples, rate, voice=cosyvoice3_friend, stream=False)
    tokens = cosyvoice3.tokenize(samples, rate)
    frames = 2 * (len(cosyvoice3_friend.tokens) + len(tokens)) - len(cosyvoice3_friend.mel)  # not aligned, as upstream
    assert len(speech.samples()) == 480 * frames
    assert np.array_equal(speech.tokens, tokens)
    assert speech.stopped == "end"


def test_silences_are_shortened_where_they_were_generated(cosyvoice3: Speaker, cosyvoice3_friend: Voice) -> None:
    """Upstream filters what its language model says, and nothing that it converts."""

    def length(silence: SilenceFilter | None) -> int:
        plan = cosyvoice3.request({"flow_steps": 4}, stream=False)
        player = Player(cosyvoice3.stream(cosyvoice3.reference(cosyvoice3_friend), plan), silence)
        pieces = [*(player.feed(np.asarray(token)) for token in [7, *[28] * 8, 9]), player.flush()]
        return sum(map(len, pieces))

    assert length(None) == 960 * 10
    assert length(SilenceFilter()) == 960 * (10 - 3)


@pytest.mark.parametrize("schedule", ["whole", "upstream", "low_latency"])
def test_any_pieces_of_tokens_give_the_same_samples(
    cosyvoice3: Speaker, cosyvoice3_friend: Voice, cosyvoice3_golden: Golden, schedule: str
) -> None:
    tokens = cosyvoice3_golden["llm.greedy_tokens"][:40].astype(np.int64)
    plan = cosyvoice3.request({"schedule": schedule, "flow_steps": 4})
    reference = cosyvoice3.reference(cosyvoice3_friend)
    stream = cosyvoice3.stream(reference, plan)
    assert isinstance(stream, {"whole": Whole, "upstream": Upstream, "low_latency": LowLatency}[schedule])
    expected = np.concatenate((stream.feed(tokens), stream.flush()))

    @settings(max_examples=5, deadline=None)
    @given(st.lists(st.integers(0, len(tokens)), max_size=5))
    def check(cuts: list[int]) -> None:
        other = cosyvoice3.stream(reference, plan)
        pieces = []
        for piece in np.split(tokens, sorted(cuts)):
            pieces.append(other.feed(piece))
            other = other.fork()
        whole = np.concatenate((*pieces, other.flush()))
        assert np.abs(whole - expected).max() < bounds.SPEECH_AUDIO.absolute

    check()


def reference_of(count: int) -> Reference:
    return Reference(np.arange(count), np.arange(2 * count, dtype=np.float32)[:, None], np.ones(1, np.float32))


@pytest.mark.parametrize(("tokens", "rest"), [(75, 53), (78, 78), (53, 53), (28, 28), (27, 27), (23, 23), (0, 0)])
def test_a_prompt_is_trimmed_to_whole_blocks_and_what_speech_may_change(
    cosyvoice3: Speaker, tokens: int, rest: int
) -> None:
    reference = trimmed(reference_of(tokens), cosyvoice3.section.flow)
    assert reference.tokens.tolist() == list(range(tokens - rest, tokens))  # the newest
    assert len(reference.mel) == 2 * rest


@pytest.mark.parametrize(("frames", "speed"), [(164, 1.3), (7, 0.5), (1, 2.0), (50, 10.0)])
def test_a_mel_is_stretched_as_torch_does_it(frames: int, speed: float) -> None:
    import torch

    mel = np.random.default_rng(0).standard_normal((frames, 5), np.float32)
    count = max(1, int(frames / speed))
    expected = torch.nn.functional.interpolate(torch.from_numpy(mel.T[None]), size=count, mode="linear")[0].T
    # an ulp of a place among 164 frames is 1.5e-5, and torch rounds once where numpy rounds twice
    assert np.abs(stretched(mel, speed) - expected.numpy()).max() < 1e-4


def test_bad_requests_are_refused_in_one_line(cosyvoice3: Speaker, cosyvoice3_friend: Voice, tmp_path: Path) -> None:
    say = cosyvoice3.say
    cases: list[tuple[str, dict[str, Any]]] = [
        ("text is empty", {"text": "  ", "voice": cosyvoice3_friend}),
        ("give --ref-audio", {"text": TEXT}),
        ("knows no voice 'zoe'", {"text": TEXT, "voice": "zoe"}),
        ("unknown setting 'top_q'", {"text": TEXT, "voice": cosyvoice3_friend, "top_q": 1}),
        ("needs an instruct", {"text": TEXT, "voice": cosyvoice3_friend, "mode": "instruct2"}),
        ("unknown language", {"text": TEXT, "voice": cosyvoice3_friend, "language": "klingon"}),
        ("needs what is said", {"text": TEXT, "ref_audio": RECORDING, "mode": "zero_shot"}),
        ("tables for 4, 5, 6, 8, 10", {"text": TEXT, "voice": cosyvoice3_friend, "flow_steps": 7}),
    ]
    for message, options in cases:
        with pytest.raises(ValueError, match=message) as error:
            say(**options).samples()
        assert "\n" not in str(error.value)
