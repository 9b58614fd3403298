"""Qwen3-TTS through the runtime: upstream's codes and audio, what streaming promises, and what is refused."""

import json
import shutil
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile as sf
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.bundles import FIXTURES
from tests.command import done, refusal, run

from voxport import bounds
from voxport.bundle import Bundle
from voxport.codecs.codec12hz import after_reference
from voxport.speech import rows
from voxport.systems.qwen3tts.lm import LanguageModel, Row
from voxport.systems.qwen3tts.speaker import Speaker
from voxport.systems.qwen3tts.voice import Voice, synthetic_voice
from voxport.verify import verify
from voxport_parity.compare import compare
from voxport_parity.systems.qwen3tts import feeds, runs
from voxport_parity.trace import Golden, Trace

Array = np.ndarray
Bundles = Callable[[str, str, str], Path]
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

NAMES = ("customvoice", "base")
TEXT = "Hello there, this is a small test of the speech model. 你好，世界！"  # noqa: RUF001
REF = FIXTURES / "qwen3tts-base" / "ref.wav"
SPOKEN = "比我还好呦"
GREEDY = {
    "customvoice": ["cv_nonstream", "cv_textstream", "cv_dialect", "cv_auto"],
    "base": ["icl", "icl_short", "icl_nonstream", "xvec", "xvec_nonstream"],
}
STREAM = 2e-6


@pytest.fixture(scope="session")
def speakers(qwen3tts_bundles: Bundles) -> dict[str, Speaker]:
    return {name: Speaker(Bundle(qwen3tts_bundles(name, "fp32", "cpu")), threads=1) for name in NAMES}


@pytest.fixture(scope="session")
def custom(speakers: dict[str, Speaker]) -> Speaker:
    return speakers["customvoice"]


@pytest.fixture(scope="session")
def base(speakers: dict[str, Speaker]) -> Speaker:
    return speakers["base"]


@pytest.fixture(scope="session")
def goldens() -> dict[str, Golden]:
    found = {name: Golden.of(FIXTURES / f"qwen3tts-{name}") for name in NAMES}
    return {name: golden for name, golden in found.items() if golden is not None}


def asked(golden: Golden, name: str) -> dict[str, Any]:
    """The arguments of `say` for a run of upstream's."""
    given_ = {k: v for k, v in golden.notes["runs"][name]["settings"].items() if k not in runs.ABOUT}
    if "speaker" in given_:
        given_["voice"] = given_.pop("speaker")
    if "ref_audio" in given_:
        given_["ref_audio"] = golden.folder / given_["ref_audio"]
    return given_


# ------------------------------------------------------------------------------------------------------- goldens


@pytest.mark.parametrize(("name", "case"), [(name, case) for name, cases in GREEDY.items() for case in cases])
def test_greedy_codes_and_audio_are_upstreams(
    name: str, case: str, speakers: dict[str, Speaker], goldens: dict[str, Golden]
) -> None:
    speech = speakers[name].say(**asked(goldens[name], case))
    samples, golden = speech.samples(), goldens[name].tensors
    assert np.array_equal(speech.tokens, golden[f"{case}.codes"])
    assert len(samples) == 1920 * len(speech.tokens)
    if f"{case}.wav" in golden:
        assert np.abs(samples - golden[f"{case}.wav"]).max() < bounds.CODEC12HZ_AUDIO.absolute
    ended = goldens[name].notes["runs"][case]["ended_with_eos"]
    assert speech.stopped == ("end" if ended else "max_new_tokens")


@pytest.mark.parametrize("name", NAMES)
def test_every_golden_a_graph_can_make_is_made(
    name: str, qwen3tts_bundles: Bundles, goldens: dict[str, Golden]
) -> None:
    """Sampled runs and the instruct run are among them."""
    golden, bundle = goldens[name], Bundle(qwen3tts_bundles(name, "fp32", "cpu"))
    made, streamed = feeds.trace(bundle, golden), feeds.streamed(bundle, golden)
    for link in (made, streamed):
        assert_alike(link, golden.tensors)
    inside = ("prefill_hidden", "dec.", "spk.", "enc.", ".uniforms")
    assert not [n for n in golden.tensors if n not in made and not any(part in n for part in inside)]
    sampled = {"customvoice": {"cv_sampled.codes", "instruct.codes"}, "base": {"xvec_sampled.codes"}}[name]
    assert sampled <= made.keys() & streamed.keys()


