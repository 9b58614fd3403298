"""What the benchmarks of Fun-CosyVoice3 compare with computes what upstream computes."""

from pathlib import Path

import pytest
import torch
from benchmarks.references import cosyvoice3, cosyvoice3_flow, cosyvoice3_hift
from safetensors.torch import load_file
from tests.bundles import FIXTURES
from torch import Tensor
from torch.nn import functional as F

from voxport_exporters.systems.cosyvoice3.config import Config, read_config

FIXTURE: Path = FIXTURES / "cosyvoice3"
MEL, SOUND = 1e-6, 2e-3  # measured 0 and 9e-4: weight norms are folded in float32, where upstream's pitch has float64


@pytest.fixture(scope="module")
def golden() -> dict[str, Tensor]:
    return load_file(FIXTURE / "golden.safetensors")


@pytest.fixture(scope="module")
def config() -> Config:
    return read_config(FIXTURE)


def test_the_reference_says_upstreams_tokens(golden: dict[str, Tensor], config: Config) -> None:
    lm = cosyvoice3.LanguageModel(FIXTURE, config)
    text = torch.cat((golden["frontend.prompt_text_ids"], golden["frontend.text_ids"]), 1)[0].long()
    prompt = lm.prompt(text, golden["frontend.prompt_token"][0].long())
    torch.testing.assert_close(prompt, golden["llm.lm_input"], atol=0, rtol=0)
    assert list(lm.tokens(prompt, sample=False)) == golden["llm.greedy_tokens"].tolist()


def test_the_reference_makes_upstreams_mel(golden: dict[str, Tensor], config: Config) -> None:
    net = cosyvoice3_flow.load(FIXTURE, config.flow)
    speech = golden["pipeline.tokens_after_silent_filter"].reshape(1, -1)
    tokens = torch.cat((golden["frontend.prompt_token"], speech), 1).long()
    prompt, speaker = golden["frontend.prompt_feat"], golden["frontend.spk_embedding"]
    mel = net(tokens, prompt, speaker, golden["flow.rand_noise"])
    torch.testing.assert_close(mel, golden["flow.mel"], atol=MEL, rtol=0)


def test_the_reference_masks_as_upstream_does_when_streaming(golden: dict[str, Tensor], config: Config) -> None:
    net = cosyvoice3_flow.load(FIXTURE, config.flow)
    x, mu, cond = (F.pad(golden[f"dit_short.{name}"], (0, 0, 0, 0, 0, 1)) for name in ("x", "mu", "cond"))
    x, spks, t = x[:1].expand(2, -1, -1), golden["dit_short.spks"], golden["dit_short.t"]
    with torch.inference_mode():
        velocity = net.decoder.estimator(x, mu, t, spks, cond, streaming=True)
    torch.testing.assert_close(velocity, golden["dit_short.out_stream"], atol=MEL, rtol=0)


def test_the_reference_makes_upstreams_sound(golden: dict[str, Tensor], config: Config) -> None:
    net, mel = cosyvoice3_hift.load(FIXTURE, config.hift), golden["flow.mel"]
    block = golden["hift.sine_noise_block"]
    samples = mel.shape[-1] * config.hift.hop
    noise = block.repeat(samples // len(block) + 1, 1)[None, :samples]
    torch.testing.assert_close(net(mel, noise), golden["pipeline.wav_nonstream"], atol=SOUND, rtol=0)
    sound = net.decode(golden["hift_short.mel"], golden["hift_short.final_source"])
    torch.testing.assert_close(sound, golden["hift_short.final_wav"], atol=MEL, rtol=0)
