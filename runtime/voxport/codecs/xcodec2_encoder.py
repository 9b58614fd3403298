"""XCodec2's encoder: a recording as codes (docs/systems/t5gemma.md 6.3). Those of every variant are interchangeable."""

import numpy as np

from voxport.audio import kaldi, seamless
from voxport.audio.resample import resample
from voxport.bundle import Bundle
from voxport.codecs.codec12hz import checked_samples
from voxport.codecs.xcodec2 import CodecSection, Codes, Samples

SEMANTIC, ACOUSTIC, QUANTIZE = STAGES = ("codec_semantic", "codec_acoustic", "codec_quantize")


class Encoder:
    """The encoder's graphs. They hold w2v-BERT and are needed once per voice, so each is loaded for its call only."""

    def __init__(self, bundle: Bundle, threads: int, section: CodecSection) -> None:
        """ValueError when the bundle was exported without them."""
        if missing := [stage for stage in STAGES if stage not in bundle.manifest.stages]:
            raise ValueError(f"{bundle.path}: has no {', '.join(missing)}, so it makes no codes; export it with them")
        self._bundle, self._threads, self._section = bundle, threads, section

    def encode(self, samples: Samples, rate: int) -> Codes:
        """float32 [n] at `rate` Hz, full scale -1..1 -> codes int64 [frames], see `frames`.

        Every code depends on all of the recording, so it comes as a whole. ValueError for samples that are none, or
        that are no numbers.
        """
        audio = self.frames(samples, rate)
        return self.quantize(self.semantic(audio), self.acoustic(audio))

    def frames(self, samples: Samples, rate: int) -> Samples:
        """The samples at the codec's rate, [frames, samples per frame].

        Zeros fill the last frame. As upstream has it, a recording that ends with a frame gets one more, all zeros.
        """
        hop = self._section.hop
        sound = resample(checked_samples(samples), rate, self._section.rate)
        return np.pad(sound, (0, hop - len(sound) % hop)).reshape(-1, hop)

    def semantic(self, audio: Samples) -> Samples:
        """What `frames` gives -> what is said, [frames, channels]."""
        session = self._bundle.once(SEMANTIC, self._threads)
        found = features(audio, int(session.stage.inputs[0].shape[1]))
        output: Samples = session(session.start(), features=found)[0]["semantic"]
        return output

    def acoustic(self, audio: Samples) -> Samples:
        """What `frames` gives -> how it sounds, [frames, channels]."""
        session = self._bundle.once(ACOUSTIC, self._threads)
        output: Samples = session(session.start(), audio=audio)[0]["acoustic"]
        return output

    def quantize(self, semantic: Samples, acoustic: Samples) -> Codes:
        """Both -> codes int64 [frames]."""
        session = self._bundle.once(QUANTIZE, self._threads)
        codes: Codes = session(session.start(), semantic=semantic, acoustic=acoustic)[0]["codes"]
        return codes


def features(audio: Samples, width: int) -> Samples:
    """audio [frames, samples per frame] at 16 kHz -> what w2v-BERT reads, [frames, width].

    Upstream puts half a frame of silence before and after, which makes as many rows of filter banks as there are
    frames.
    """
    hop = audio.shape[1]
    stride = hop // kaldi.HOP
    return seamless.features(np.pad(audio.reshape(-1), hop // 2), width // stride, stride)
