"""T5Gemma-TTS from the command line."""

from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
from tests.bundles import FIXTURES, Export
from tests.command import done, refusal, run
from tests.conftest import Golden

TEXT, RECORDING = "Please send two small boxes to the north station.", FIXTURES / "t5gemma" / "reference.wav"
UPSTREAM = ("--greedy", "--set", "target_duration=0.9", "--set", "extra_cutoff=0.4")
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


@pytest.fixture(scope="module")
def bundle(t5gemma_bundles: Export) -> Path:
    return t5gemma_bundles("fp32", "cpu")


def test_say_writes_upstreams_codes(bundle: Path, tmp_path: Path, t5gemma_golden: Golden) -> None:
    out, tokens = tmp_path / "o.wav", tmp_path / "t.npy"
    done(run("say", bundle, TEXT, "-o", out, *UPSTREAM, "--save-tokens", tokens))
    assert np.load(tokens).tolist() == t5gemma_golden["t5.greedy.codes"].ravel().tolist()
    assert (sf.info(out).frames, sf.info(out).samplerate) == (t5gemma_golden["codec.dec.wav"].size, 16000)


def test_an_enrolled_voice_speaks_as_its_recording(bundle: Path, tmp_path: Path) -> None:
    voice, first, second = tmp_path / "v.safetensors", tmp_path / "a.wav", tmp_path / "b.wav"
    common = ("say", bundle, TEXT, *UPSTREAM)
    done(run("enroll", bundle, RECORDING, "--ref-text", "Two boxes.", "-o", voice))
    done(run(*common, "--voice", voice, "-o", first))
    done(run(*common, "--ref-audio", RECORDING, "--ref-text", "Two boxes.", "-o", second))
    assert first.read_bytes() == second.read_bytes()
    assert "nothing here transcribes" in refusal(run("enroll", bundle, RECORDING, "-o", voice))


def test_codes_go_both_ways(bundle: Path, tmp_path: Path, t5gemma_golden: Golden) -> None:
    tokens, out = tmp_path / "t.npy", tmp_path / "o.wav"
    done(run("tokenize", bundle, RECORDING, "-o", tokens))
    assert np.load(tokens).tolist() == t5gemma_golden["codec.enc.codes"].ravel().tolist()
    done(run("detokenize", bundle, tokens, "-o", out))
    assert sf.info(out).frames == 320 * len(np.load(tokens))


def test_the_bundle_is_verified_and_measured(bundle: Path) -> None:
    done(run("verify", bundle))
    assert "decoder" in done(run("bench", bundle, "--seconds", "0.4", "--set", "batch_size=2"))
