"""What say, enroll, tokenize and detokenize refuse: one line that says what to do."""

import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
from safetensors.numpy import save_file
from tests.bundles import Export
from tests.command import done, refusal, run

from voxport.cli.output import Progress
from voxport.speech.speech import Speech

Array = np.ndarray


@pytest.fixture(scope="session")
def bundle(vyvo_bundles: Export) -> Path:
    return vyvo_bundles("fp32", "cpu")


def wav(path: Path, samples: Array, rate: int = 24000) -> Path:
    sf.write(path, samples, rate, "PCM_16")
    return path


def noise(seconds: float) -> Array:
    return 0.1 * np.random.default_rng(0).standard_normal(int(seconds * 24000)).astype(np.float32)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (["--set", "temprature=1"], "unknown setting 'temprature'; known are chunk_frames"),
        (["--set", "top_k"], "wanted NAME=VALUE"),
        (["--set", "=3"], "wanted NAME=VALUE"),
        (["--set", "text=3"], "the text is an argument of its own"),
        (["--set", "ref_audio=a.wav"], "ref_audio has an option of its own, --ref-audio"),
        (["--save-tokens", "-"], "-: tokens go into a .npy file; name one"),
        (["--save-tokens", "."], ".: is a folder; name a .npy file"),
        (["--set", "seed=1"], "seed has an option of its own"),
        (["--set", "top_k=many"], "setting top_k: wanted a whole number from 0 to 1e+09 (0 is all), got 'many'"),
        (["--set", "top_p=2"], "setting top_p: wanted a number from 1e-09 to 1, got '2'"),
        (
            ["--set", "temperature=0"],
            "setting temperature: wanted a number from 1e-09 to 1e+09 (for the best",
        ),
        (["--set", "max_new_tokens=0"], "setting max_new_tokens: wanted a whole number from 1 to 1e+09, got '0'"),
        (["--set", "runaway_seconds=-1"], "setting runaway_seconds: wanted a number from 0 to 1e+09, got '-1'"),
        (["--set", "runaway_seconds=nan"], "setting runaway_seconds: wanted a number from 0 to 1e+09, got 'nan'"),
        (["--set", "dialect=old"], "setting dialect: wanted one of current, classic, got 'old'"),
        (["--set", "fade_out=-3"], "setting fade_out: wanted a number from 0 to 1e+09, got '-3'"),
        (["--set", "strict=maybe"], "setting strict: wanted true or false"),
        (["--set", "codec_schedule=x"], "setting codec_schedule: wanted one of exact, orpheus, got 'x'"),
        (["--language", "en"], "vyvo takes no --language"),
        (["--instruct", "sadly"], "vyvo takes no --instruct"),
        (["--ref-text", "hello"], "a transcript without its recording; give --ref-audio too"),
        (["--ref-audio", "REF"], "needs its transcript; give what is said in it with --ref-text"),
        (["--ref-audio", "REF", "--ref-text", " "], "needs its transcript"),
        (["--ref-audio", "REF", "--ref-text", "a", "--voice", "zoe"], "give one of them"),
        (["--ref-audio", "missing.wav", "--ref-text", "a"], "missing.wav: cannot be read"),
        (["--voice", "missing.safetensors"], "missing.safetensors: no such voice file"),
    ],
)
def test_a_bad_option_is_one_line(
    options: list[str], why: str, bundle: Path, tmp_path: Path, vyvo_checkpoint: Path
) -> None:
    arguments = [str(vyvo_checkpoint / "ref.wav") if option == "REF" else option for option in options]
    assert why in refusal(run("say", bundle, "Hi.", "-o", tmp_path / "o.wav", *arguments))
    assert not (tmp_path / "o.wav").exists()


