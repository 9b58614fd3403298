"""Fun-CosyVoice3's flow in pieces is its flow in whole blocks, which is upstream's net with its mask."""

from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.exporters.cosyvoice3_flows import bundle, odd, parts

from voxport.bundle import Bundle
from voxport.graphs.session import Array
from voxport.systems.cosyvoice3.audio import trimmed
from voxport.systems.cosyvoice3.flow import Flow
from voxport.systems.cosyvoice3.flowstream import FlowStream, Reference
from voxport.systems.cosyvoice3.noise import FRAMES
from voxport.systems.cosyvoice3.section import Section
from voxport_exporters.nets import ops
from voxport_parity.reference import TorchBundle

NAME = "odd heads"  # blocks of 7 frames, 3 frames to a token, 2 tokens ahead
RATIO, BLOCK, BANDS, VOCABULARY, RATE = 3, 7, 7, 11, 75
STEPS, CLOSE = 4, 1e-4
TOKENS = np.random.default_rng(5).integers(VOCABULARY, size=31)


def reference(tokens: int = 9, frames: int | None = None, seed: int = 0) -> Reference:
    rng = np.random.default_rng(seed)
    mel = rng.standard_normal((RATIO * tokens if frames is None else frames, BANDS), np.float32)
    return Reference(rng.integers(VOCABULARY, size=tokens), mel, rng.standard_normal(10).astype(np.float32))


def opened(found: Bundle) -> Flow:
    section = found.section(Section)
    return Flow(found, 1, section.flow, section.token_rate)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return bundle(*odd(NAME), "cpu", tmp_path_factory.mktemp("flow") / "bundle")


@pytest.fixture(scope="module")
def flow(exported: Bundle) -> Flow:
    return opened(exported)


@pytest.fixture(scope="module")
def oracle(exported: Bundle) -> Callable[..., Array]:
    """The torch net on all frames at once, what they see cut by a mask."""
    nets = opened(TorchBundle(exported, parts(*odd(NAME)).values()))

    def mel(voice: Reference, tokens: Array, window: int | None = None) -> Array:
        fixed = max(0, len(voice.tokens) - 2) * RATIO // BLOCK  # blocks of the reference

        def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, heads: int, name: str) -> torch.Tensor:
            q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))
            block = torch.arange(q.shape[2]) // BLOCK
            behind = block[:, None] - block
            near = (behind <= (len(block) if window is None else window)) | (block < fixed)
            mask = (behind >= 0) & near
            return F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(-2)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(ops, "attention", attend)
            return nets.mel(voice, tokens, STEPS)

    return mel


def fed(stream: FlowStream, tokens: Array, sizes: list[int]) -> Iterator[Array]:
    start = 0
    for size in sizes:
        yield stream.feed(tokens[start : start + size])
        start += size
    yield stream.feed(tokens[start:])
    yield stream.flush()


@given(st.lists(st.integers(0, 9), max_size=8), st.integers(0, len(TOKENS)), st.sampled_from([0, 1, 2, 9]))
@settings(max_examples=25, deadline=None)
def test_a_stream_gives_upstreams_blocks_however_it_is_split(
    flow: Flow, oracle: Callable[..., Array], sizes: list[int], count: int, prompt: int
) -> None:
    voice, tokens = reference(prompt), TOKENS[:count]
    expected = oracle(voice, tokens) if count + prompt else np.zeros((0, BANDS), np.float32)
    mel = np.concatenate(list(fed(flow.stream(voice, STEPS), tokens, sizes)))
    assert mel.shape == expected.shape == (RATIO * count, BANDS)
    np.testing.assert_allclose(mel, expected, rtol=0, atol=CLOSE)


@pytest.mark.parametrize("blocks", [0, 1, 3])
@pytest.mark.parametrize("count", [20, 21, 31])
def test_a_window_bounds_what_a_block_sees(flow: Flow, oracle: Callable[..., Array], blocks: int, count: int) -> None:
    voice, tokens = reference(), TOKENS[:count]
    stream = flow.stream(voice, STEPS, window=blocks * BLOCK / RATE)
    mel = np.concatenate(list(fed(stream, tokens, [4, 4, 5])))
    np.testing.assert_allclose(mel, oracle(voice, tokens, blocks), rtol=0, atol=CLOSE)
    assert np.abs(mel - oracle(voice, tokens)).max() > 100 * CLOSE


def test_blocks_come_as_soon_as_their_tokens_and_those_ahead_are_there(flow: Flow) -> None:
    stream, frames = flow.stream(reference(0, 0), STEPS), []
    for token in TOKENS[:9]:
        frames.append(len(stream.feed([token])))
    # 7 frames need 3 tokens and 2 ahead, 14 need 5 and 2, 21 need 7 and 2
    assert frames == [0, 0, 0, 0, 7, 0, 7, 0, 7]


