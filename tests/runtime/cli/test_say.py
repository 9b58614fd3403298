"""The verbs of speech on the command line: say, enroll, tokenize, detokenize."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
from tests.bundles import Export
from tests.command import done, refusal, run

Array = np.ndarray
TEXT = "Hey there, my name is Elise."


@pytest.fixture(scope="session")
def bundle(vyvo_bundles: Export) -> Path:
    return vyvo_bundles("fp32", "cpu")


def test_greedy_speech_from_the_command_line(bundle: Path, tmp_path: Path, vyvo_golden: dict[str, Array]) -> None:
    out, tokens = tmp_path / "o.wav", tmp_path / "t.npy"
    result = json.loads(done(run("say", bundle, TEXT, "-o", out, "--greedy", "--save-tokens", tokens, "--json")))
    assert np.array_equal(np.load(tokens), vyvo_golden["greedy.tokens"][0])
    assert sf.info(out).frames == 20480
    assert (sf.info(out).samplerate, sf.info(out).subtype) == (24000, "PCM_16")
    assert result["stopped"] == "end"
    assert result["tokens"] == 73
    assert result["audio_s"] == pytest.approx(20480 / 24000, abs=1e-4)


def test_streamed_and_offline_are_the_same_file(bundle: Path, tmp_path: Path) -> None:
    common = ("say", bundle, "One more.", "--seed", "4", "--set", "max_new_tokens=90")
    assert done(run(*common, "-o", tmp_path / "a.wav")).split() == [str(tmp_path / "a.wav")]
    done(run(*common, "-o", tmp_path / "b.wav", "--stream"))
    assert (tmp_path / "a.wav").read_bytes() == (tmp_path / "b.wav").read_bytes()
    piped = run(*common, "-o", "-", "--stream")
    assert np.array_equal(np.frombuffer(piped.stdout_bytes, "<i2"), sf.read(tmp_path / "a.wav", dtype="int16")[0])


def test_text_comes_from_stdin(bundle: Path, tmp_path: Path, vyvo_golden: dict[str, Array]) -> None:
    tokens = tmp_path / "t.npy"
    done(run("say", bundle, "-", "-o", tmp_path / "o.wav", "--greedy", "--save-tokens", tokens, stdin=TEXT.encode()))
    assert np.array_equal(np.load(tokens), vyvo_golden["greedy.tokens"][0])


def test_a_voice_is_cloned_from_a_recording_or_from_what_was_enrolled(
    bundle: Path, tmp_path: Path, vyvo_checkpoint: Path, vyvo_golden: dict[str, Array]
) -> None:
    ref, words = vyvo_checkpoint / "ref.wav", "Hello world, how are you?"
    common = ("say", bundle, "A small test.", "--greedy", "-o", tmp_path / "o.wav", "--save-tokens", tmp_path / "t.npy")
    done(run(*common, "--ref-audio", ref, "--ref-text", words))
    assert np.array_equal(np.load(tmp_path / "t.npy"), vyvo_golden["clone.tokens"][0])
    done(run("enroll", bundle, ref, "--ref-text", words, "-o", tmp_path / "v.safetensors"))
    (tmp_path / "t.npy").unlink()
    done(run(*common, "--voice", tmp_path / "v.safetensors"))
    assert np.array_equal(np.load(tmp_path / "t.npy"), vyvo_golden["clone.tokens"][0])


def test_tokens_of_a_recording_become_audio_again(
    bundle: Path, tmp_path: Path, vyvo_checkpoint: Path, vyvo_golden: dict[str, Array]
) -> None:
    done(run("tokenize", bundle, vyvo_checkpoint / "ref.wav", "-o", tmp_path / "t.npy"))
    assert np.array_equal(np.load(tmp_path / "t.npy"), vyvo_golden["encode.interleaved"])
    done(run("detokenize", bundle, tmp_path / "t.npy", "-o", tmp_path / "o.wav", "--seed", "2"))
    assert sf.info(tmp_path / "o.wav").frames == 12 * 2048


def test_a_folder_of_recordings_becomes_tokens_and_audio_again(
    bundle: Path, tmp_path: Path, vyvo_checkpoint: Path, vyvo_golden: dict[str, Array]
) -> None:
    (tmp_path / "in" / "deep").mkdir(parents=True)
    shutil.copyfile(vyvo_checkpoint / "ref.wav", tmp_path / "in" / "deep" / "ref.wav")
    (tmp_path / "in" / "bad.wav").write_bytes(b"no audio")
    result = run("tokenize", bundle, tmp_path / "in", "-o", tmp_path / "t")
    assert result.exit_code == 1  # one of two
    assert "bad.wav" in result.stderr
    assert "1 file(s) could not be converted" in result.stderr
    assert np.array_equal(np.load(tmp_path / "t" / "deep" / "ref.npy"), vyvo_golden["encode.interleaved"])
    done(run("detokenize", bundle, tmp_path / "t", "-o", tmp_path / "o"))
    assert sf.info(tmp_path / "o" / "deep" / "ref.wav").frames == 12 * 2048
    assert "holds no token files (.npy)" in refusal(run("detokenize", bundle, tmp_path / "in", "-o", tmp_path / "p"))


def test_what_cannot_be_said_or_kept_is_refused_first(bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "o.wav"
    assert refusal(run("say", bundle, "\udcff", "-o", out)) == "the text is not UTF-8"
    line = refusal(run("say", bundle, "Hi", "-o", out, "--save-tokens", tmp_path / "no" / "t.npy"))
    assert "t.npy: there is no such folder to write to" in line
    assert not out.exists()


def test_an_unknown_voice_is_a_warning(bundle: Path, tmp_path: Path) -> None:
    result = run("say", bundle, "Hi.", "-o", tmp_path / "o.wav", "--voice", "zoe", "--set", "max_new_tokens=20")
    assert result.exit_code == 0
    assert result.stderr.startswith("warning: voice 'zoe' is not known")
    assert "EN_B00000_S00000" in result.stderr


def test_no_speech_is_a_check_that_failed_and_its_tokens_are_kept(bundle: Path, tmp_path: Path) -> None:
    out, tokens = tmp_path / "o.wav", tmp_path / "t.npy"
    result = run("say", bundle, TEXT, "-o", out, "--greedy", "--set", "dialect=classic", "--save-tokens", tokens)
    assert result.exit_code == 1
    assert "no audio: the model did not begin to speak" in result.stderr
    assert not out.exists()
    assert np.load(tokens).tolist() == [6117, 402]


def test_the_module_has_all_verbs_too(bundle: Path) -> None:
    command = [sys.executable, "-m", "voxport.cli", "say", str(bundle), "", "-o", "x.wav"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert ended.stderr == "Error: the text is empty; give at least one word\n"