def test_text_that_is_empty_or_does_not_fit_is_refused(vyvo_copy: Path, tmp_path: Path) -> None:
    for text in ("", " \n"):
        assert "the text is empty" in refusal(run("say", vyvo_copy, text, "-o", tmp_path / "o.wav"))
    manifest = json.loads((vyvo_copy / "manifest.json").read_text())
    manifest["section"]["context"] = 100
    (vyvo_copy / "manifest.json").write_text(json.dumps(manifest))
    line = refusal(run("say", vyvo_copy, "Too long. " * 50, "-o", tmp_path / "o.wav"))
    assert "do not fit the context of 100; say the text in several calls" in line
    tight = json.loads(done(run("say", vyvo_copy, "Hi.", "-o", tmp_path / "o.wav", "--greedy", "--json")))
    assert tight["stopped"] in ("end", "context")
    assert tight["tokens"] <= 100


@pytest.mark.parametrize(
    ("samples", "why"),
    [
        (np.zeros(0, np.float32), "holds no samples"),
        (np.zeros(24000, np.float32), "is silent; record the reference again"),
        (noise(31), "31.0 s are too long for a reference; cut it to 30 s or less"),
    ],
)
def test_a_bad_reference_is_refused(samples: Array, why: str, bundle: Path, tmp_path: Path) -> None:
    ref = wav(tmp_path / "ref.wav", samples)
    out = tmp_path / "v.safetensors"
    assert why in refusal(run("enroll", bundle, ref, "--ref-text", "hello", "-o", out))
    assert not out.exists()


def test_a_voice_of_a_wrong_name_is_refused_before_anything_is_opened(tmp_path: Path) -> None:
    line = refusal(run("enroll", tmp_path / "nosuch", tmp_path / "nosuch.wav", "-o", tmp_path / "v.bin"))
    assert "an enrolled voice is a .safetensors file" in line


def test_a_file_that_is_no_voice_is_refused(bundle: Path, tmp_path: Path, vyvo_checkpoint: Path) -> None:
    voice = tmp_path / "v.safetensors"

    def line() -> str:
        return refusal(run("say", bundle, "Hi.", "-o", tmp_path / "o.wav", "--voice", voice))

    voice.write_text("hello")
    assert "not an enrolled voice" in line()
    save_file({"codes": np.zeros((2, 7), np.int32)}, voice)
    assert "a voice of something else, this bundle is vyvo" in line()
    save_file({"codes": np.zeros(7, np.int32)}, voice, {"voxport.system": "vyvo", "text": "a"})
    assert "enroll the reference again" in line()
    save_file({"codes": np.full((2, 7), 4096, np.int32)}, voice, {"voxport.system": "vyvo", "text": "a"})
    assert "belongs to another codec" in line()
    ref = vyvo_checkpoint / "ref.wav"
    wrong = refusal(run("enroll", bundle, ref, "--ref-text", "a", "-o", tmp_path / "voice.bin"))
    assert "an enrolled voice is a .safetensors file" in wrong


NOT_TOKENS = "not a .npy file of tokens"
TOKENS: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda _: None, "No such file or directory"),
    "empty": (lambda p: p.write_bytes(b""), NOT_TOKENS),
    "text": (lambda p: p.write_text("1 2 3"), NOT_TOKENS),
    "zip": (lambda p: p.write_bytes(zipped(np.arange(7))), NOT_TOKENS),
    "cut": (lambda p: p.write_bytes(npy(np.arange(70))[:-8]), NOT_TOKENS),
    "petabytes": (lambda p: p.write_bytes(npy(np.arange(7)).replace(b"(7,)", b"(%d,)" % 2**50)), NOT_TOKENS),
    "objects": (lambda p: np.save(p, np.array([{}]), allow_pickle=True), NOT_TOKENS),
    "a number": (lambda p: np.save(p, np.int64(5)), "holds a single number; wanted an array of tokens"),
    "floats": (lambda p: np.save(p, np.zeros(7, np.float32)), "wanted whole-numbered tokens, got float32"),
    "foreign": (lambda p: np.save(p, np.full(14, 99)), "neither tokens of `tokenize` nor of `say`"),
}


def npy(array: Array) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def zipped(array: Array) -> bytes:
    file = io.BytesIO()
    np.savez(file, array)
    return file.getvalue()