def assert_alike(made: Trace, wanted: Trace) -> None:
    diffs = [
        compare("qwen3tts", feeds.stage(n), "", n, made[n], wanted[n], feeds.bound(n)) for n in made if n in wanted
    ]
    assert len(diffs) > 40
    assert not [str(diff) for diff in diffs if not diff.ok]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "target"), [("customvoice", "portable"), ("base", "portable"), ("base", "cpu")])
def test_the_chain_holds_from_upstream_to_streams(
    name: str, target: str, qwen3tts_bundles: Bundles, tmp_path: Path
) -> None:
    bundle, report = qwen3tts_bundles(name, "fp32", target), tmp_path / "parity.json"
    checkpoint = FIXTURES / f"qwen3tts-{name}"
    done(run("parity", "qwen3tts", checkpoint, "--bundle", bundle, "--target", target, "--json", report))
    rows = json.loads(report.read_text())
    assert {row["link"] for row in rows} == {"torch", "graph", "streamed"}
    assert all(row["ok"] for row in rows)


def test_a_rehearsal_gives_what_it_gave_at_export(qwen3tts_bundles: Bundles) -> None:
    for name in NAMES:
        rows = verify(qwen3tts_bundles(name, "fp32", "cpu"), threads=2)
        assert all(row.ok for row in rows)
        assert ("voice" in {row.name for row in rows}) == (name == "base")


# ----------------------------------------------------------------------------------------------------- streaming


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
        codes, spoken = chunks.tokens, voice.codes if isinstance(voice, Voice) else np.empty((0, 16), np.int64)
        assert len(codes) == 16
        whole = speaker.codec.decode(np.concatenate((spoken, codes)))
        assert np.abs(np.concatenate(pieces) - whole[1920 * len(spoken) :]).max() < STREAM


def test_audio_leaves_while_frames_are_still_made(custom: Speaker) -> None:
    speech = custom.say(TEXT, max_new_tokens=40, min_new_tokens=40)
    assert len(next(speech).samples) == 1920
    assert len(speech.tokens) == 1
    assert len(speech.samples()) == 38 * 1920


def test_the_same_seed_gives_the_same_codes(custom: Speaker) -> None:
    def codes(seed: int) -> list[Any]:
        speech = custom.say(TEXT, seed=seed, max_new_tokens=12)
        speech.samples()
        made: list[Any] = speech.tokens.tolist()
        return made

    assert codes(1) == codes(1)
    assert codes(1) != codes(2)


def test_text_may_come_piece_by_piece(custom: Speaker, goldens: dict[str, Golden]) -> None:
    wanted, given_ = asked(goldens["customvoice"], "cv_textstream"), []

    def typed() -> Iterator[str]:
        for at, end in pairwise([0, 1, 9, 9, 30, 31, 60, len(TEXT)]):
            given_.append(end)
            yield TEXT[at:end]

    speech = custom.say(**wanted | {"text": typed()})
    next(speech)
    assert len(given_) <= 4  # the first frame leaves while the text still comes
    speech.samples()
    assert np.array_equal(speech.tokens, goldens["customvoice"].tensors["cv_textstream.codes"])
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


# --------------------------------------------------------------------------------------------- length and retries


