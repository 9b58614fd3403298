"""Parity of Fun-CosyVoice3's vocoder: every golden of it, from nets and graphs, whichever tensors a golden holds."""

import numpy as np
import pytest
from tests.bundles import FIXTURES
from tests.exporters.cosyvoice3_vocoders import bundle
from tests.parity.goldens import groups, only, without

from voxport.bundle import Bundle
from voxport.systems.cosyvoice3.noise import SineNoise
from voxport.systems.cosyvoice3.section import Section
from voxport.systems.cosyvoice3.vocoder import Vocoder
from voxport_exporters.checkpoints.weights import Weights
from voxport_exporters.systems.cosyvoice3 import vocoder as stages
from voxport_exporters.systems.cosyvoice3.config import read_config
from voxport_parity.compare import compare
from voxport_parity.reference import TorchBundle
from voxport_parity.systems.cosyvoice3 import vocoder
from voxport_parity.trace import Golden, Trace

ROOT = FIXTURES / "cosyvoice3"


@pytest.fixture(scope="module")
def golden() -> Golden:
    found = Golden.of(ROOT)
    assert found is not None
    return found


@pytest.fixture(scope="module")
def graphs(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return bundle("cpu", tmp_path_factory.mktemp("vocoder") / "bundle")


@pytest.fixture(scope="module", params=["torch", "cpu", pytest.param("portable", marks=pytest.mark.slow)])
def exported(request: pytest.FixtureRequest, graphs: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    if request.param == "portable":
        return bundle("portable", tmp_path_factory.mktemp("vocoder") / "bundle")
    if request.param == "cpu":
        return graphs
    return TorchBundle(graphs, stages.parts(Weights.open(ROOT / "hift.pt"), read_config(ROOT)))


def wrong(trace: Trace, golden: Golden) -> list[str]:
    shared = [name for name in trace if name in golden.tensors]
    diffs = [compare("", "", "", n, trace[n], golden.tensors[n], vocoder.bound(n)) for n in shared]
    return [str(diff) for diff in diffs if not diff.ok]


def test_every_golden_comes_out(exported: Bundle, golden: Golden) -> None:
    trace = vocoder.trace(exported, golden)
    assert wrong(trace, golden) == []
    names = {name for name in golden.tensors if vocoder.owns(name) and vocoder.input_reason(name) is None}
    whole = {n for n in names if n.endswith(("wav", "source", "f0_f64")) or not n.startswith(vocoder.SHORT)}
    assert names - trace.keys() == (set() if isinstance(exported, TorchBundle) else names - whole)
    assert (len(names), len(whole)) == (31, 13)


def test_the_whole_wave_comes_out_of_random_pieces(exported: Bundle, golden: Golden) -> None:
    trace = vocoder.streamed(exported, golden)
    assert list(trace) == ["pipeline.wav_nonstream"]
    assert wrong(trace, golden) == []


def test_a_golden_may_hold_any_part(golden: Golden, graphs: Bundle) -> None:
    for group in groups(golden):
        rest = without(golden, group)
        rest.tensors[vocoder.BLOCK] = golden.tensors[vocoder.BLOCK]  # noise that the fixture made up
        assert wrong(vocoder.trace(graphs, rest), golden) == []
        alone = vocoder.trace(graphs, only(golden, group))
        assert wrong({n: x for n, x in alone.items() if "wav" not in n and "source" not in n}, golden) == []
        vocoder.streamed(graphs, only(golden, group))


@pytest.mark.parametrize("number", range(3))
@pytest.mark.parametrize("witness", ["chunk_samples", "hift_frames", "boundaries", "every3"])
def test_chunks_that_are_not_all_there_are_not_compared(
    number: int, witness: str, golden: Golden, graphs: Bundle
) -> None:
    tensors = {n: x for n, x in golden.tensors.items() if "stream_mel" in n or n == vocoder.BLOCK or witness in n}
    whole = vocoder.trace(graphs, Golden(tensors, golden.notes, golden.folder))
    assert any(witness in name for name in whole)
    del tensors[f"pipeline.stream_mel{number}"]
    assert not any("pipeline" in n for n in vocoder.trace(graphs, Golden(tensors, golden.notes, golden.folder)))


def test_without_a_block_the_noise_is_upstreams(graphs: Bundle) -> None:
    section = graphs.section(Section).vocoder
    alone = Golden(vocoder.stand_in(80), {}, None)
    trace = vocoder.trace(graphs, alone)
    mel = alone.tensors["hift_short.mel"][0].T
    expected = Vocoder(graphs, 1, section).decode(mel, SineNoise(section.skip))
    np.testing.assert_array_equal(trace["hift_short.final_wav"][0], expected)
    assert sorted(trace) == sorted(
        f"hift_short.{k}_{n}" for k in ("final", "stream") for n in ("wav", "source", "f0_f64")
    )


def test_every_name_has_its_stage() -> None:
    for name, stage in {
        "hift_short.final_f0_f64": "f0", "hift.f0_full_f64": "f0", "hift_short.stream_source": "source",
        "hift_short.final_source_downs0": "vocoder", "hift_short.final_source_resblocks1": "vocoder",
        "hift_short.final_sin_gen": "source", "pipeline.wav_nonstream": "vocoder", "hift.rand_ini": "noise",
    }.items():  # fmt: skip
        assert vocoder.stage(name) == stage
        assert vocoder.owns(name)
    assert not vocoder.owns("pipeline.stream_mel0")
    assert not vocoder.owns("flow.mel")
