"""What w2v-BERT 2.0 reads, as SeamlessM4T's feature extractor makes it (docs/systems/t5gemma.md 6.3).

Kaldi's filter banks of samples as 16-bit numbers, each band brought to mean 0 and deviation 1 over the recording, some
frames side by side.
"""

import numpy as np
import numpy.typing as npt

from voxport.audio import kaldi
from voxport.audio.files import Samples

FULL_SCALE = 32768  # Kaldi reads 16-bit samples; only the floor of the logarithm notices
LEAST_VARIANCE = 1e-7  # added to that of every band


def features(samples: npt.ArrayLike, bands: int, stride: int) -> Samples:
    """Speech float32 [n] at 16 kHz, full scale -1..1 -> [frames // stride, stride * bands].

    A frame is 25 ms, one begins every 10 ms, none reaches beyond the ends; frames that fill no whole row are dropped.
    Every value depends on the whole recording. ValueError when it holds fewer than 2 frames, which have no deviation.
    """
    frames = kaldi.fbank(np.asarray(samples, np.float32) * np.float32(FULL_SCALE), bands).astype(np.float64)
    if len(frames) < 2:
        raise ValueError(f"{len(frames)} frames of speech are too few; wanted 2 or more ({kaldi.HOP} samples each)")
    deviation = np.sqrt(frames.var(axis=0, ddof=1) + LEAST_VARIANCE)
    even: Samples = ((frames - frames.mean(axis=0)) / deviation).astype(np.float32)
    rows = len(even) // stride
    return even[: rows * stride].reshape(rows, stride * bands)
