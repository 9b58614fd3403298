"""Qwen3-TTS: cloned and described voices, and the requests that a variant refuses."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile as sf
from tests.qwen3tts_cases import REF, STREAM, TRANSCRIPT, Bundles, arguments

from voxport import bounds
from voxport.audio.resample import resample_reference
from voxport.bundle import Bundle
from voxport.codecs.codec12hz import after_reference
from voxport.systems.qwen3tts.speaker import Speaker
from voxport.systems.qwen3tts.voice import Voice
from voxport_parity.trace import Golden

Array = np.ndarray
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def test_an_enrolled_voice_is_the_recording(
    base: Speaker, qwen3tts_friend: Voice, tmp_path: Path, qwen3tts_goldens: dict[str, Golden]
) -> None:
    golden = qwen3tts_goldens["base"].tensors
    assert np.array_equal(qwen3tts_friend.codes, golden["enc.codes"])
    assert np.abs(qwen3tts_friend.embedding - golden["spk.embedding"]).max() < bounds.XVECTOR.absolute
    qwen3tts_friend.save(tmp_path / "friend.safetensors")
    stored = Voice.load(tmp_path / "friend.safetensors")
    case = arguments(qwen3tts_goldens["base"], "icl_short")
    del case["ref_audio"], case["ref_text"]
    for voice in (qwen3tts_friend, stored, str(tmp_path / "friend.safetensors")):
        speech = base.say(**case, voice=voice)
        speech.samples()
        assert np.array_equal(speech.tokens, golden["icl_short.codes"])


def test_a_voice_that_lies_in_the_bundle_has_a_name(
    qwen3tts_bundles: Bundles, base: Speaker, qwen3tts_friend: Voice, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(qwen3tts_bundles("base", "fp32", "cpu"), tmp_path / "b"))
    qwen3tts_friend.save(folder / "voices" / "pal.safetensors")
    speaker = Speaker(Bundle(folder))
    assert speaker.voices == ["pal"]
    named, options = (s.say("你好", voice=v, max_new_tokens=6) for s, v in ((speaker, "pal"), (base, qwen3tts_friend)))
    assert np.abs(named.samples() - options.samples()).max() < STREAM


def test_upstreams_way_of_decoding_cuts_where_upstream_cuts(
    base: Speaker, qwen3tts_goldens: dict[str, Golden], monkeypatch: pytest.MonkeyPatch
) -> None:
    speech = base.say(**arguments(qwen3tts_goldens["base"], "icl"), codec_schedule="upstream")
    wave = qwen3tts_goldens["base"].tensors["icl.wav"]
    assert np.abs(speech.samples() - wave).max() < bounds.CODEC12HZ_AUDIO.absolute
    assert after_reference(15, 22, 22 * 1920) == 15 * 1920 - 1
    voice = Voice("a", np.full((15, 16), 7), np.zeros(64, np.float32))
    settings_of_call: dict[str, Any] = {"voice": voice, "max_new_tokens": 8, "min_new_tokens": 8}
    assert len(base.say("你好", **settings_of_call, codec_schedule="upstream").samples()) == 7 * 1920 + 1
    assert len(base.say("你好", **settings_of_call).samples()) == 7 * 1920


def test_tokens_and_audio_go_there_and_back(base: Speaker, qwen3tts_goldens: dict[str, Golden]) -> None:
    samples, rate = sf.read(REF, dtype="float32")
    codes = base.tokenize(samples, rate)
    assert np.array_equal(codes, qwen3tts_goldens["base"].tensors["enc.codes"])
    outputs = np.concatenate(list(base.detokenize(codes)))
    assert np.abs(outputs - base.codec.decode(codes)).max() < STREAM
    with pytest.raises(ValueError, match=r"wanted codes int \[frames, 16\]"):
        list(base.detokenize(np.zeros((3, 4), np.int64)))
    with pytest.raises(ValueError, match="code 64 is not one of"):
        list(base.detokenize(np.full((3, 16), 64)))


@pytest.fixture(scope="session")
def designed(qwen3tts_bundles: Bundles, tmp_path_factory: pytest.TempPathFactory) -> Speaker:
    """CustomVoice without its voices, and with ears: what VoiceDesign is."""
    source = qwen3tts_bundles("customvoice", "fp32", "cpu")
    folder = Path(shutil.copytree(source, tmp_path_factory.mktemp("designed") / "bundle"))
    manifest = json.loads((folder / "manifest.json").read_text())
    stored = {n: i for n, i in manifest["tokens"].items() if not n.startswith(("speaker.", "dialect."))}
    manifest |= {"tokens": stored, "voices": [], "variant": "1.7b-voicedesign"}
    manifest["section"]["instruct"] = True
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return Speaker(Bundle(folder))


def test_a_described_voice_hears_its_description(designed: Speaker, custom: Speaker) -> None:
    described = designed.say("Hi", instruct="Speak very slowly.", greedy=True, max_new_tokens=6)
    deaf = designed.say("Hi", greedy=True, max_new_tokens=6)
    assert np.abs(described.samples() - deaf.samples()).max() > STREAM
    assert not described.warnings
    assert "without an instruct it takes any" in deaf.warnings[0]
    requests = [s.requests.request(instruct="Speak very slowly.", greedy=True) for s in (designed, custom)]
    rows = [len(s.prompt("Hi", request).embeds) for s, request in zip((designed, custom), requests, strict=True)]
    assert rows[0] - rows[1] == 17 - 1  # the ids of the instruct; and there is no speaker


def test_an_instruct_that_is_not_heard_is_warned_of(custom: Speaker, base: Speaker, qwen3tts_friend: Voice) -> None:
    for speaker, voice in ((custom, "ryan"), (base, qwen3tts_friend)):
        plain, message = (speaker.say("Hi", voice=voice, instruct=i, max_new_tokens=4) for i in (None, "Slowly."))
        assert np.array_equal(plain.samples(), message.samples())
        assert not plain.warnings
        assert "does not listen to an instruct; it is ignored" in message.warnings[0]


REFUSALS: list[tuple[str, dict[str, Any], str]] = [
    ("customvoice", {"voice": "bob"}, "voice 'bob' is not known to this model; known are dylan, eric, ryan"),
    ("customvoice", {"language": "klingon"}, "language 'klingon' is not one of auto, beijing_dialect, chinese"),
    ("customvoice", {"ref_audio": REF, "ref_text": TRANSCRIPT}, "clones no voices; a Base model does"),
    ("customvoice", {"voice": Voice("a", np.zeros((1, 16)), np.zeros(64))}, "clones no voices; a Base model does"),
    ("customvoice", {"ref_text": "Hi"}, "a transcript without its recording; give --ref-audio"),
    ("customvoice", {"x_vector_only_mode": True}, "unknown setting 'x_vector_only_mode'; known are chunk_frames"),
    ("customvoice", {"text": " "}, "the text is empty"),
    ("customvoice", {"max_new_tokens": 0}, "setting max_new_tokens: wanted a whole number from 1 to 1e+09, got 0"),
    ("customvoice", {"subtalker_temperature": 0}, "setting subtalker_temperature: wanted a number from 1e-09"),
    ("customvoice", {"top_p": 1.5}, "setting top_p: wanted a number from 1e-09 to 1, got 1.5"),
    ("customvoice", {"top_k": "many"}, "setting top_k: wanted a whole number from 0 to 1e+09 (0 is all), got 'many'"),
    ("customvoice", {"codec_schedule": "fast"}, "setting codec_schedule: wanted one of exact, upstream, got 'fast'"),
    ("designed", {"ref_audio": REF, "ref_text": TRANSCRIPT}, "1.7b-voicedesign) clones no voices; a Base model does"),
    ("designed", {"voice": "ryan"}, "has no voices of its own; describe one with --instruct"),
    ("base", {}, "speaks in the voice of a reference: give --ref-audio"),
    ("base", {"voice": "ryan"}, "knows no voice 'ryan' and speaks in the voice of a reference"),
    ("base", {"ref_audio": REF}, "ref.wav: in-context cloning needs its transcript; give what is said in it"),
    ("base", {"ref_audio": REF, "ref_text": "a", "voice": "b"}, "a voice and a reference to clone: give one of them"),
    ("base", {"voice": Voice("", np.zeros((0, 0)), np.zeros(64))}, "enrolled without a transcript; enroll it again"),
    ("base", {"voice": Voice("a", np.zeros((1, 16), int), np.zeros(8))}, "a voice of 8 numbers, this model's have 64"),
    ("base", {"voice": "gone.safetensors"}, "gone.safetensors: no such voice file; make one with `voxport enroll`"),
]


@pytest.mark.parametrize(("name", "options", "why"), REFUSALS)
def test_a_request_that_cannot_be_met_is_refused_in_one_line(
    name: str, options: dict[str, Any], why: str, speakers: dict[str, Speaker], designed: Speaker
) -> None:
    speaker = {**speakers, "designed": designed}[name]
    with pytest.raises(ValueError) as refused:
        speaker.say(**{"text": "Hi"} | options)
    assert why in str(refused.value)
    assert "\n" not in str(refused.value)


def test_recordings_that_hold_no_voice_are_refused(base: Speaker, custom: Speaker, tmp_path: Path) -> None:
    def wav(seconds: float, level: float) -> Path:
        noise = level * np.random.default_rng(0).standard_normal(int(seconds * 8000))
        sf.write(tmp_path / "r.wav", noise, 8000)
        return tmp_path / "r.wav"

    for seconds, level, why in (
        (1, 0.0, "r.wav: is silent; record the reference again"),
        (0.05, 0.1, "r.wav: the reference has 1200 samples at 24000 Hz; wanted at least 2400"),
        (121, 0.1, "r.wav: 121.0 s are too long for a reference; cut it to 120 s or less"),
    ):
        with pytest.raises(ValueError, match=why):
            base.enroll(wav(seconds, level), "a")
    with pytest.raises(ValueError, match=r"r.wav: 121.0 s are too long for a reference; cut it to 120 s or less"):
        base.enroll(wav(121, 0.1), None)
    assert base.enroll(wav(1, 0.1), None).codes.size == 0
    with pytest.raises(ValueError, match="clones no voices"):
        custom.enroll(REF, "a")
    with pytest.raises(ValueError, match="has no codec encoder"):
        custom.tokenize(np.zeros(100, np.float32), 24000)


def test_a_foreign_file_is_no_voice(tmp_path: Path, qwen3tts_friend: Voice) -> None:
    (tmp_path / "x.safetensors").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="not an enrolled voice"):
        Voice.load(tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match=r"an enrolled voice is a \.safetensors file"):
        qwen3tts_friend.save(tmp_path / "x.wav")


def test_a_voice_of_another_model_is_refused_before_anything_is_made(base: Speaker, qwen3tts_friend: Voice) -> None:
    books, size = base.model.books, base.model.size
    wrong = [
        (replace(qwen3tts_friend, codes=qwen3tts_friend.codes[:, :-1]), f"{books - 1} codes per frame"),
        (replace(qwen3tts_friend, codes=np.full_like(qwen3tts_friend.codes, size)), f"up to {size}"),
        (replace(qwen3tts_friend, embedding=qwen3tts_friend.embedding * np.nan), "NaN in its embedding"),
    ]
    for voice, message in wrong:
        with pytest.raises(ValueError, match=message):
            base.say("Hi", voice=voice)


def test_the_speaker_encoder_hears_the_rate_that_its_config_says(
    qwen3tts_bundles: Bundles, base: Speaker, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(qwen3tts_bundles("base", "fp32", "cpu"), tmp_path / "b"))
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["section"]["speaker_encoder"]["rate"] = 32000
    (folder / "manifest.json").write_text(json.dumps(manifest))
    listener = Speaker(Bundle(folder)).requests.listener()
    samples, rate = sf.read(REF, dtype="float32")
    embedding = listener.voice(samples, rate, None).embedding
    resampled = resample_reference(samples, rate, 32000)
    assert listener.embedder is not None
    assert np.array_equal(embedding, listener.embedder.embed(resampled))
    assert np.abs(embedding - base.enroll(REF, None).embedding).max() > 1e-3
    with pytest.raises(ValueError, match="has 3199 samples at 32000 Hz; wanted at least 3200"):
        listener.embedder.embed(resampled[:3199])