def test_speech_that_runs_away_is_cut_and_said_so(custom: Speaker) -> None:
    guard: dict[str, Any] = {"runaway_seconds": 0.4, "runaway_seconds_per_letter": 0, "min_new_tokens": 99}
    for text in ("Hi", iter(["Hi", " you"])):
        speech = custom.say(text, **guard)
        speech.samples()
        assert len(speech.tokens) == 5
        assert speech.stopped == "runaway"
        assert "was cut after 6 tokens (runaway)" in speech.warnings[-1]
    ways: list[dict[str, Any]] = [{"greedy": True}, {"max_new_tokens": 12}]
    for free in (*ways, {"do_sample": False, "subtalker_dosample": "false"}):
        speech = custom.say("Hi", voice="ryan", **guard | {"min_new_tokens": 8} | free)
        speech.samples()
        assert len(speech.tokens) >= 8
        assert speech.stopped != "runaway"


def test_what_ran_away_is_said_again_unless_it_was_heard(custom: Speaker, monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[float] = []

    def generate(self: LanguageModel, rows: list[Row], rule: object, watch: object = None) -> Iterator[list[Array]]:
        (row,) = rows
        tried.append(float(row.draws(0)[0]))
        yield [np.full(16, len(tried))]
        row.stopped = "end" if len(tried) == 2 else "max_new_tokens"

    monkeypatch.setattr(LanguageModel, "generate", generate)
    for stream, count, stopped in ((False, 2, "end"), (True, 1, "runaway")):
        tried.clear()
        speech = custom.say("Hi", stream=stream)
        assert len(speech.samples()) == 1920
        assert len(set(tried)) == len(tried) == count
        assert speech.tokens.tolist() == [[count] * 16]
        assert speech.stopped == stopped
    tried[:] = [0.0, 0.0]  # it never ends
    speech = custom.say("Hi", stream=False, retries=1)
    speech.samples()
    assert len(tried) == 4
    assert speech.stopped == "runaway"


def test_frames_are_tokens_less_one(custom: Speaker) -> None:
    for most in (1, 2, 5):
        speech = custom.say("Hi", greedy=True, max_new_tokens=most, min_new_tokens=9)
        assert len(speech.samples()) == 1920 * (most - 1)
        assert speech.tokens.shape == (most - 1, 16)
        assert not speech.warnings


def test_a_long_text_is_said_sentence_by_sentence(custom: Speaker) -> None:
    book = "This sentence has exactly ten words, and then it ends. " * 500
    short: dict[str, Any] = {"runaway_seconds": 0.17, "runaway_seconds_per_letter": 0, "min_new_tokens": 9}
    speech = custom.say(book, voice="ryan", **short)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        samples = speech.samples()
    parts, pause = len(speech.tokens) // 2, 4800
    assert 60 < parts < 80  # of 400 letters
    assert len(samples) == parts * 2 * 1920 + (parts - 1) * pause
    assert not samples[2 * 1920 : 2 * 1920 + pause].any()
    with pytest.raises(ValueError, match=r"tokens of text and voice do not fit the context of 32768"):
        custom.say(book * 3, voice="ryan", max_new_tokens=9)


# ------------------------------------------------------------------------------------------------------- cloning


@pytest.fixture(scope="session")
def friend(base: Speaker) -> Voice:
    return base.enroll(REF, SPOKEN)


def test_an_enrolled_voice_is_the_recording(
    base: Speaker, friend: Voice, tmp_path: Path, goldens: dict[str, Golden]
) -> None:
    golden = goldens["base"].tensors
    assert np.array_equal(friend.codes, golden["enc.codes"])
    assert np.abs(friend.embedding - golden["spk.embedding"]).max() < bounds.XVECTOR.absolute
    friend.save(tmp_path / "friend.safetensors")
    held = Voice.load(tmp_path / "friend.safetensors")
    case = asked(goldens["base"], "icl_short")
    del case["ref_audio"], case["ref_text"]
    for voice in (friend, held, str(tmp_path / "friend.safetensors")):
        speech = base.say(**case, voice=voice)
        speech.samples()
        assert np.array_equal(speech.tokens, golden["icl_short.codes"])


def test_a_voice_that_lies_in_the_bundle_has_a_name(
    qwen3tts_bundles: Bundles, base: Speaker, friend: Voice, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(qwen3tts_bundles("base", "fp32", "cpu"), tmp_path / "b"))
    friend.save(folder / "voices" / "pal.safetensors")
    speaker = Speaker(Bundle(folder))
    assert speaker.voices == ["pal"]
    named, given_ = (s.say("你好", voice=v, max_new_tokens=6) for s, v in ((speaker, "pal"), (base, friend)))
    assert np.abs(named.samples() - given_.samples()).max() < STREAM


def test_upstreams_way_of_decoding_cuts_where_upstream_cuts(
    base: Speaker, goldens: dict[str, Golden], monkeypatch: pytest.MonkeyPatch
) -> None:
    speech = base.say(**asked(goldens["base"], "icl"), codec_schedule="upstream")
    wave = goldens["base"].tensors["icl.wav"]
    assert np.abs(speech.samples() - wave).max() < bounds.CODEC12HZ_AUDIO.absolute
    assert after_reference(15, 22, 22 * 1920) == 15 * 1920 - 1
    voice = Voice("a", np.full((15, 16), 7), np.zeros(64, np.float32))
    chosen: dict[str, Any] = {"voice": voice, "max_new_tokens": 8, "min_new_tokens": 8}
    assert len(base.say("你好", **chosen, codec_schedule="upstream").samples()) == 7 * 1920 + 1
    assert len(base.say("你好", **chosen).samples()) == 7 * 1920


def test_tokens_and_audio_go_there_and_back(base: Speaker, goldens: dict[str, Golden]) -> None:
    samples, rate = sf.read(REF, dtype="float32")
    codes = base.tokenize(samples, rate)
    assert np.array_equal(codes, goldens["base"].tensors["enc.codes"])
    made = np.concatenate(list(base.detokenize(codes)))
    assert np.abs(made - base.codec.decode(codes)).max() < STREAM
    with pytest.raises(ValueError, match=r"wanted codes int \[frames, 16\]"):
        list(base.detokenize(np.zeros((3, 4), np.int64)))
    with pytest.raises(ValueError, match="code 64 is not one of"):
        list(base.detokenize(np.full((3, 16), 64)))


# ---------------------------------------------------------------------------------------------- variants and refusals


@pytest.fixture(scope="session")
def designed(qwen3tts_bundles: Bundles, tmp_path_factory: pytest.TempPathFactory) -> Speaker:
    """CustomVoice without its voices, and with ears: what VoiceDesign is."""
    source = qwen3tts_bundles("customvoice", "fp32", "cpu")
    folder = Path(shutil.copytree(source, tmp_path_factory.mktemp("designed") / "bundle"))
    manifest = json.loads((folder / "manifest.json").read_text())
    held = {n: i for n, i in manifest["tokens"].items() if not n.startswith(("speaker.", "dialect."))}
    manifest |= {"tokens": held, "voices": [], "variant": "1.7b-voicedesign"}
    manifest["section"]["instruct"] = True
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return Speaker(Bundle(folder))


def test_a_described_voice_hears_its_description(designed: Speaker, custom: Speaker) -> None:
    heard = designed.say("Hi", instruct="Speak very slowly.", greedy=True, max_new_tokens=6)
    deaf = designed.say("Hi", greedy=True, max_new_tokens=6)
    assert np.abs(heard.samples() - deaf.samples()).max() > STREAM
    assert not heard.warnings
    assert "without an instruct it takes any" in deaf.warnings[0]
    asked_ = [s.requests.request(instruct="Speak very slowly.", greedy=True) for s in (designed, custom)]
    rows = [len(s.prompt("Hi", request).embeds) for s, request in zip((designed, custom), asked_, strict=True)]
    assert rows[0] - rows[1] == 17 - 1  # the ids of the instruct; and there is no speaker


def test_an_instruct_that_is_not_heard_is_warned_of(custom: Speaker, base: Speaker, friend: Voice) -> None:
    for speaker, voice in ((custom, "ryan"), (base, friend)):
        plain, told = (speaker.say("Hi", voice=voice, instruct=i, max_new_tokens=4) for i in (None, "Slowly."))
        assert np.array_equal(plain.samples(), told.samples())
        assert not plain.warnings
        assert "does not listen to an instruct; it is ignored" in told.warnings[0]


REFUSALS: list[tuple[str, dict[str, Any], str]] = [
    ("customvoice", {"voice": "bob"}, "voice 'bob' is not known to this model; known are dylan, eric, ryan"),
    ("customvoice", {"language": "klingon"}, "language 'klingon' is not one of auto, beijing_dialect, chinese"),
    ("customvoice", {"ref_audio": REF, "ref_text": SPOKEN}, "clones no voices; a Base model does"),
    ("customvoice", {"voice": Voice("a", np.zeros((1, 16)), np.zeros(64))}, "clones no voices; a Base model does"),
    ("customvoice", {"ref_text": "Hi"}, "a transcript without its recording; give --ref-audio"),
    ("customvoice", {"x_vector_only_mode": True}, "unknown setting 'x_vector_only_mode'; known are chunk_frames"),
    ("customvoice", {"text": " "}, "the text is empty"),
    ("customvoice", {"max_new_tokens": 0}, "setting max_new_tokens: wanted a whole number from 1 to 1e+09, got 0"),
    ("customvoice", {"subtalker_temperature": 0}, "setting subtalker_temperature: wanted a number from 1e-09"),
    ("customvoice", {"top_p": 1.5}, "setting top_p: wanted a number from 1e-09 to 1, got 1.5"),
    ("customvoice", {"top_k": "many"}, "setting top_k: wanted a whole number from 0 to 1e+09 (0 is all), got 'many'"),
    ("customvoice", {"codec_schedule": "fast"}, "setting codec_schedule: wanted one of exact, upstream, got 'fast'"),
    ("designed", {"ref_audio": REF, "ref_text": SPOKEN}, "1.7b-voicedesign) clones no voices; a Base model does"),
    ("designed", {"voice": "ryan"}, "has no voices of its own; describe one with --instruct"),
    ("base", {}, "speaks in the voice of a reference: give --ref-audio"),
    ("base", {"voice": "ryan"}, "knows no voice 'ryan' and speaks in the voice of a reference"),
    ("base", {"ref_audio": REF}, "ref.wav: in-context cloning needs its transcript; give what is said in it"),
    ("base", {"ref_audio": REF, "ref_text": "a", "voice": "b"}, "a voice and a reference to clone: give one of them"),
    ("base", {"voice": Voice("", np.zeros((0, 0)), np.zeros(64))}, "enrolled without a transcript; enroll it again"),
    ("base", {"voice": Voice("a", np.zeros((1, 16), int), np.zeros(8))}, "a voice of 8 numbers, this model's have 64"),
    ("base", {"voice": "gone.safetensors"}, "gone.safetensors: no such voice file; make one with `voxport enroll`"),
]


@pytest.mark.parametrize(("name", "given_", "why"), REFUSALS)
def test_a_request_that_cannot_be_met_is_refused_in_one_line(
    name: str, given_: dict[str, Any], why: str, speakers: dict[str, Speaker], designed: Speaker
) -> None:
    speaker = {**speakers, "designed": designed}[name]
    with pytest.raises(ValueError) as refused:
        speaker.say(**{"text": "Hi"} | given_)
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
    assert base.enroll(wav(1, 0.1), None).codes.size == 0
    with pytest.raises(ValueError, match="clones no voices"):
        custom.enroll(REF, "a")
    with pytest.raises(ValueError, match="has no codec encoder"):
        custom.tokenize(np.zeros(100, np.float32), 24000)


def test_a_foreign_file_is_no_voice(tmp_path: Path, friend: Voice) -> None:
    (tmp_path / "x.safetensors").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="not an enrolled voice"):
        Voice.load(tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match=r"an enrolled voice is a \.safetensors file"):
        friend.save(tmp_path / "x.wav")


