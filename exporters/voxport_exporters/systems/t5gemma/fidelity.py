"""What quantization did to T5Gemma-TTS's choices: the logits of a made-up utterance, teacher forced, beside those of
float32. Everything counts, from the ids of the text on.

The float32 side is the nets over deferred weights, one module in memory at a time; the other is the written graphs.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from voxport.graphs.ort import OrtSession
from voxport.manifest import Fidelity
from voxport_exporters.checkpoints.later import reading
from voxport_exporters.graphs.fidelity import compared
from voxport_exporters.graphs.part import Part
from voxport_exporters.nets.table import Table
from voxport_exporters.systems.t5gemma.config import Config
from voxport_exporters.systems.t5gemma.decoder import Decoder
from voxport_exporters.systems.t5gemma.encoder import Cross, Encoder
from voxport_exporters.systems.t5gemma.example import Example, Nets, inputs

Array = np.ndarray


def fidelity(parts: Mapping[str, Part], folder: Path, config: Config) -> Fidelity:
    """Compares the graphs in `folder` with the nets of `parts`, by stage."""
    example = Example.of(config)
    return compared(_exact(parts, config, example), _quantized(folder, example))


def _exact(parts: Mapping[str, Part], config: Config, example: Example) -> Array:
    """Logits of the nets after every audio id [speech, rows]."""
    text, audio, encoder, cross, decoder = (
        parts[name].net for name in ("text_embed", "audio_embed", "encoder", "cross", "decoder")
    )
    assert isinstance(text, Table)
    assert isinstance(audio, Table)
    assert isinstance(encoder, Encoder)
    assert isinstance(cross, Cross)
    assert isinstance(decoder, Decoder)
    feed = inputs(Nets(config, text, audio, encoder, cross, decoder), example)
    axes = {"batch": 1, "capacity": len(example.speech)}
    state = [torch.zeros(t.sized(axes)) for t in parts["decoder"].stage.state]
    with torch.no_grad(), reading(decoder):
        hidden, *_ = decoder.read(*feed, *state)
        logits: Array = decoder.head(hidden[0]).numpy()
    return logits


def _quantized(folder: Path, example: Example) -> Array:
    """Logits of the graphs after every audio id [speech, rows], one step after the other, as when it speaks."""

    def run(stage: str, **feed: Array) -> dict[str, Array]:
        session = OrtSession(folder / f"{stage}.onnx")
        return session(session.start(), into=None, **feed)[0]

    def turn(tables: tuple[torch.Tensor, ...]) -> dict[str, Array]:
        return dict(zip(("cos", "sin"), (table.numpy() for table in tables), strict=False))

    text = run("text_embed", ids=example.text.numpy())["embeds"]
    speech = run("audio_embed", ids=example.speech.numpy())["embeds"]
    memory = run("encoder", embeds=text[None], **turn(example.encoder))["memory"]
    constants = run("cross", memory=memory, **turn(example.cross)) | {"read": np.array([len(text)])}
    decoder = OrtSession(folder / "decoder.onnx")
    state, logits = decoder.start(constants, batch=1, capacity=len(speech)), []
    for i, embed in enumerate(speech):
        tables = turn(tuple(table[None, i : i + 1] for table in example.decoder))
        outputs, state = decoder(state, into=None, embeds=embed[None, None], past=np.array([i]), **tables)
        logits.append(outputs["logits"][0])
    return np.stack(logits)
