"""T5Gemma-TTS: what a Speaker says, alone and together with others, whole and in chunks."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.bundles import FIXTURES
from tests.conftest import Golden

from voxport import bounds
from voxport.speech.longtext import split
from voxport.systems.t5gemma.request import CHUNKS, WHOLE
from voxport.systems.t5gemma.speaker import REFERENCE_SECONDS, Speaker
from voxport.systems.t5gemma.voice import Voice, synthetic_voice

TEXT, RECORDING = "Please send two small boxes to the north station.", FIXTURES / "t5gemma" / "reference.wav"
UPSTREAM: dict[str, Any] = {"target_duration": 0.9, "extra_cutoff": 0.4}  # of the recorded run
SHORT: dict[str, Any] = {"target_duration": 0.3, "extra_cutoff": 0.3}
LONG = "One small box for you. Another one is there! Is that all? It is not: there are more."
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # a tiny model rarely ends by itself


def test_greedy_speech_says_upstreams_codes(t5gemma: Speaker, t5gemma_golden: Golden) -> None:
    speech = t5gemma.say(TEXT, greedy=True, **UPSTREAM)
    samples = speech.samples()
    assert speech.tokens.tolist() == t5gemma_golden["t5.greedy.codes"].ravel().tolist()
    assert speech.stopped == "end"
    assert np.abs(samples - t5gemma_golden["codec.dec.wav"].ravel()).max() <= bounds.XCODEC2_AUDIO.absolute


def test_whole_speech_comes_at_once_and_chunks_before_the_codes_end(t5gemma: Speaker) -> None:
    options: dict[str, Any] = {"greedy": True, "max_new_tokens": 400, "min_new_tokens": 400, "extra_cutoff": 20.0}
    at_once = t5gemma.say(TEXT, **options)
    (whole,) = at_once
    speech = t5gemma.say(TEXT, stream=True, **options)
    chunks = [next(speech)]
    assert len(speech.tokens) < 400
    chunks += speech
    assert speech.tokens.tolist() == at_once.tokens.tolist()
    assert sum(len(chunk.samples) for chunk in chunks) == len(whole.samples) == 400 * 320


def test_schedule_and_stream_are_two_names_of_one_choice(t5gemma: Speaker) -> None:
    assert t5gemma.request({}, stream=True).settings["schedule"] == CHUNKS
    assert t5gemma.request({}).settings["schedule"] == WHOLE
    assert t5gemma.request({"schedule": CHUNKS}).settings["schedule"] == CHUNKS


def test_the_seed_decides_and_the_voice_counts(t5gemma: Speaker, t5gemma_friend: Voice) -> None:
    def tokens(seed: int, voice: Voice | None) -> list[int]:
        speech = t5gemma.say(TEXT, voice=voice, seed=seed, **SHORT)
        speech.samples()
        return [int(token) for token in speech.tokens]

    first = tokens(7, t5gemma_friend)
    assert first == tokens(7, t5gemma_friend)
    assert len({tuple(first), tuple(tokens(8, t5gemma_friend)), tuple(tokens(7, None))}) == 3


def test_a_recording_is_the_voice_that_was_enrolled_from_it(t5gemma: Speaker, t5gemma_friend: Voice) -> None:
    here = t5gemma.say(TEXT, ref_audio=RECORDING, ref_text=t5gemma_friend.text, greedy=True, **SHORT)
    there = t5gemma.say(TEXT, voice=t5gemma_friend, greedy=True, **SHORT)
    assert np.array_equal(here.samples(), there.samples())
    assert here.tokens.tolist() == there.tokens.tolist()


def test_an_enrolled_voice_survives_its_file(t5gemma_friend: Voice, tmp_path: Path) -> None:
    t5gemma_friend.save(tmp_path / "v.safetensors")
    again = Voice.load(tmp_path / "v.safetensors")
    assert (again.text, again.seconds) == (t5gemma_friend.text, t5gemma_friend.seconds)
    assert np.array_equal(again.codes, t5gemma_friend.codes)
    Voice("x", np.empty(0, np.int64), 1.0).save(tmp_path / "empty.safetensors")
    with pytest.raises(ValueError, match="without sound"):
        Voice.load(tmp_path / "empty.safetensors")


def test_the_codes_of_a_recording_are_upstreams(t5gemma_friend: Voice, t5gemma_golden: Golden) -> None:
    assert t5gemma_friend.codes.tolist() == t5gemma_golden["codec.enc.codes"].ravel().tolist()
    assert t5gemma_friend.seconds == pytest.approx(1.0)


def test_texts_together_say_what_each_says_alone(t5gemma: Speaker, t5gemma_friend: Voice) -> None:
    texts = ["One.", "Another one, which is longer.", "One."]
    together = t5gemma.batch(texts, voice=t5gemma_friend, greedy=True, **SHORT)
    rows = [speech.samples() for speech in reversed(together)][::-1]  # in any order
    for text, speech, samples in zip(texts, together, rows, strict=True):
        alone = t5gemma.say(text, voice=t5gemma_friend, greedy=True, **SHORT)
        assert np.abs(samples - alone.samples()).max() <= bounds.XCODEC2_AUDIO.absolute
        assert speech.tokens.tolist() == alone.tokens.tolist()


def test_samples_of_one_text_differ(t5gemma: Speaker) -> None:
    together = t5gemma.batch(["One."] * 4, seed=3, **SHORT)
    tokens = [(speech.samples(), tuple(speech.tokens.tolist()))[1] for speech in together]
    assert len(set(tokens)) == 4
    alone = t5gemma.say("One.", seed=3, retries=0, **SHORT)
    alone.samples()
    assert tuple(alone.tokens.tolist()) == tokens[0]


@pytest.mark.parametrize("stream", [False, True])
def test_the_pieces_of_a_long_text_are_the_same_in_any_company(
    t5gemma: Speaker, t5gemma_friend: Voice, stream: bool
) -> None:
    def tokens(batch_size: int) -> tuple[list[int], str]:
        options: dict[str, Any] = {"split_letters": 25, "extra_cutoff": 0.2, "batch_size": batch_size, "retries": 0}
        speech = t5gemma.say(LONG, voice=t5gemma_friend, seed=1, stream=stream, **options)
        samples = speech.samples()
        return speech.tokens.tolist(), f"{len(samples)} {speech.stopped}"

    assert tokens(1) == tokens(3) == tokens(4)


def test_without_a_voice_the_first_piece_is_the_recording_of_the_others(t5gemma: Speaker) -> None:
    """What the first says decides the others' codes, as a voice with the same speech does."""
    options: dict[str, Any] = {"split_letters": 25, "extra_cutoff": 0.2, "retries": 0, "seed": 1}
    speech = t5gemma.say(LONG, split_pause=0.0, **options)
    speech.samples()
    first, *others = [piece.text for piece in split(LONG, 25)]
    alone = t5gemma.say(first, **options)
    alone.samples()
    count = len(alone.tokens)
    assert speech.tokens[:count].tolist() == alone.tokens.tolist()
    voice = Voice(first, alone.tokens, count / t5gemma.section.frame_rate)
    rest = [t5gemma.say(LONG, voice=voice, **options), t5gemma.say(LONG, **options)]
    for one in rest:
        one.samples()
    assert speech.tokens.tolist() == rest[1].tokens.tolist()
    assert len(others) > 1
    tail = rest[0].tokens.tolist()[-(len(speech.tokens) - count) :]
    assert tail == speech.tokens[count:].tolist()


