"""Made-up codes for XCodec2's decoder: export hears what quantization and windows do to their samples.

They are random, for a checkpoint holds no speech. Speech changes more from second to second than noise does, so a
stream of speech may be further from its decode at once than a stream of these. What w2v-BERT reads is made up, too.
"""

from collections.abc import Callable

import numpy as np

from voxport.codecs.xcodec2 import Codec, CodecSection, streamed_db
from voxport.graphs.session import Session
from voxport_exporters.graphs.part import Trial

QUANTIZED, STREAMED = 100, 400  # codes, 2 and 8 seconds


def trial(codes: int) -> Trial:
    """The samples of some codes below `codes`."""
    feed = np.random.default_rng(0).integers(0, codes, QUANTIZED)
    return lambda session, _: session(session.start(), codes=feed)[0]["wave"]


def streamed(section: CodecSection) -> Callable[[Session], float]:
    """How near a stream is to a decode at once, in dB."""
    codes = np.random.default_rng(1).integers(0, section.codes, STREAMED)
    return lambda session: streamed_db(Codec(session, section), codes)


def semantic(inputs: int) -> Trial:
    """What w2v-BERT and the convolutions after it make of 2 s of noise; `inputs`: features of a frame."""
    feed = np.random.default_rng(2).standard_normal((QUANTIZED, inputs), np.float32)
    return lambda session, _: session(session.start(), features=feed)[0]["semantic"]
