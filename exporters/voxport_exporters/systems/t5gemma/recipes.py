"""Recipes of T5Gemma-TTS's language model: precision of encoder, cross attention, decoder and tables.

The decoder is read whole for every 20 ms of speech, so its bytes are what a step costs. The encoder runs once per text,
on all of its tokens together, where 8-bit products with activations of 8 bits are the fastest there are.
"""

from voxport.recipe import Rule

_ONCE = [Rule("int8r", stage="encoder"), Rule("int8r", stage="cross")]
_TABLES = [Rule("int8row", stage="text_embed"), Rule("int8row", stage="audio_embed")]
# A step reads all keys and values before it: of one layer of the release, on two cores, 53 us after 150 tokens and 121
# after 450; in 8 bits 32 and 54. Eight rows together take 1,170 us after 150 tokens, in 8 bits 180.
_CACHES = [Rule("int8cache", stage="decoder", weights=f"{kind}.*") for kind in ("keys", "values")]
# Upstream left its decoder alone when it quantized the encoder, since speech suffered. The head and the last layers are
# a tenth of a step, and no later layer evens out what they get wrong.
_CAREFUL = [Rule("int8b", stage="decoder", weights=f"{part}.*") for part in ("last", "head")]

# By name, the rules that concern these stages.
LM_RULES: dict[str, list[Rule]] = {
    "mixed": [Rule("int4", stage="decoder", block=32), *_CAREFUL, *_CACHES, *_ONCE, *_TABLES],
    "int4": [Rule("int4", stage="decoder"), *_CACHES, *_ONCE, *_TABLES],
    "int8": [Rule("int8b", stage="decoder"), *_CACHES, *_ONCE, *_TABLES],
    "hqq4": [Rule("hqq4", stage="decoder", block=64), *_CAREFUL, *_CACHES, *_ONCE, *_TABLES],
    # What upstream ships: the text encoder in 4 bits, in blocks of 64; the rest as trained.
    "encoder-int4": [Rule("int4", stage="encoder", block=64), Rule("fp16row", stage="text_embed")],
    "fp32": [],
}
