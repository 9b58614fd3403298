"""Fun-CosyVoice3 from the command line."""

from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
from tests.bundles import FIXTURES, Export
from tests.command import done, refusal, run
from tests.conftest import Golden

Array = np.ndarray
TEXT, RECORDING = "Good day, all.", FIXTURES / "cosyvoice3" / "prompt.wav"
TRANSCRIPT = "Hi hope."
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


@pytest.fixture(scope="module")
def bundle(cosyvoice3_bundles: Export) -> Path:
    return cosyvoice3_bundles("fp32", "cpu")


def test_the_mode_follows_from_what_is_given(bundle: Path, tmp_path: Path, cosyvoice3_golden: Golden) -> None:
    out, tokens = tmp_path / "o.wav", tmp_path / "t.npy"
    common = ("say", bundle, TEXT, "-o", out, "--ref-audio", RECORDING, "--greedy", "--save-tokens", tokens)
    plain, short = ("--set", "text_frontend=false"), ("--set", "max_new_tokens=12")
    done(run(*common, "--ref-text", TRANSCRIPT, *plain))
    assert np.array_equal(np.load(tokens), cosyvoice3_golden["llm.greedy_tokens"])
    assert sf.info(out).frames == cosyvoice3_golden["pipeline.wav_nonstream"].shape[1]
    done(run(*common, *plain, *short))
    assert np.array_equal(np.load(tokens), cosyvoice3_golden["llm.cross_lingual_tokens"])
    done(run(*common, "--ref-text", TRANSCRIPT, *plain, *short, "--set", "mode=cross_lingual"))
    assert np.array_equal(np.load(tokens), cosyvoice3_golden["llm.cross_lingual_tokens"])


def test_a_voice_is_enrolled_once_and_speaks_as_its_recording(bundle: Path, tmp_path: Path) -> None:
    voice, first, second = tmp_path / "v.safetensors", tmp_path / "a.wav", tmp_path / "b.wav"
    common = ("say", bundle, TEXT, "--seed", "5", "--set", "max_new_tokens=20")
    done(run("enroll", bundle, RECORDING, "--ref-text", TRANSCRIPT, "-o", voice))
    done(run(*common, "--voice", voice, "-o", first))
    done(run(*common, "--ref-audio", RECORDING, "--ref-text", TRANSCRIPT, "-o", second))
    assert first.read_bytes() == second.read_bytes()
    assert voice.stat().st_size < 100_000


def test_a_file_is_converted_into_a_voice(bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "o.wav"
    done(run("convert", bundle, RECORDING, out, "--ref-audio", RECORDING, "--set", "flow_steps=4"))
    assert sf.info(out).samplerate == 24000
    assert abs(sf.info(out).duration - sf.info(RECORDING).duration) < 0.1
    assert "give --ref-audio" in refusal(run("convert", bundle, RECORDING, out))
    assert "no --mode" in refusal(run("convert", bundle, RECORDING, out, "--mode", "exact"))


def test_tokens_go_both_ways(bundle: Path, tmp_path: Path, cosyvoice3_golden: Golden) -> None:
    tokens, out = tmp_path / "t.npy", tmp_path / "o.wav"
    done(run("tokenize", bundle, RECORDING, "-o", tokens))
    assert np.array_equal(np.load(tokens), cosyvoice3_golden["frontend.speech_token_full"][0])
    done(run("detokenize", bundle, tokens, "-o", out))
    assert sf.info(out).frames == 960 * len(np.load(tokens))


def test_bad_recordings_are_refused_in_one_line(bundle: Path, tmp_path: Path) -> None:
    rng, out = np.random.default_rng(0), tmp_path / "o.wav"
    sounds = {
        "slow": (0.1 * rng.standard_normal(12000), 12000, "16000"),
        "long": (0.1 * rng.standard_normal(31 * 16000), 16000, "30 s"),
        "silent": (np.zeros(16000), 16000, "silent"),
    }
    for name, (samples, rate, words) in sounds.items():
        path = tmp_path / f"{name}.wav"
        sf.write(path, samples, rate)
        message = refusal(run("say", bundle, TEXT, "-o", out, "--ref-audio", path))
        assert words in message
        assert path.name in message
    common = ("say", bundle, TEXT, "-o", out, "--ref-audio", RECORDING)
    assert "transcript is empty" in refusal(run(*common, "--ref-text", "  ", "--set", "mode=zero_shot"))
    assert "needs what is said" in refusal(run(*common, "--set", "mode=zero_shot"))
    assert "needs an instruct" in refusal(run(*common, "--set", "mode=instruct2"))
    assert not out.exists()
