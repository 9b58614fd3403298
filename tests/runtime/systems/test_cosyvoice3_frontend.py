"""Fun-CosyVoice3: recordings, and what is refused of them (docs/systems/cosyvoice3.md 2.2)."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile as sf
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.conftest import golden
from tests.cosyvoice3_frontend import RATE, RECORDING, ROOT, Ear, noise

from voxport.graphs.session import Array
from voxport.graphs.stage import Stage, TensorSpec
from voxport.systems.cosyvoice3.frontend import SPEAKER, TOKENIZER, SpeakerEncoder, SpeechTokenizer
from voxport.systems.cosyvoice3.voice import Voice


@pytest.fixture
def ear(tmp_path: Path) -> Ear:
    return Ear(tmp_path)


def test_a_recording_becomes_the_goldens_voice(ear: Ear) -> None:
    voice = ear.listener().enroll(ROOT / "prompt.wav", "Hi hope.")
    tensors = golden("cosyvoice3")
    assert voice.text == "Hi hope."
    assert np.array_equal(voice.tokens, tensors["frontend.speech_token_full"][0])
    tokens, mel = voice.aligned(2)
    assert np.array_equal(tokens, tensors["frontend.prompt_token"][0])
    np.testing.assert_allclose(mel, tensors["frontend.prompt_feat"][0], rtol=0, atol=2e-3)
    voice.check(243, 80, 192)


@pytest.mark.parametrize("rate", [16000, 22050, 44100, 48000])
def test_any_rate_from_16_khz_on_is_heard(ear: Ear, rate: int) -> None:
    voice = ear.listener().voice(noise(1.0, rate), rate, None)
    assert (voice.text, voice.tokens.shape, voice.mel.shape, voice.embedding.shape) == ("", (25,), (50, 80), (192,))


def test_graphs_are_dropped_unless_they_are_kept(ear: Ear) -> None:
    listener = ear.listener()
    for _ in range(2):
        listener.voice(RECORDING, RATE, None)
    assert ear.loads == {f"{TOKENIZER} once": 2, f"{SPEAKER} once": 2}
    ear.loads.clear()
    listener = ear.listener(keep=True)
    assert not ear.loads
    for _ in range(2):
        listener.tokens(RECORDING, RATE)
    assert ear.loads == {TOKENIZER: 1}
    listener.release()
    listener.tokens(RECORDING, RATE)
    assert ear.loads == {TOKENIZER: 2}


def test_a_saved_voice_is_the_same(ear: Ear, tmp_path: Path) -> None:
    voice = ear.listener().voice(RECORDING, RATE, "好")
    voice.save(tmp_path / "ann.safetensors")
    (tmp_path / "bob.safetensors").write_bytes(voice.contents())
    for name in ("ann", "bob"):
        loaded = Voice.load(tmp_path / f"{name}.safetensors")
        assert loaded.text == "好"
        arrays = ((loaded.tokens, voice.tokens), (loaded.mel, voice.mel), (loaded.embedding, voice.embedding))
        assert all(np.array_equal(mine, its) and mine.dtype == its.dtype for mine, its in arrays)


@given(st.integers(0, 40), st.integers(0, 80), st.integers(1, 4))
def test_tokens_and_mel_are_cut_to_the_longest_part_that_both_have(count: int, frames: int, ratio: int) -> None:
    voice = Voice("", np.arange(count), np.arange(frames, dtype=np.float32)[:, None], np.zeros(1))
    tokens, mel = voice.aligned(ratio)
    assert len(mel) == ratio * len(tokens)
    assert np.array_equal(tokens, voice.tokens[: len(tokens)])
    assert np.array_equal(mel, voice.mel[: len(mel)])
    assert len(tokens) == count or len(mel) > frames - ratio


@pytest.mark.parametrize(
    ("samples", "rate", "words"),
    [
        (noise(1, 8000), 8000, "a recording at 8000 Hz is too coarse; wanted 16000 Hz or more"),
        (noise(30.1, 16000), 16000, "30.1 s are too long; cut the recording to 30 s or less"),
        (np.zeros(16000, np.float32), 16000, "the recording is silent; record it again"),
        (np.full(16000, 9e-4, np.float32), 16000, "the recording is silent; record it again"),
        (np.zeros(0, np.float32), 16000, "0 samples at 16000 Hz are too short; wanted 0.030 s or more"),
        (noise(0.029, 24000), 24000, "696 samples at 24000 Hz are too short; wanted 0.030 s or more"),
        (np.array([0.5, np.nan] * 8000, np.float32), 16000, "the recording holds NaN or infinite samples"),
        (np.zeros((16000, 2), np.float32), 16000, "samples must be one channel"),
    ],
)
def test_what_is_no_voice_is_one_line(ear: Ear, samples: Array, rate: int, words: str) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        ear.listener().voice(samples, rate, "Hi.")
    assert "\n" not in str(caught.value)
    assert not ear.loads  # nothing is loaded for it


@pytest.mark.parametrize("text", ["", " \n"])
def test_an_empty_transcript_is_refused(ear: Ear, text: str) -> None:
    with pytest.raises(
        ValueError, match=r"prompt.wav: its transcript is empty; give what is said in it, or no transcr"
    ):
        ear.listener().enroll(ROOT / "prompt.wav", text)
    assert not ear.loads


@pytest.mark.parametrize(
    ("seconds", "rate", "gain", "words"),
    [
        (1, 8000, 1, "a recording at 8000 Hz is too coarse"),
        (31, 16000, 1, "31.0 s are too long for a reference; cut it to 30 s or less"),
        (1, 16000, 0, "is silent; record the reference again"),
        (0.01, 16000, 1, "160 samples at 16000 Hz are too short"),
    ],
)
def test_a_file_that_is_no_voice_is_named(
    ear: Ear, tmp_path: Path, seconds: float, rate: int, gain: float, words: str
) -> None:
    path = tmp_path / "ann.wav"
    sf.write(path, gain * noise(seconds, rate), rate)
    with pytest.raises(ValueError, match=words) as caught:
        ear.listener().enroll(path, "Hi.")
    assert str(caught.value).startswith(f"{path}: ")


def test_half_a_minute_is_heard_and_silence_converts(ear: Ear) -> None:
    assert ear.listener().tokens(noise(30, 16000), 16000).shape == (750,)
    assert ear.listener().tokens(np.zeros(16000, np.float32), 16000).shape == (25,)


class Foreign:
    """A tokenizer's graph with names, an order, types and sizes of its own."""

    threads = 1
    stage = Stage(
        "speech_tokenizer",
        (TensorSpec("n", "int64", ("rows",)), TensorSpec("mel", "float32", ("rows", 8, "time"))),
        (TensorSpec("ids", "int32", ("rows", "tokens")),),
    )

    def start(self, *args: object, **axes: int) -> Any:  # noqa: ARG002
        return {}

    def __call__(self, state: Any, *, into: Any = None, **inputs: Array) -> Any:  # noqa: ARG002
        for tensor in self.stage.inputs:
            tensor.check(inputs[tensor.name])
        assert inputs["n"].tolist() == [inputs["mel"].shape[2]]
        return {"ids": np.arange(-(-inputs["mel"].shape[2] // 4), dtype=np.int32)[None]}, {}


@given(st.integers(201, 20000))
@settings(max_examples=20, deadline=None)
def test_a_graph_says_what_it_takes(length: int) -> None:
    tokenizer = SpeechTokenizer(Foreign())
    features = tokenizer.features(noise(length / 16000, 16000))
    assert features.shape == (1, 8, length // 160)
    tokens = tokenizer.tokens(features)
    assert tokens.dtype == np.int64
    assert tokens.tolist() == [*range(-(-(length // 160) // 4))]


def test_a_graph_of_another_kind_is_refused() -> None:
    class Odd(Foreign):
        stage = Stage("campplus", Foreign.stage.inputs[:1], Foreign.stage.outputs)

    with pytest.raises(ValueError, match=r"stage campplus: takes n int64\[rows\]; wanted one input with 3 axes"):
        SpeakerEncoder(Odd())
