"""The vocoder of Fun-CosyVoice3 as a stream: the same samples for every split, as many as upstream's for every call."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file
from tests.bundles import FIXTURES
from tests.exporters.cosyvoice3_vocoders import vocoder

from voxport import bounds
from voxport.graphs.ort import OrtSession
from voxport.recipe import Recipe
from voxport.systems.cosyvoice3.noise import SineNoise
from voxport.systems.cosyvoice3.vocoder import Vocoder
from voxport_exporters.checkpoints.weights import Weights
from voxport_exporters.pack import save
from voxport_exporters.systems.cosyvoice3 import vocoder as stages
from voxport_exporters.systems.cosyvoice3.config import read_config
from voxport_parity.systems.cosyvoice3.vocoder import Tile

ROOT = FIXTURES / "cosyvoice3"
Array = np.ndarray


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Vocoder:
    folder, config = tmp_path_factory.mktemp("vocoder"), read_config(ROOT)
    sessions = {}
    for part in stages.parts(Weights.open(ROOT / "hift.pt"), config):
        save(part, folder, Recipe("fp32"), "cpu")
        sessions[part.stage.name] = OrtSession(Path(folder) / f"{part.stage.name}.onnx")
    return vocoder(sessions, config.hift)


@pytest.fixture(scope="module")
def golden() -> dict[str, Array]:
    return load_file(ROOT / "golden.safetensors")


def within(got: Array, expected: Array, bound: bounds.Bound) -> None:
    assert got.shape == expected.shape
    np.testing.assert_allclose(got, expected, rtol=0, atol=bound.absolute)


def test_a_stream_gives_upstreams_chunks(graph: Vocoder, golden: dict[str, Array]) -> None:
    """Upstream runs the whole mel again for every chunk; here each frame is computed once."""
    stream, chunks = graph.stream(Tile(golden["hift.sine_noise_block"])), []
    mels = [golden[f"pipeline.stream_mel{i}"][0].T for i in range(3)]
    for mel in mels[:-1]:
        chunks.append(stream.feed(mel))
    chunks.append(np.concatenate((stream.feed(mels[-1]), stream.flush())))
    assert [len(chunk) for chunk in chunks] == golden["pipeline.stream_chunk_samples"].tolist()
    whole = np.concatenate(chunks)
    within(whole[::3], golden["pipeline.wav_stream_every3"][0], bounds.VOCODER_AUDIO)
    edges = np.cumsum([len(chunk) for chunk in chunks])[:-1]
    around = np.stack([whole[edge - graph.hop : edge + graph.hop] for edge in edges])
    within(around, golden["pipeline.wav_stream_boundaries"], bounds.VOCODER_AUDIO)


@given(sizes=st.lists(st.integers(0, 20), min_size=1, max_size=8), at=st.integers(0, 7), seed=st.integers(0, 99))
@settings(max_examples=25, deadline=None, derandomize=True)
def test_any_split_gives_the_same_samples(graph: Vocoder, sizes: list[int], at: int, seed: int) -> None:
    mel = np.random.default_rng(seed).standard_normal((sum(sizes), graph.bands), np.float32)
    whole = graph.decode(mel, SineNoise(seed))
    stream, frames, pieces = graph.stream(SineNoise(seed)), 0, []
    for i, size in enumerate(sizes):
        if i == at:  # what a fork is fed, the stream it comes from does not hear
            other = stream.fork()
            stream.feed(np.ones((11, graph.bands), np.float32))
            stream = other
        pieces.append(stream.feed(mel[frames : frames + size]))
        frames += size
        assert sum(map(len, pieces)) == graph.hop * max(0, frames - graph.lookahead)
    within(np.concatenate((*pieces, stream.flush())), whole, bounds.VOCODER_SPLIT)
    assert len(whole) == graph.hop * len(mel)


def test_a_stream_begins_anew_after_its_end(graph: Vocoder) -> None:
    mel = np.random.default_rng(1).standard_normal((12, graph.bands), np.float32)
    stream = graph.stream(SineNoise(3))
    first, second = (np.concatenate((stream.feed(mel), stream.flush())) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert len(stream.flush()) == 0
    other = graph.decode(mel, SineNoise(4))
    assert np.abs(first - other).max() > 10 * bounds.VOCODER_AUDIO.absolute
    assert graph.lookahead == 8


def test_what_is_no_mel_is_refused(graph: Vocoder) -> None:
    with pytest.raises(ValueError, match=r"wanted a mel float \[frames, 80\], got float32\[80, 12\]"):
        graph.decode(np.zeros((80, 12), np.float32))
    with pytest.raises(ValueError, match=r"got int64\[2, 80\]"):
        graph.stream().feed(np.zeros((2, 80), np.int64))
    assert len(graph.decode(np.zeros((0, 80), np.float32))) == 0
