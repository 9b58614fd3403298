"""XCodec2's encoder makes upstream's codes of a recording, at any rate, and loads its graphs for the call only."""

import numpy as np
import pytest
from tests.bundles import FIXTURES, Export
from tests.conftest import golden

from voxport.audio import files
from voxport.audio.files import Samples
from voxport.audio.resample import resample
from voxport.bundle import Bundle
from voxport.codecs.xcodec2_encoder import STAGES, Encoder
from voxport.graphs.session import Session
from voxport.systems.t5gemma.section import Section

RECORDING, RATE = files.read(FIXTURES / "t5gemma" / "reference.wav")


class Counting(Bundle):
    """Notes which graphs are loaded, and how."""

    def once(self, stage: str, threads: int = 1) -> Session:
        self.calls = [*self.__dict__.get("calls", []), stage]
        return super().once(stage, threads)

    def session(self, stage: str, threads: int = 1) -> Session:
        raise AssertionError(f"{stage} on {threads} would stay in memory")


@pytest.fixture(scope="module")
def bundle(t5gemma_bundles: Export) -> Counting:
    return Counting(t5gemma_bundles("fp32", "cpu"))


@pytest.fixture(scope="module")
def encoder(bundle: Counting) -> Encoder:
    return Encoder(bundle, 1, bundle.section(Section).codec)


def test_the_recordings_codes_are_upstreams(encoder: Encoder, bundle: Counting) -> None:
    codes = encoder.encode(RECORDING, RATE)
    assert codes.dtype == np.int64
    assert np.array_equal(codes, golden("t5gemma")["codec.enc.codes"].ravel())
    assert bundle.calls == [*STAGES]


def test_a_recording_at_another_rate_is_resampled_first(encoder: Encoder) -> None:
    higher = resample(RECORDING, RATE, 44100)
    assert np.array_equal(encoder.encode(higher, 44100), encoder.encode(resample(higher, 44100, RATE), RATE))


@pytest.mark.parametrize(("samples", "frames"), [(1, 1), (319, 1), (320, 2), (321, 2), (640, 3)])
def test_the_last_frame_is_filled_and_one_follows_a_whole_one(encoder: Encoder, samples: int, frames: int) -> None:
    audio = encoder.frames(RECORDING[:samples], RATE)
    assert audio.shape == (frames, 320)
    assert np.array_equal(audio.ravel()[:samples], RECORDING[:samples])
    assert not audio.ravel()[samples:].any()


def test_a_recording_of_one_frame_has_a_code(encoder: Encoder) -> None:
    assert encoder.encode(RECORDING[:100], RATE).shape == (1,)


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        (np.empty(0, np.float32), "wanted float samples"),
        (np.zeros((2, 400), np.float32), "wanted float samples"),
        (np.array([0, np.nan], np.float32), "sample 1 is not a number"),
    ],
)
def test_what_is_no_recording_is_refused(encoder: Encoder, samples: Samples, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        encoder.encode(samples, RATE)


def test_a_bundle_without_the_encoder_says_so(t5gemma_bundles: Export) -> None:
    bundle = Bundle(t5gemma_bundles("fp32", "cpu"))
    section = bundle.section(Section).codec
    del bundle.manifest.stages["codec_semantic"]
    with pytest.raises(ValueError, match="has no codec_semantic, so it makes no codes"):
        Encoder(bundle, 1, section)
