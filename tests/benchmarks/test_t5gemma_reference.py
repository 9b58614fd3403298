"""What the benchmarks of T5Gemma-TTS compare with computes what upstream computes."""

import pytest
import torch
from benchmarks.references import t5gemma_codec
from benchmarks.references.t5gemma import Reference, draw
from safetensors.torch import load_file
from tests.bundles import FIXTURES
from torch import Tensor

from voxport_exporters.codecs.xcodec2.config import read_config as read_codec_config
from voxport_exporters.systems.t5gemma.config import Config, read_config

FIXTURE = FIXTURES / "t5gemma"
MEMORY, LOGITS, SOUND = 5e-5, 5e-4, 1e-5  # measured: 1.1e-5, 1e-4 of 33, 1e-6


@pytest.fixture(scope="module")
def golden() -> dict[str, Tensor]:
    return load_file(FIXTURE / "golden.safetensors")


@pytest.fixture(scope="module")
def config() -> Config:
    return read_config(FIXTURE / "t5gemma_tts" / "config.json")


@pytest.fixture(scope="module")
def reference(config: Config) -> Reference:
    return Reference(FIXTURE / "t5gemma_tts", config, torch.float32)


def test_the_reference_reads_as_upstream_does(golden: dict[str, Tensor], reference: Reference) -> None:
    memory = reference.read(golden["t5.text_ids"])
    torch.testing.assert_close(memory, golden["t5.enc.out"], atol=MEMORY, rtol=0)


@pytest.mark.parametrize("rows", [1, 3])
def test_the_reference_says_upstreams_tokens(rows: int, golden: dict[str, Tensor], reference: Reference) -> None:
    memory = golden["t5.enc.out"].expand(rows, -1, -1)
    speech = reference.speech(
        memory, golden["t5.prompt_codes"][..., 0].expand(rows, -1), int(golden["t5.target_total"])
    )
    for token, logits in zip(golden["t5.greedy.tokens"], golden["t5.logits"], strict=True):
        torch.testing.assert_close(speech.logits, logits.expand(rows, -1), atol=LOGITS, rtol=0)
        speech.feed(token.expand(rows))


def test_a_prompt_of_several_tokens_is_read_at_once(golden: dict[str, Tensor], reference: Reference) -> None:
    codes, total = torch.tensor([[5, 9, 200, 17]]), 60
    whole = reference.speech(golden["t5.enc.out"], codes, total)
    step = reference.speech(golden["t5.enc.out"], codes[:, :1], total)
    for code in codes[0, 1:]:
        step.feed(code[None])
    torch.testing.assert_close(whole.logits, step.logits, atol=LOGITS, rtol=0)


def test_draws_are_of_the_best_ids() -> None:
    """top_k leaves 1 to 3; top_p then leaves out the last, which the others already exceed."""
    torch.manual_seed(0)
    logits = torch.log(torch.tensor([[0.1, 0.2, 0.3, 0.4]])).expand(500, -1)
    ids = draw(logits, temperature=1.0, top_k=3, top_p=0.7)
    assert set(ids.tolist()) == {2, 3}
    assert (ids == 3).float().mean() == pytest.approx(4 / 7, abs=0.08)


def test_the_reference_makes_upstreams_sound(golden: dict[str, Tensor]) -> None:
    folder = FIXTURE / "xcodec2"
    decoder = t5gemma_codec.load(folder, read_codec_config(folder / "config.json"))
    wave = decoder(golden["codec.dec.codes"][0, 0])
    torch.testing.assert_close(wave, golden["codec.dec.wav"][0, 0], atol=SOUND, rtol=0)
