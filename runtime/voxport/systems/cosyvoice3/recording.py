"""Long recordings, heard in pieces: upstream's tokenizer takes half a minute (docs/systems/cosyvoice3.md 2.2)."""

from collections.abc import Iterator

import numpy as np

from voxport.graphs.session import Array
from voxport.systems.cosyvoice3.frontend import MOST_SECONDS

SEARCH = 10.0  # seconds at the end of a piece in which the quietest place is looked for
WINDOW = 0.04  # seconds whose loudness is compared


def pieces(samples: Array, rate: int) -> Iterator[Array]:
    """samples float32 [n] at `rate` Hz in pieces of at most half a minute, cut where the speaker is quietest."""
    most, window = MOST_SECONDS * rate, max(1, int(WINDOW * rate))
    while len(samples) > most:
        start = most - int(SEARCH * rate)
        power = np.cumsum(np.square(samples[start:most], dtype=np.float64))
        quiet = int(np.argmin(power[window:] - power[:-window]))
        cut = start + quiet + window // 2
        yield samples[:cut]
        samples = samples[cut:]
    yield samples