def test_a_fork_goes_on_from_there_and_the_reference_is_computed_once(
    flow: Flow, oracle: Callable[..., Array], monkeypatch: pytest.MonkeyPatch
) -> None:
    voice = reference()
    stream = flow.stream(voice, STEPS)
    first = stream.feed(TOKENS[:12])
    fork = stream.fork()
    with monkeypatch.context() as patch:
        patch.setattr(FlowStream, "primed", None)
        assert flow.stream(voice, STEPS, window=1) is not stream
    other = np.concatenate((first, fork.feed(TOKENS[20:]), fork.flush()))
    np.testing.assert_allclose(other, oracle(voice, np.concatenate((TOKENS[:12], TOKENS[20:]))), rtol=0, atol=CLOSE)
    same = np.concatenate((first, stream.feed(TOKENS[12:]), stream.flush()))
    np.testing.assert_allclose(same, oracle(voice, TOKENS), rtol=0, atol=CLOSE)
    again = np.concatenate(list(fed(flow.stream(voice, STEPS), TOKENS, [])))
    np.testing.assert_allclose(again, same, rtol=0, atol=CLOSE)


@pytest.mark.parametrize("frames", [0, 5, 22, 40])
def test_a_reference_whose_mel_is_not_aligned_is_cut_by_its_mel(
    flow: Flow, oracle: Callable[..., Array], frames: int
) -> None:
    """Voice conversion: what comes out is what lies behind the mel's frames, however many tokens there are."""
    voice = reference(9, frames)
    mel = np.concatenate(list(fed(flow.stream(voice, STEPS), TOKENS, [1, 2])))
    assert len(mel) == RATIO * (9 + len(TOKENS)) - frames
    np.testing.assert_allclose(mel, oracle(voice, TOKENS), rtol=0, atol=CLOSE)


@pytest.mark.parametrize("count", [3, 14, 20])
def test_upstreams_chunk_ends_before_the_tokens_that_are_only_looked_at(
    flow: Flow, oracle: Callable[..., Array], count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its last frames see a block that is not whole yet; the stream that was peeked goes on as if it was not."""
    voice, tokens = reference(), TOKENS[:count]
    mel = flow.upstream_chunk(voice, tokens, STEPS)
    cut = np.concatenate((voice.tokens, tokens))[:-2]
    assert len(mel) == RATIO * len(cut) - len(voice.mel)
    stream = flow.stream(voice, STEPS)
    mels = [stream.feed(tokens)]
    np.testing.assert_allclose(np.concatenate((*mels, stream.peek())), mel, rtol=0, atol=CLOSE)
    mels += [stream.feed(TOKENS[count:]), stream.flush()]
    np.testing.assert_allclose(np.concatenate(mels), oracle(voice, TOKENS), rtol=0, atol=CLOSE)


def test_the_whole_at_once_is_another_mel_and_noise_is_where_it_begins(flow: Flow) -> None:
    voice = reference()
    mel = flow.mel(voice, TOKENS, STEPS)
    streamed = np.concatenate(list(fed(flow.stream(voice, STEPS), TOKENS, [])))
    silence = flow.mel(voice, TOKENS, STEPS, noise=lambda start, stop: np.zeros((stop - start, BANDS), np.float32))
    assert mel.shape == streamed.shape == silence.shape
    assert np.abs(mel - streamed).max() > 1e-3
    assert np.abs(mel - silence).max() > 1e-3


@pytest.mark.parametrize("tokens", [0, 2, 3, 8, 9, 15, 16, 30])
def test_after_a_trimmed_reference_the_first_block_is_almost_all_speech(flow: Flow, tokens: int) -> None:
    voice = reference(tokens)
    cut = trimmed(voice, flow.section)
    lost = tokens - len(cut.tokens)
    assert 0 <= lost <= BLOCK // RATIO
    np.testing.assert_array_equal(cut.tokens, voice.tokens[lost:])
    np.testing.assert_array_equal(cut.mel, voice.mel[RATIO * lost :])
    assert lost == 0 or RATIO * (len(cut.tokens) - 2) >= BLOCK  # a short one stays as it is
    if tokens > 3 + BLOCK // RATIO:
        assert RATIO * (len(cut.tokens) - 2) % BLOCK < RATIO
        assert len(flow.stream(cut, STEPS).feed(TOKENS[:5])) >= BLOCK - 2 * RATIO - RATIO


def test_what_cannot_be_is_said_in_a_line(flow: Flow) -> None:
    voice = reference()
    with pytest.raises(ValueError, match="7 flow steps: this bundle has tables for 4, 5, 6, 8, 10"):
        flow.mel(voice, TOKENS, 7)
    with pytest.raises(ValueError, match="split the text"):
        flow.mel(voice, np.zeros(FRAMES // RATIO, np.int64), STEPS)
    with pytest.raises(ValueError, match="the reference has 200 mel frames, more than the 120"):
        flow.mel(reference(9, 200), TOKENS, STEPS)
    stream = flow.stream(voice, STEPS, window=1)
    stream.feed(TOKENS[:6])
    with pytest.raises(ValueError, match="window"):
        stream.peek()
