"""T5Gemma-TTS: goldens of the codec's encoder, whole and in part."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from tests.bundles import FIXTURES

from voxport.bundle import Bundle
from voxport.graphs.session import Session
from voxport_exporters.codecs.xcodec2 import encoder, w2vbert
from voxport_exporters.codecs.xcodec2 import stages as xcodec2
from voxport_parity.compare import compare
from voxport_parity.reference import TorchSession
from voxport_parity.systems.t5gemma import codec_encoder
from voxport_parity.trace import Golden, Trace

FIXTURE = FIXTURES / "t5gemma"


class Nets(Bundle):
    """A bundle of the codec's encoder alone, whose sessions are nets."""

    def __init__(self) -> None:
        config, weights = xcodec2.find(FIXTURE / "xcodec2")
        sizes = xcodec2.read_config(config)
        speech = w2vbert.read_config(FIXTURE / "w2v-bert-2.0" / "config.json")
        parts = encoder.parts(xcodec2.open_weights(weights), sizes, speech)
        self.path, self._nets = Path(), {part.stage.name: TorchSession(part) for part in parts}
        self._section: Any = SimpleNamespace(codec=xcodec2.section(sizes))
        self.manifest: Any = SimpleNamespace(stages=self._nets)

    def once(self, stage: str, threads: int = 1) -> Session:
        assert threads == 1
        return self._nets[stage]

    def section(self, _: type[Any]) -> Any:
        return self._section


@pytest.fixture(scope="module")
def nets() -> Nets:
    return Nets()


@pytest.fixture(scope="module")
def golden() -> Golden:
    found = Golden.of(FIXTURE)
    assert found is not None
    return found


def agree(got: Trace, golden: Golden) -> None:
    for name in got.keys() & golden.tensors.keys():
        stage, bound = codec_encoder.stage(name), codec_encoder.bound(name)
        diff = compare("t5gemma", stage, "test", name, got[name], golden.tensors[name], bound)
        assert diff.ok, str(diff)


def test_every_tensor_of_the_golden_is_upstreams(nets: Nets, golden: Golden) -> None:
    got = codec_encoder.trace(nets, golden)
    agree(got, golden)
    names = {name for name in golden.tensors if codec_encoder.owns(name)}
    assert len(names) == 11
    assert names <= got.keys()


def only(golden: Golden, *names: str, folder: Path | None = FIXTURE) -> Golden:
    return Golden({f"codec.enc.{n}": golden.tensors[f"codec.enc.{n}"] for n in names}, golden.notes, folder)


def test_of_a_golden_without_its_samples_the_recording_is_read(nets: Nets, golden: Golden) -> None:
    part = only(golden, "codes", "acoustic_out")
    got = codec_encoder.trace(nets, part)
    assert part.tensors.keys() <= got.keys()
    agree(got, part)


def test_of_a_golden_without_a_recording_its_samples_are_encoded(nets: Nets, golden: Golden, tmp_path: Path) -> None:
    part = only(golden, "wav_padded", "codes", folder=tmp_path)
    got = codec_encoder.trace(nets, part)
    assert part.tensors.keys() <= got.keys()
    agree(got, part)


def test_without_samples_and_recording_there_is_nothing_to_compare(nets: Nets, golden: Golden) -> None:
    assert codec_encoder.trace(nets, only(golden, "codes", folder=None)) == {}


def test_a_wrong_code_is_found(nets: Nets, golden: Golden) -> None:
    part = only(golden, "wav_padded", "codes")
    part.tensors["codec.enc.codes"] = np.roll(part.tensors["codec.enc.codes"], 1, axis=1)
    with pytest.raises(AssertionError, match=r"codec\.enc\.codes"):
        agree(codec_encoder.trace(nets, part), part)


def test_a_recording_is_made_up_where_nobody_has_one(nets: Nets) -> None:
    inputs = codec_encoder.inputs(nets)
    got = codec_encoder.trace(nets, Golden(inputs, {}, None))
    assert got["codec.enc.codes"].shape == (1, codec_encoder.FRAMES, 1)
    assert {codec_encoder.stage(name) for name in got} == {"codec", *nets.manifest.stages}