def test_a_voice_of_another_model_is_refused_before_anything_is_made(base: Speaker, friend: Voice) -> None:
    books, size = base.model.books, base.model.size
    wrong = [
        (replace(friend, codes=friend.codes[:, :-1]), f"{books - 1} codes per frame"),
        (replace(friend, codes=np.full_like(friend.codes, size)), f"up to {size}"),
        (replace(friend, embedding=friend.embedding * np.nan), "NaN in its embedding"),
    ]
    for voice, told in wrong:
        with pytest.raises(ValueError, match=told):
            base.say("Hi", voice=voice)


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
    def said(**given_: Any) -> list[Any]:
        speech = custom.say("Hi<|im_end|>there", voice="ryan", greedy=True, max_new_tokens=6, **given_)
        speech.samples()
        made: list[Any] = speech.tokens.tolist()
        return made

    assert said() != said(parse_special="true")


# --------------------------------------------------------------------------------------------------- the command


def test_the_command_speaks_and_clones(qwen3tts_bundles: Bundles, goldens: dict[str, Golden], tmp_path: Path) -> None:
    custom, base = (qwen3tts_bundles(name, "fp32", "cpu") for name in NAMES)
    out, codes, voice = tmp_path / "o.wav", tmp_path / "t.npy", tmp_path / "v.safetensors"
    common = ("-o", out, "--greedy", "--save-tokens", codes)
    done(run("say", custom, TEXT, "--voice", "Ryan", "--language", "English", *common))
    assert np.array_equal(np.load(codes), goldens["customvoice"].tensors["cv_nonstream.codes"])
    wave = goldens["customvoice"].tensors["cv_nonstream.wav"]
    assert np.abs(sf.read(out)[0] - wave).max() < 2 / 32768
    done(run("enroll", base, REF, "--ref-text", SPOKEN, "-o", voice))
    done(run("say", base, "你好", "--voice", voice, "--language", "Chinese", *common, "--set", "max_new_tokens=8"))
    assert np.array_equal(np.load(codes), goldens["base"].tensors["icl_short.codes"])
    chosen = ("--set", "x_vector_only_mode=true", "--set", "max_new_tokens=24")
    done(run("say", base, TEXT, "--ref-audio", REF, "--language", "English", *common, *chosen))
    assert np.array_equal(np.load(codes), goldens["base"].tensors["xvec.codes"])
    done(run("tokenize", base, REF, "-o", codes))
    assert np.array_equal(np.load(codes), goldens["base"].tensors["enc.codes"])
    done(run("detokenize", base, codes, "-o", out))
    assert sf.info(out).frames == 19 * 1920
    assert "klingon" in refusal(run("say", custom, "Hi", "-o", out, "--language", "klingon"))


