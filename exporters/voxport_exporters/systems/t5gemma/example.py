"""A made-up utterance: what caches are measured by, and what quantized graphs are compared on with exact nets."""

from dataclasses import dataclass

import torch
from torch import Tensor

from voxport_exporters.checkpoints.later import built, reading
from voxport_exporters.nets import rotary
from voxport_exporters.nets.table import Table
from voxport_exporters.systems.t5gemma.config import Config, Stack
from voxport_exporters.systems.t5gemma.decoder import Decoder
from voxport_exporters.systems.t5gemma.encoder import Cross, Encoder

TEXT, SPEECH = 48, 96  # text ids, and audio ids after the one that begins


@dataclass(frozen=True)
class Nets:
    """The five graphs of one checkpoint as nets."""

    config: Config
    text: Table
    audio: Table
    encoder: Encoder
    cross: Cross
    decoder: Decoder


@dataclass(frozen=True)
class Example:
    """Ids of one utterance, int64 [tokens] each, and how far their tokens turn."""

    text: Tensor
    speech: Tensor
    encoder: tuple[Tensor, Tensor]  # cos and sin [text, half a head of the encoder]
    cross: tuple[Tensor, ...]  # [text, half a head of the decoder]; none where keys are not rotated
    decoder: tuple[Tensor, Tensor]  # [speech, half a head]

    @classmethod
    def of(cls, config: Config) -> "Example":
        """Random ids; the speech is as long as the utterance."""
        rng = torch.Generator().manual_seed(0)
        text = torch.randint(0, config.encoder.vocab_size, (TEXT,), generator=rng)
        speech = torch.randint(0, config.codes, (1 + SPEECH,), generator=rng)
        speech[0] = config.tokens["empty"]
        text_places, speech_places = (_places(config, len(ids)) for ids in (text, speech))
        cross = _turned(config.decoder, text_places) if config.voice.use_pm_rope else ()
        return cls(text, speech, _turned(config.encoder, text_places), cross, _turned(config.decoder, speech_places))


def _places(config: Config, count: int) -> Tensor:
    """Positions of all tokens of a text, or of all speech: the progress, or which token it is."""
    index = torch.arange(count, dtype=torch.float32)
    return index / (count - 1) * config.voice.progress_scale if config.voice.use_pm_rope else index


def _turned(c: Stack, places: Tensor) -> tuple[Tensor, Tensor]:
    return rotary.cos_sin(places, rotary.frequencies(c.theta, c.head_dim))


def inputs(nets: Nets, example: Example) -> tuple[Tensor, ...]:
    """What the decoder's graph takes to read the speech in one call, in order: embeds, past, cos, sin, read, cross."""
    text, speech = (built(table.table)[ids] for table, ids in ((nets.text, example.text), (nets.audio, example.speech)))
    with torch.no_grad(), reading(nets.encoder), reading(nets.cross):
        memory = nets.encoder(text[None], *example.encoder)
        cross = nets.cross(memory, *example.cross)
    cos, sin = (table[None] for table in example.decoder)
    return speech[None], torch.zeros(1, dtype=torch.int64), cos, sin, torch.tensor([len(text)]), *cross
