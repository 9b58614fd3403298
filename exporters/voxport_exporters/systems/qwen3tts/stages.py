"""The language-model stages of Qwen3-TTS, declared. H: the talker's width; G: codes per frame, 16 in the releases.

    text_embed   ids int64 [tokens] -> embeds [tokens, H]: text ids, projected to H
    codec_embed  ids int64 [tokens] -> embeds [tokens, H]: control ids and codes of book 0
    frame_embed  codes int64 [frames, G] -> embeds [frames, H]: sums over the books (Base only, for the reference)
    talker       embeds [batch, time, H], past int64 [batch], cache
                 -> logits [batch, vocab], hidden [batch, H] of the last token, next cache
    predictor    hidden [batch, H], code int64 [batch], uniforms [batch, G - 1], temperature [1], top_k int64 [1],
                 top_p [1] -> codes int64 [batch, G - 1], embed [batch, H], logits [batch, G - 1, codes per book]

The embed stages hold tables alone: onnxruntime maps their file, and only the rows that are read enter memory. The
predictor's `embed` is the sum of all G embeddings of the frame; with the next text embedding added it is the talker's
next input. The best code at every choice: temperature 1, top_k 1, top_p 1, uniforms 0.
"""

import numpy as np
import onnx_ir as ir
from torch import nn

from voxport.graphs.stage import Stage, TensorSpec
from voxport_exporters.checkpoints.later import deferred
from voxport_exporters.checkpoints.weights import Weights
from voxport_exporters.graphs.part import Part
from voxport_exporters.graphs.trace import trace
from voxport_exporters.graphs.unroll import Chain
from voxport_exporters.nets.decoder import decoder_stage
from voxport_exporters.nets.decoder_config import DecoderConfig
from voxport_exporters.systems.qwen3tts.predictor import Predictor
from voxport_exporters.systems.qwen3tts.xvector import SpeakerConfig, SpeakerEncoder

SETTINGS = (
    TensorSpec("temperature", "float32", (1,)),
    TensorSpec("top_k", "int64", (1,)),
    TensorSpec("top_p", "float32", (1,)),
)


def frame_stage(books: int, width: int) -> Stage:
    return Stage(
        "frame_embed",
        inputs=(TensorSpec("codes", "int64", ("frames", books)),),
        outputs=(TensorSpec("embeds", "float32", ("frames", width)),),
    )


def talker_stage(config: DecoderConfig) -> Stage:
    embeds = TensorSpec("embeds", "float32", ("batch", "time", config.width))
    logits = TensorSpec("logits", "float32", ("batch", config.vocab))
    hidden = TensorSpec("hidden", "float32", ("batch", config.width))
    return decoder_stage("talker", config, embeds, (logits, hidden))


def predictor_part(net: Predictor) -> Part:
    drawn, width = net.books - 1, net.width
    stage = Stage(
        "predictor",
        inputs=(
            TensorSpec("hidden", "float32", ("batch", width)),
            TensorSpec("code", "int64", ("batch",)),
            TensorSpec("uniforms", "float32", ("batch", drawn)),
            *SETTINGS,
        ),
        outputs=(
            TensorSpec("codes", "int64", ("batch", drawn)),
            TensorSpec("embed", "float32", ("batch", width)),
            TensorSpec("logits", "float32", ("batch", drawn, net.decoder.config.vocab)),
        ),
    )
    return Part(stage, net, {"batch": 1}, build=lambda target: _unrolled(net, stage, target))


def _unrolled(net: Predictor, stage: Stage, target: str) -> ir.Model:
    """The first pass and copies of the second, each with its own head, table and draw."""
    first, others = net.passes()
    chain = Chain()
    drawn = range(net.books - 1)
    chain.constant("uniforms.split", np.array([1] * len(drawn), np.int64))
    chain.node("Split", ["uniforms", "uniforms.split"], [f"u.{i}" for i in drawn], axis=1)
    wires = {t.name: t.name for t in SETTINGS}
    passed = [t.name for t in _passed(net, "")]
    begin = wires | {"hidden": "hidden", "code": "code", "u": "u.0"} | {f"to.{n}": f"{n}.0" for n in passed}
    weights = {"head.": "heads.0.", "table": "tables.0"}
    chain.add(trace(Part(_first_stage(net), first, {"batch": 1}), target), "pass.0", begin, weights, _weights_of(first))
    if others:
        traced = trace(Part(_pass_stage(net), others[0], {"batch": 1}), target)
    for i in drawn[1:]:
        past = f"past.{i}"
        chain.constant(past, np.array([i + 1], np.int64))
        step = wires | {"past": past, "u": f"u.{i}"} | {f"to.{n}": f"{n}.{i}" for n in passed}
        step |= {f"from.{n}": f"{n}.{i - 1}" for n in passed}
        weights = {"head.": f"heads.{i}.", "table": f"tables.{i}"}
        chain.add(traced, f"pass.{i}", step, weights, _weights_of(others[0]))
    chain.node("Concat", [f"code.{i}" for i in drawn], ["codes"], axis=1)
    chain.node("Concat", [f"scores.{i}" for i in drawn], ["logits"], axis=1)
    chain.node("Identity", [f"total.{drawn[-1]}"], ["embed"])
    model = chain.model(stage)
    initializers = model.graph.initializers
    for name, parameter in net.named_parameters():
        if name in initializers and not deferred(parameter):
            # So far every copy holds the head and table of the pass that was traced.
            initializers[name].const_value = ir.tensor(parameter.numpy(), name=name)
    return model


def _weights_of(net: nn.Module) -> frozenset[str]:
    return frozenset(name for name, _ in net.named_parameters())


def _passed(net: Predictor, prefix: str) -> tuple[TensorSpec, ...]:
    """What a pass makes; the next one takes all but code and scores."""
    c, width = net.decoder.config, net.width
    cache = ("batch", c.kv_heads, net.books, c.head_size)
    return (
        TensorSpec(f"{prefix}code", "int64", ("batch", 1)),
        TensorSpec(f"{prefix}total", "float32", ("batch", width)),
        TensorSpec(f"{prefix}scores", "float32", ("batch", 1, c.vocab)),
        TensorSpec(f"{prefix}vector", "float32", ("batch", width)),
        *(TensorSpec(f"{prefix}cache.{i}", "float32", cache) for i in range(2 * len(c.mixers))),
    )


def _first_stage(net: Predictor) -> Stage:
    return Stage(
        "first",
        inputs=(
            TensorSpec("hidden", "float32", ("batch", net.width)),
            TensorSpec("code", "int64", ("batch",)),
            TensorSpec("u", "float32", ("batch", 1)),
            *SETTINGS,
        ),
        outputs=_passed(net, "to."),
    )


def _pass_stage(net: Predictor) -> Stage:
    _, total, _, *rest = _passed(net, "from.")
    return Stage(
        "pass",
        inputs=(TensorSpec("past", "int64", (1,)), total, TensorSpec("u", "float32", ("batch", 1)), *SETTINGS, *rest),
        outputs=_passed(net, "to."),
    )


def speaker_part(weights: Weights, config: SpeakerConfig) -> Part:
    """The speaker encoder, from the main model's weights."""
    return Part(
        speaker_stage(config), SpeakerEncoder(weights.at("speaker_encoder"), config), axes={"frames": 3 * config.least}
    )


def speaker_stage(config: SpeakerConfig) -> Stage:
    return Stage(
        "speaker_encode",
        inputs=(TensorSpec("mel", "float32", ("frames", config.mel_dim)),),
        outputs=(TensorSpec("embedding", "float32", (config.enc_dim,)),),
    )