def test_streamed_and_offline_are_the_same_file(qwen3tts_bundles: Bundles, tmp_path: Path) -> None:
    common = ("say", qwen3tts_bundles("customvoice", "fp32", "cpu"), "Hi", "--seed", "4", "--set", "max_new_tokens=9")
    for name, option in (("a.wav", ()), ("b.wav", ("--stream",))):
        done(run(*common, "-o", tmp_path / name, *option))
    assert (tmp_path / "a.wav").read_bytes() == (tmp_path / "b.wav").read_bytes()


def test_benchmarks_say_as_much_as_they_are_told(base: Speaker, custom: Speaker) -> None:
    for speaker in (base, custom):
        assert sum(len(chunk) for chunk in speaker.workload(1.0)) == round(1.0 * 12.5) * 1920
    made_up = synthetic_voice(base.requests.listener(), base.sample_rate)
    assert made_up is not None
    assert made_up.codes.shape == (38, 16)
    assert synthetic_voice(custom.requests.listener(), custom.sample_rate) is None


def test_a_fork_goes_on_from_where_it_was_made(base: Speaker) -> None:
    codes = np.random.default_rng(0).integers(0, 64, (9, 16))
    stream = base.codec.stream()
    start = stream.feed(codes[:4])
    fork = stream.fork()
    assert np.array_equal(fork.feed(codes[4:]), stream.feed(codes[4:]))
    assert np.abs(np.concatenate((start, fork.feed(codes[:1])))[: len(start)] - start).max() == 0
