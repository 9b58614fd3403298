"""The one table of tolerances. Parity, `voxport verify` and the tests read it; nothing else states one.

A Bound holds when |got - wanted| is within any of its limits, element by element. Loosening one needs a measured
reason beside it.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Bound:
    """Largest error allowed per element: absolute, relative to the element, or to the tensor's largest element."""

    absolute: float
    relative: float = 0.0
    of_peak: float = 0.0


EQUAL = Bound(0.0)  # integers: codes, tokens, lengths

RESAMPLED = Bound(1e-6)

CONVERTER_AUDIO = Bound(5e-6)
CONVERTER_STATE = Bound(1e-4, 1e-5)  # the fixture's states reach 35

# Activations reach 400 in the fixture's decoder, where float32 keeps 3e-5; the next layers square and sum them.
SNAC_AUDIO = Bound(1e-4)
SNAC_LAYER = Bound(1e-6, of_peak=5e-5)  # against upstream
# Samples whose steps were of other sizes: float32 sums in another order. Of 200 random splits of the fixture the worst
# is 2.3e-5, one sample among 36,864; it was 2e-5 until such a split was met.
SNAC_SPLIT = Bound(4e-5)

LM_LOGITS = Bound(2e-4)  # logits of size 10
# What layers hand on, keys and values: below 100 tighter than logits. Large models keep single residual channels of
# thousands (3,380 in a random full-size LFM2), where float32's sums of another order are 2.4e-3 apart.
LM_HIDDEN = Bound(1e-4, 2e-6)
LM_CHANCES = Bound(1e-5)
TOKEN_CHANCES = Bound(1e-4)  # of logits of size 30 at a temperature of 0.8; measured 9e-6


# The same graph on another machine: kernels sum in another order, and a uint8 activation that rounds the other way is
# one step of 255 off and spreads from there. No second kind of machine was at hand: INT8 is chosen from what such
# roundings do to the LLVC fixture here, graph against reference (audio 2.3e-3), FP32 from graph against net (1.4e-6).
VERIFY_FP32 = Bound(2e-5)
VERIFY_INT8 = Bound(2e-2)
# A quantized graph against float arithmetic that rounds as it does: the same flips, as they spread. Of the peak, the
# LLVC fixture measures 2.3e-3, random full-size weights 1.1e-2, random nets of five other shapes up to 3.7e-2, while
# each of their products holds PRODUCT and they are 4 times nearer to that reference than to fp32 (NEARER).
QUANTIZED = Bound(1e-5, of_peak=5e-2)
# In a language model a flip is 1/127 of a block's largest activation, stays in the cache and is handed through every
# layer (VyvoTTS fixture, 32 inputs wide: 4.3e-2 of the peak, the distance to fp32 is 0.7; a Qwen3-TTS predictor 56 wide
# with random weights: 2.1e-2). What a single product may be off is PRODUCT.
QUANTIZED_LM = Bound(1e-5, of_peak=1e-1)
# One 4- or 8-bit product, fed what the graph's own gets: integer sums are exact, and what is left is float32's
# (measured: 6.4e-7 of the product's largest value). A scale that is a hundredth off moves every product further.
PRODUCT = Bound(0.0, of_peak=1e-5)
# A quantized graph's distance (root mean square) to the net that rounds as it does, over its distance to the fp32 net.
# QUANTIZED alone would let the fp32 net pass, of which this is 1. Measured: LLVC 0.25 at most, of the fixture and of
# five random models of other shapes; Qwen3-TTS 0.16; VyvoTTS 0.09 in 4 bits and, where fp32 is nearer too, 0.76 in 8
# bits (of 16 logits). What is above 0 are flips that spread.
NEARER = 0.9
# Qwen3-TTS. Hidden states pass through as many layers as there are steps before them; codes are equal all the same.
TALKER_PROMPT = Bound(1e-5)
TALKER_HIDDEN = Bound(1e-4)
TALKER_LOGITS = Bound(2e-3)
CODEC12HZ_AUDIO = Bound(1e-4)
XVECTOR = Bound(1e-3)  # near the mel floor of 1e-5, float32 and float64 spectra differ by 1e-4
# Fun-CosyVoice3.
FLOW_NOISE = Bound(1e-6)  # torch's logarithm and cosine are its own; measured 7.2e-7 of all 1.2 million

# Fun-CosyVoice3's front end. Upstream's spectra are float32, ours float64. Measured on real and synthetic speech at
# full scale: Whisper's mel 3.2e-5; logarithms near their floors 6.4e-4 (Kaldi) and 3.2e-4 (24 kHz).
WHISPER_MEL = Bound(1e-4)
LOG_MEL = Bound(2e-3)
# Fun-CosyVoice3's flow. Times of size 1; one evaluation of the net, of size 10; a mel of size 10 after 10 steps, each
# of which adds the errors of those before it (measured on the fixture: 2e-6 and 4e-6).
FLOW_TIME = Bound(1e-6)
FLOW_NET = Bound(5e-5)
FLOW_MEL = Bound(5e-4)
# Fun-CosyVoice3 from tokens to samples: the phase is a running sum over a mel that is itself off by FLOW_MEL. Measured
# of tokens in other pieces, 3 s: 2.8e-4.
SPEECH_AUDIO = Bound(5e-3)
PITCH = Bound(1e-9)  # f0 in Hz, computed in float64 as upstream's; float32 leaves 3e-4, which the phase sums up
VOCODER_LAYER = Bound(2e-5)
VOCODER_AUDIO = Bound(5e-5)  # measured 1.4e-6 over 3.3 s, its own f0 and all
VOCODER_SPLIT = Bound(5e-6)  # another split sums up convolutions in another order; measured 1e-6
# XCodec2's encoder. Upstream's spectra are complex64, and each band is divided by its deviation. Measured: speech 1e-6;
# noise, whose logarithms of 25 deviate by 0.15, 1.6e-5.
SEAMLESS_FEATURES = Bound(5e-5)

# XCodec2. Its spectra reach 100, where float32 keeps 2.4e-4; of a layer's peak, the fixture measures 2.5e-6. Samples
# are of size 1 (fixture 1.1e-6); twelve random decoders of other shapes, whose samples reach 8, leave 1.4e-5 at most.
XCODEC2_LAYER = Bound(1e-6, of_peak=2e-5)
XCODEC2_AUDIO = Bound(1e-5, of_peak=1e-5)
# What becomes a step of a digit, of size 2: the acoustic encoder leaves 3e-4 of activations of 50 (fixture 8.6e-5).
XCODEC2_STEPS = Bound(3e-4)
