"""Qwen3-TTS from the command line."""

from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
from tests.command import done, refusal, run
from tests.qwen3tts_cases import NAMES, REF, TEXT, TRANSCRIPT, Bundles

from voxport_parity.trace import Golden

Array = np.ndarray
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def test_the_command_speaks_and_clones(
    qwen3tts_bundles: Bundles, qwen3tts_goldens: dict[str, Golden], tmp_path: Path
) -> None:
    custom, base = (qwen3tts_bundles(name, "fp32", "cpu") for name in NAMES)
    out, codes, voice = tmp_path / "o.wav", tmp_path / "t.npy", tmp_path / "v.safetensors"
    common = ("-o", out, "--greedy", "--save-tokens", codes)
    done(run("say", custom, TEXT, "--voice", "Ryan", "--language", "English", *common))
    assert np.array_equal(np.load(codes), qwen3tts_goldens["customvoice"].tensors["cv_nonstream.codes"])
    wave = qwen3tts_goldens["customvoice"].tensors["cv_nonstream.wav"]
    assert np.abs(sf.read(out)[0] - wave).max() < 2 / 32768
    done(run("enroll", base, REF, "--ref-text", TRANSCRIPT, "-o", voice))
    done(run("say", base, "你好", "--voice", voice, "--language", "Chinese", *common, "--set", "max_new_tokens=8"))
    assert np.array_equal(np.load(codes), qwen3tts_goldens["base"].tensors["icl_short.codes"])
    settings_of_call = ("--set", "x_vector_only_mode=true", "--set", "max_new_tokens=24")
    done(run("say", base, TEXT, "--ref-audio", REF, "--language", "English", *common, *settings_of_call))
    assert np.array_equal(np.load(codes), qwen3tts_goldens["base"].tensors["xvec.codes"])
    done(run("tokenize", base, REF, "-o", codes))
    assert np.array_equal(np.load(codes), qwen3tts_goldens["base"].tensors["enc.codes"])
    done(run("detokenize", base, codes, "-o", out))
    assert sf.info(out).frames == 19 * 1920
    assert "klingon" in refusal(run("say", custom, "Hi", "-o", out, "--language", "klingon"))


def test_streamed_and_offline_are_the_same_file(qwen3tts_bundles: Bundles, tmp_path: Path) -> None:
    common = ("say", qwen3tts_bundles("customvoice", "fp32", "cpu"), "Hi", "--seed", "4", "--set", "max_new_tokens=9")
    for name, option in (("a.wav", ()), ("b.wav", ("--stream",))):
        done(run(*common, "-o", tmp_path / name, *option))
    assert (tmp_path / "a.wav").read_bytes() == (tmp_path / "b.wav").read_bytes()
