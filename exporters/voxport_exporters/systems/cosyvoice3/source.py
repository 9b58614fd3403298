"""How much upstream draws from its generator before the noise of the source (docs/systems/cosyvoice3.md 6)."""

from voxport_exporters.systems.cosyvoice3.config import Config

# Hard-coded upstream.
FLOW_NOISE = (80, 15000)  # flow_matching.py, CausalConditionalCFM: bands and frames of rand_noise
INITIAL_PHASES = 9  # generator.py, SineGen2: rand_ini, which has no effect
F0_KERNELS = (4, 3, 3, 3, 3)  # f0_predictor.py, CausalConvRNNF0Predictor
BLOCK = 16  # of torch's generator: that many normals are drawn at once


def draws_before_source(config: Config) -> int:
    """Numbers drawn between the seed and the source's noise, by the modules that upstream builds in between.

    Their weights are overwritten by the checkpoint's; only how many there are matters here.
    """
    flow, f0 = config.flow, config.hift.f0_predictor
    noise = _normals(FLOW_NOISE[0] * FLOW_NOISE[1])
    embedding = _normals(flow.vocab_size * flow.input_size)
    speaker = _layer(flow.spk_embed_dim, flow.output_size)
    inputs = (f0.in_channels, *(f0.cond_channels for _ in F0_KERNELS[1:]))
    convolutions = sum(_layer(n * k, f0.cond_channels) for n, k in zip(inputs, F0_KERNELS, strict=True))
    classifier = _layer(f0.cond_channels, f0.num_class)
    return noise + embedding + speaker + convolutions + classifier + INITIAL_PHASES


def _layer(inputs: int, outputs: int) -> int:
    """A linear layer or convolution draws each weight and each bias once; its weight norm draws nothing."""
    return inputs * outputs + outputs


def _normals(count: int) -> int:
    """What torch draws for `count` normals: in blocks, the last one anew where it is not full.

    Few of them are drawn in pairs of doubles, each made of two numbers.
    """
    if count < BLOCK:
        return 4 * -(-count // 2)
    return count + (BLOCK if count % BLOCK else 0)