@pytest.mark.parametrize("kind", TOKENS)
def test_tokens_that_are_none_are_refused(kind: str, bundle: Path, tmp_path: Path) -> None:
    make, why = TOKENS[kind]
    file = tmp_path / "t.npy"
    make(file)
    assert refusal(run("detokenize", bundle, file, "-o", tmp_path / "o.wav")).startswith(f"{file}: {why}")
    assert {path.name for path in tmp_path.iterdir()} <= {"t.npy"}


def test_tokens_need_a_file_to_go_to(bundle: Path, tmp_path: Path) -> None:
    ref = wav(tmp_path / "ref.wav", noise(1))
    for out, why in (
        ("-", "name one"),
        (str(tmp_path / "no" / "t.npy"), "no such folder"),
        (str(tmp_path), "is a folder"),
    ):
        assert why in refusal(run("tokenize", bundle, ref, "-o", out))
    assert "--float: stdout carries raw" in refusal(run("detokenize", bundle, "t.npy", "-o", "-", "--float"))
    assert [path.name for path in tmp_path.iterdir()] == ["ref.wav"]


def test_a_recording_is_not_overwritten(bundle: Path, tmp_path: Path) -> None:
    ref = wav(tmp_path / "ref.wav", noise(1))
    (tmp_path / "link.wav").symlink_to(ref)
    before = ref.read_bytes()
    for out in ("ref.wav", "link.wav"):
        why = f"{tmp_path / out}: is the input; name another output"
        assert refusal(run("tokenize", bundle, ref, "-o", tmp_path / out)) == why
        options = ("--ref-audio", ref, "--ref-text", "a", "-o", tmp_path / out)
        assert refusal(run("say", bundle, "Hi.", *options)) == why
    assert ref.read_bytes() == before


@pytest.mark.parametrize("options", [[], ["--stream"]])
def test_an_output_that_cannot_be_written_is_refused_before_anything_is_said(
    options: list[str], bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def generate(_: Progress) -> Iterator[Array]:
        raise AssertionError("the text was said")

    monkeypatch.setattr(Progress, "__iter__", generate)
    for out, why in ((tmp_path / "o.xyz", "unknown audio extension"), (tmp_path / "no" / "o.wav", "cannot be written")):
        assert why in refusal(run("say", bundle, "Hi.", "-o", out, *options))


def test_a_failure_while_speaking_leaves_neither_audio_nor_tokens(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def generate(_: Progress) -> Iterator[Array]:
        yield noise(1)
        raise ValueError("the graph stopped")

    closed: list[Speech] = []
    monkeypatch.setattr(Speech, "close", lambda speech: closed.append(speech))
    monkeypatch.setattr(Progress, "__iter__", generate)
    options = ("-o", tmp_path / "o.wav", "--save-tokens", tmp_path / "t.npy", "--stream")
    assert refusal(run("say", bundle, "Hi.", *options)) == "the graph stopped"
    assert len(closed) == 1
    assert list(tmp_path.iterdir()) == []


def test_systems_say_what_they_do_instead(bundle: Path, llvc_bundles: Export, tmp_path: Path) -> None:
    llvc = llvc_bundles("fp32", "cpu")
    assert "llvc converts voices; use voxport convert" in refusal(run("say", llvc, "Hi.", "-o", tmp_path / "o.wav"))
    assert "use voxport say" in refusal(run("convert", bundle, "a.wav", "b.wav"))
    assert "llvc has no codec; use voxport convert" in refusal(run("tokenize", llvc, "a.wav", "-o", "t.npy"))
    assert "llvc has no codec; use voxport convert" in refusal(run("detokenize", llvc, "t.npy", "-o", "a.wav"))
    assert "llvc converts voices" in refusal(run("enroll", llvc, "a.wav", "-o", "v.safetensors"))
    assert "stdout carries raw" in refusal(run("say", bundle, "Hi.", "-o", "-", "--json"))
