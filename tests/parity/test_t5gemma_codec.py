"""T5Gemma-TTS: goldens of the codec's decoder, whole and in part."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.bundles import FIXTURES

from voxport.bundle import Bundle
from voxport.graphs.ort import OrtSession
from voxport.graphs.session import Session
from voxport_exporters.codecs.xcodec2 import stages as xcodec2
from voxport_exporters.pack import save
from voxport_parity.compare import compare
from voxport_parity.reference import TorchSession
from voxport_parity.systems.t5gemma import codec
from voxport_parity.trace import Golden, Trace

FIXTURE = FIXTURES / "t5gemma"


class Decoder(Bundle):
    """A bundle of the codec's decoder alone."""

    def __init__(self, session: Session, section: Any) -> None:
        self.path, self._session, self._codec = Path(), session, section

    def session(self, stage: str, threads: int = 1) -> Session:
        assert (stage, threads) == ("codec_decode", 1)
        return self._session

    def section(self, _: type[Any]) -> Any:
        class Section:
            codec = self._codec

        return Section


@pytest.fixture(scope="module", params=["torch", "cpu", "portable"])
def decoder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Decoder:
    config, weights = xcodec2.find(FIXTURE / "xcodec2")
    sizes = xcodec2.read_config(config)
    part, section = xcodec2.decoder_part(xcodec2.open_weights(weights), sizes), xcodec2.section(sizes)
    if request.param == "torch":
        return Decoder(TorchSession(part), section)
    folder = tmp_path_factory.mktemp(request.param)
    save(part, folder, xcodec2.RECIPES["fp32"], request.param)
    return Decoder(OrtSession(folder / "codec_decode.onnx"), section)


@pytest.fixture(scope="module")
def golden() -> Golden:
    found = Golden.of(FIXTURE)
    assert found is not None
    return found


def tensors(golden: Golden) -> list[str]:
    """What a decoder has to produce of the golden."""
    return [name for name in golden.tensors if codec.owns(name) and codec.input_reason(name) is None]


def agree(got: Trace, golden: Golden) -> None:
    for name in got.keys() & golden.tensors.keys():
        diff = compare("t5gemma", codec.stage(name), "test", name, got[name], golden.tensors[name], codec.bound(name))
        assert diff.ok, str(diff)


def test_every_tensor_of_the_golden_is_upstreams(decoder: Decoder, golden: Golden) -> None:
    got = codec.trace(decoder, golden)
    agree(got, golden)
    layers = isinstance(decoder.session("codec_decode"), TorchSession)
    missing = set(tensors(golden)) - got.keys()
    assert missing == (set() if layers else {name for name in tensors(golden) if ".wav" not in name})
    assert len(tensors(golden)) == 14


def test_codes_in_pieces_give_upstreams_samples(decoder: Decoder, golden: Golden) -> None:
    got = codec.streamed(decoder, golden)
    assert got.keys() == {codec.WAVE}
    agree(got, golden)


def test_a_wave_without_its_codes_is_that_of_the_run_that_is_as_long(decoder: Decoder, golden: Golden) -> None:
    part = Golden({n: a for n, a in golden.tensors.items() if n != codec.CODES}, golden.notes, golden.folder)
    got = codec.trace(decoder, part)
    np.testing.assert_array_equal(got[codec.WAVE], codec.trace(decoder, golden)[codec.WAVE])


@pytest.mark.parametrize("name", ["codec.dec.wav", "codec.dec.codes", "codec.enc.codes", "t5.greedy.codes"])
def test_a_golden_of_one_tensor_is_no_error(decoder: Decoder, golden: Golden, name: str) -> None:
    part = Golden({name: golden.tensors[name]}, golden.notes, golden.folder)
    produced = codec.trace(decoder, part)
    assert (codec.WAVE in produced) == (name == codec.CODES)
    assert (codec.streamed(decoder, part) != {}) == (name == codec.CODES)


def test_codes_are_invented_for_a_checkpoint_without_goldens(decoder: Decoder, golden: Golden) -> None:
    invented = codec.inputs(decoder)
    assert codec.trace(decoder, Golden(invented, {}, None))[codec.WAVE].shape[-1] == codec.FRAMES * 320
