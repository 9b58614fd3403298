"""Fun-CosyVoice3: goldens in any part, and from upstream's tokens to its samples."""

from typing import Any

import numpy as np
import pytest
from tests.bundles import FIXTURES, Export
from tests.parity.goldens import compared, groups, only, without, wrong

from voxport import bounds
from voxport.bundle import Bundle
from voxport.graphs.session import Array
from voxport.systems.cosyvoice3.audio import Upstream, Whole
from voxport.systems.cosyvoice3.flow import STEPS, Flow
from voxport.systems.cosyvoice3.flowstream import Reference
from voxport.systems.cosyvoice3.noise import SourceNoise
from voxport.systems.cosyvoice3.section import Section
from voxport.systems.cosyvoice3.vocoder import Vocoder, VocoderStream
from voxport_parity.systems.cosyvoice3 import feeds
from voxport_parity.systems.cosyvoice3.vocoder import source_noise
from voxport_parity.trace import Golden


@pytest.fixture(scope="module")
def bundle(cosyvoice3_bundles: Export) -> Bundle:
    return Bundle(cosyvoice3_bundles("fp32", "cpu"))


@pytest.fixture(scope="module")
def golden() -> Golden:
    found = Golden.of(FIXTURES / "cosyvoice3")
    assert found is not None
    return found


@pytest.mark.parametrize("subset", [only, pytest.param(without, marks=pytest.mark.slow)])
def test_any_part_of_a_golden_is_compared_without_an_error(subset: Any, bundle: Bundle, golden: Golden) -> None:
    whole = feeds.trace(bundle, golden).keys() & golden.tensors.keys()
    compared_names = set()
    for group in groups(golden):
        other = subset(golden, group)
        diffs = compared(feeds, feeds.trace(bundle, other), other)
        assert wrong(diffs) == []
        assert {d.tensor for d in diffs} <= whole
        compared_names |= {d.tensor for d in diffs}
    assert compared_names == whole if subset is without else len(compared_names) > len(whole) // 2


def test_every_tensor_that_is_not_an_input_is_compared(bundle: Bundle, golden: Golden) -> None:
    """Layers come from the torch nets, so their names are listed here."""
    outputs = feeds.trace(bundle, golden)
    left = {name for name in golden.tensors if name not in outputs and feeds.input_reason(name) is None}
    inside = ("dit_short.full_", "dit_short.stream_block", "hift_short.", "llm.prefill_hidden", "llm.step1_hidden")
    on_grid = {"dit_short.out_full", "dit_short.out_stream"}  # this bundle has no table for their time
    assert {name for name in left - on_grid if not name.startswith(inside)} == set()


class Noisy(Vocoder):
    """A Vocoder whose source has the noise that upstream's had."""

    noise: SourceNoise

    def stream(self, noise: SourceNoise | None = None) -> VocoderStream:
        """See Vocoder."""
        return super().stream(noise or self.noise)


@pytest.mark.parametrize("kind", [Whole, Upstream])
def test_upstreams_tokens_become_its_samples(kind: Any, bundle: Bundle, golden: Golden) -> None:
    section, tensors = bundle.section(Section), golden.tensors
    vocoder = Noisy(bundle, 1, section.vocoder)
    vocoder.noise = source_noise(golden, section.vocoder.skip)
    prompt = [tensors[f"frontend.{name}"][0] for name in ("prompt_token", "prompt_feat", "spk_embedding")]
    stream = kind(Flow(bundle, 1, section.flow, section.token_rate), vocoder, Reference(*prompt), STEPS)
    tokens: Array = tensors["pipeline.tokens_after_silent_filter"]
    chunks = [*(stream.feed(piece) for piece in np.split(tokens, [7, 30, 31])), stream.flush()]
    wave = np.concatenate(chunks)
    expected = tensors["pipeline.wav_nonstream"][0]
    if kind is Upstream:
        wave, expected = wave[::3], tensors["pipeline.wav_stream_every3"][0]
    assert wave.shape == expected.shape
    assert np.abs(wave - expected).max() < bounds.SPEECH_AUDIO.absolute
    assert np.abs(np.roll(wave, 1) - expected).max() > bounds.SPEECH_AUDIO.absolute