def test_a_piece_that_is_cut_is_tried_again_where_nobody_has_heard_it(t5gemma: Speaker) -> None:
    def speech(**options: Any) -> list[int]:
        one = t5gemma.say("One.", seed=5, target_duration=0.2, extra_cutoff=0.0, **options)
        one.samples()
        return [int(token) for token in one.tokens]

    assert speech(retries=1) != speech(retries=0)
    assert speech(retries=1, stream=True) == speech(retries=0, stream=True)


def test_detokenize_gives_back_what_the_codec_decodes(t5gemma: Speaker, t5gemma_golden: Golden) -> None:
    codes = t5gemma_golden["codec.dec.codes"].ravel()
    (samples,) = t5gemma.detokenize(codes)
    assert np.abs(samples - t5gemma_golden["codec.dec.wav"].ravel()).max() <= bounds.XCODEC2_AUDIO.absolute


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"ref_audio": RECORDING}, "needs its transcript, and nothing here transcribes"),
        ({"ref_text": "Two."}, "without its recording"),
        ({"instruct": "quickly"}, "takes no --instruct"),
        ({"voice": "zoe"}, "knows no voice 'zoe'"),
        ({"target_duration": 1e6}, "setting target_duration: wanted a number from 0.02 to 120"),
        ({"top_p": 0}, "setting top_p"),
        ({"silence_tokens": "79;80"}, "silence_tokens"),
        ({"speed": 2}, "unknown setting 'speed'"),
        ({"voice": Voice("x", np.array([256]), 1.0)}, "code 256 is not one of 0 .. 255"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(t5gemma: Speaker, options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError) as error:
        t5gemma.say(TEXT, **options)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_texts_that_cannot_be_said_are_refused_before_anything_is(t5gemma: Speaker) -> None:
    for text, words in (("  ", "empty"), ("word " * 9000, "do not fit the context of")):
        with pytest.raises(ValueError, match=words):
            t5gemma.say(text, split_letters=0)
    with pytest.raises(ValueError, match="no texts"):
        t5gemma.batch([])


def test_a_reference_of_more_than_half_a_minute_is_refused(t5gemma: Speaker, tmp_path: Path) -> None:
    import soundfile

    soundfile.write(tmp_path / "long.wav", np.ones(16000 * (REFERENCE_SECONDS + 1), np.float32) / 2, 16000)
    with pytest.raises(ValueError, match="too long for a reference"):
        t5gemma.enroll(tmp_path / "long.wav", "what")


def test_a_workload_has_the_length_that_was_asked_for(t5gemma: Speaker) -> None:
    for settings in ({}, {"batch_size": 4}):
        samples = np.concatenate(list(t5gemma.workload(0.8, **settings)))
        assert len(samples) == round(0.8 * t5gemma.sample_rate)


def test_a_synthetic_voice_is_one(t5gemma: Speaker) -> None:
    voice = synthetic_voice(t5gemma.section.codes, 25, t5gemma.section.frame_rate)
    assert (len(voice.codes), voice.seconds) == (25, 0.5)
    assert len(t5gemma.say(TEXT, voice=voice, greedy=True, **SHORT).samples())
