"""The graphs of a T5Gemma-TTS checkpoint, but for the codec's (docs/systems/t5gemma.md 2, 4).

text_embed   ids int64 [tokens] -> embeds [tokens, D_enc], not yet multiplied by the root of the width
encoder, cross                    see encoder.py
audio_embed  ids int64 [tokens] -> embeds [tokens, D], likewise
decoder                           see decoder.py
"""

from collections.abc import Iterator

from voxport_exporters.checkpoints.weights import Weights
from voxport_exporters.graphs.part import Part
from voxport_exporters.nets.table import Table, table_stage
from voxport_exporters.systems.t5gemma.config import Config
from voxport_exporters.systems.t5gemma.decoder import Decoder, decoder_stage
from voxport_exporters.systems.t5gemma.encoder import Cross, Encoder, cross_stage, encoder_stage
from voxport_exporters.systems.t5gemma.example import Example, Nets, inputs

CAPACITY, TEXT = 512, 96  # cached tokens and text ids a typical step runs beside; they size the traced example only

TEXT_TABLE, AUDIO_TABLE = "backbone.model.encoder.embed_tokens.weight", "audio_embedding.0.weight"


def parts(weights: Weights, config: Config, *, softcap: bool = False) -> Iterator[Part]:
    """Every key of `weights` is accounted for before the first graph is given.

    `softcap`: bends scores off as the config says; what upstream runs does not.
    """
    encoder, decoder = config.encoder, config.decoder
    text = Table(lambda: weights.take(TEXT_TABLE, encoder.vocab_size, encoder.hidden_size))
    audio = Table(lambda: weights.take(AUDIO_TABLE, config.rows, decoder.hidden_size))
    nets = Nets(
        config,
        text,
        audio,
        Encoder(weights.at("backbone.model.encoder"), encoder, softcap),
        Cross(weights.at("backbone.model.decoder"), decoder, encoder.hidden_size),
        Decoder(weights, config, softcap),
    )
    weights.finish()
    yield Part(table_stage("text_embed", encoder.hidden_size), text, {"tokens": 1})
    yield Part(encoder_stage(encoder), nets.encoder, {"text": TEXT})
    yield Part(cross_stage(config), nets.cross, {"text": TEXT})
    yield Part(table_stage("audio_embed", decoder.hidden_size), audio, {"tokens": 1})
    sizes = {"batch": 1, "time": 1, "text": TEXT, "capacity": CAPACITY}
    yield Part(decoder_stage(config), nets.decoder, sizes, sample=lambda: inputs(nets, Example.of(config)))
