"""Names, shapes and spread of the tensors of a T5Gemma-TTS model (docs/systems/t5gemma.md 4), in upstream's order."""

import re

from benchmarks.fullsize.release import Shapes
from voxport_exporters.systems.t5gemma.config import Config, Stack

# Deviation times the root of the number of inputs, 1 where nothing is said: attention is not uniform, logits deviate
# by about 3. What a block adds to the signal is normalised, so nothing grows.
GAINS = {r"attn\.[qk]_proj": 1.4, r"predict_layer\.0\.0": 1.4, r"predict_layer\.0\.2": 3.0}


def model(config: Config) -> Shapes:
    """Every tensor of the checkpoint; the text table and head of the decoder are pruned."""
    shapes = Shapes()
    encoder, decoder = config.encoder, config.decoder
    shapes["backbone.model.encoder.embed_tokens.weight"] = (encoder.vocab_size, encoder.hidden_size)
    _stack(shapes, "backbone.model.encoder", encoder, 0)
    _stack(shapes, "backbone.model.decoder", decoder, encoder.hidden_size)
    width = decoder.hidden_size
    shapes["audio_embedding.0.weight"] = (config.rows, width)
    for name, rows in (("predict_layer.0.0", width), ("predict_layer.0.2", config.rows)):
        shapes |= {f"{name}.weight": (rows, width), f"{name}.bias": (rows,)}
    return shapes


def _stack(shapes: Shapes, prefix: str, c: Stack, memory: int) -> None:
    """`memory`: the encoder's width, which a decoder's cross attention reads; 0 for the encoder."""
    blocks = ["self_attn", *(["cross_attn"] if memory else []), "feedforward"]
    for i in range(c.num_hidden_layers):
        layer = f"{prefix}.layers.{i}"
        for block, inputs in (("self_attn", c.hidden_size), ("cross_attn", memory)):
            if not inputs:
                continue
            heads = c.num_attention_heads * c.head_dim
            shapes[f"{layer}.{block}.q_proj.weight"] = (heads, c.hidden_size)
            for name in "kv":
                shapes[f"{layer}.{block}.{name}_proj.weight"] = (c.num_key_value_heads * c.head_dim, inputs)
            shapes[f"{layer}.{block}.o_proj.weight"] = (c.hidden_size, heads)
        for name in ("gate", "up"):
            shapes[f"{layer}.mlp.{name}_proj.weight"] = (c.intermediate_size, c.hidden_size)
        shapes[f"{layer}.mlp.down_proj.weight"] = (c.hidden_size, c.intermediate_size)
        for block in blocks:
            shapes |= {f"{layer}.{place}_{block}_layernorm.weight": (c.hidden_size,) for place in ("pre", "post")}
    shapes[f"{prefix}.norm.weight"] = (c.hidden_size,)


def spread(name: str, shape: tuple[int, ...]) -> tuple[float, float]:
    """(mean, standard deviation) of a tensor, by its name in the release. Of a norm: of what is added to 1."""
    if len(shape) == 1:
        return 0.0, 0.05
    # An embedding has as many inputs as it is wide: it is multiplied by the root of that and is 1 then.
    gain = next((gain for pattern, gain in GAINS.items() if re.search(pattern, name)), 1.0)
    return 0.0, float(gain * shape[1] ** -0.5)
