"""XCodec2: codes to samples, samples to codes (docs/systems/t5gemma.md 6)."""

from typing import Annotated

import msgspec
import numpy as np
import numpy.typing as npt

from voxport.graphs.session import Session

Samples = npt.NDArray[np.float32]
Codes = npt.NDArray[np.int64]

Positive = Annotated[int, msgspec.Meta(ge=1)]


class CodecSection(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The codec's part of its system's section of the manifest.

    `codes`: how many there are; `rate`: of the samples it reads, in Hz; `hop`: of these per code.
    """

    codes: Positive
    rate: Positive
    hop: Positive


class Codec:
    """The decoder's graph. It looks at all codes of an utterance at once. Any number of threads may use it."""

    def __init__(self, session: Session, section: CodecSection) -> None:
        """`session`: the stage codec_decode."""
        self.session, self.section = session, section
        self.frame = int(session.stage.outputs[0].shape[1])  # samples per code

    def decode(self, codes: npt.ArrayLike) -> Samples:
        """All of an utterance: int [frames] -> float32 [frames * frame], not clipped.

        Longer by a few samples, always as many, where upstream's decoder makes more than `frame` per code. Memory grows
        with the length. ValueError when the codes are not this codec's.
        """
        codes = self.checked(codes)
        if not len(codes):
            return np.empty(0, np.float32)
        outputs, _ = self.session(self.session.start(), codes=codes)
        wave: Samples = outputs["wave"].reshape(-1)
        return np.concatenate((wave, outputs["rest"])) if "rest" in outputs else wave

    def checked(self, codes: npt.ArrayLike) -> Codes:
        """The codes as int64 [frames], contiguous. ValueError when they are not this codec's."""
        array = np.asarray(codes)
        if array.ndim != 1 or array.dtype.kind not in "iu":
            raise ValueError(f"wanted codes int [frames], got {array.dtype}{list(array.shape)}")
        if array.size and not 0 <= array.min() <= array.max() < self.section.codes:
            bad = array.min() if array.min() < 0 else array.max()
            raise ValueError(f"code {bad} is not one of 0 .. {self.section.codes - 1}")
        return np.ascontiguousarray(array, np.int64)
