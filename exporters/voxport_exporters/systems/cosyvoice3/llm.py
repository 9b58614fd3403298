"""The language model of Fun-CosyVoice3, llm.pt (or llm.rl.pt): a Qwen2 decoder from embeddings to the scores of speech
tokens (docs/systems/cosyvoice3.md 3). W: its width.

    text_embed    ids int64 [tokens] -> embeds [tokens, W]: text ids
    speech_embed  ids int64 [tokens] -> embeds [tokens, W]: speech tokens and the control ids behind them
    lm            embeds [batch, time, W], past int64 [batch], cache -> logits [batch, speech tokens + 200], next cache

The logits are those of the last token. All 200 ids behind the speech tokens stay: upstream's softmax counts them, and
each of them ends a generation.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from voxport.graphs.stage import Stage, TensorSpec
from voxport.recipe import Rule
from voxport_exporters.checkpoints.later import built
from voxport_exporters.checkpoints.weights import Weights
from voxport_exporters.graphs.part import Part
from voxport_exporters.nets.decoder import Decoder, decoder_stage
from voxport_exporters.nets.decoder_config import DecoderConfig
from voxport_exporters.nets.dense import Linear
from voxport_exporters.nets.table import Table, table_stage
from voxport_exporters.nets.taps import tap
from voxport_exporters.systems.cosyvoice3.config import Config, LlmConfig

CAPACITY = 512  # cached tokens a typical step runs beside; sizes the traced example only
SAMPLE_TEXT, SAMPLE_SPEECH = 64, 448  # tokens of the example by which caches in 8 bits are measured

_TABLES = [Rule("int8row", stage="text_embed"), Rule("fp16row", stage="speech_embed")]
# The head keeps 8 bits: that is 3 % of what a step reads, and every score is a sum over a single row of it.
_HEAD = Rule("int8b", stage="lm", weights="head.*")
# By the names of the system's recipes, the rules that concern these stages. Caches stay float32: with two heads of keys
# and values they are a twentieth of what a step reads after 400 tokens (8 bits: up to 3 % less time there, 6 % after
# 1,000), and beside Qwen2's large key biases a scale per channel leaves little of what changes from token to token.
LLM_RULES: dict[str, list[Rule]] = {
    "mixed": [Rule("int4", stage="lm"), _HEAD, *_TABLES],
    "int8": [Rule("int8b", stage="lm"), *_TABLES],
    "hqq4": [Rule("hqq4", stage="lm", block=64), _HEAD, *_TABLES],
    "fp32": [],
}


class SpeechModel(nn.Module):
    """Embeddings in, the scores of the next speech token out."""

    def __init__(self, w: Weights, config: DecoderConfig, rows: int) -> None:
        """`w`: the whole llm.pt; `rows`: ids that have a score."""
        super().__init__()
        self.decoder = Decoder(w.at("llm.model.model"), config)
        self.head = Linear.joined(w, config.width, {"llm_decoder": rows})

    def forward(self, embeds: Tensor, past: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        """embeds [batch, time, width], past int64 [batch], state `state_of(config)`
        -> logits [batch, rows] of the last token, next state."""
        h, *after = self.decoder(embeds, past, *state)
        logits = self.head(h[:, -1])
        tap("logits", logits)
        return logits, *after


def parts(weights: Weights, config: Config) -> Iterator[Part]:
    """The graphs of llm.pt; every key of `weights` is accounted for when the last one has been taken."""
    llm, layers = config.llm, config.decoder
    width = layers.width
    text = Table(lambda: weights.take("llm.model.model.embed_tokens.weight", layers.vocab, width))
    speech = Table(lambda: weights.take("speech_embedding.weight", llm.rows, width))
    net = SpeechModel(weights, layers, llm.rows)
    weights.drop("llm.model.lm_head.weight", "Qwen's own head: it scores text, which nobody asks for")
    weights.finish()
    yield Part(table_stage("text_embed", width), text, {"tokens": 1})
    yield Part(table_stage("speech_embed", width), speech, {"tokens": 1})
    sizes = {"batch": 1, "time": 1, "capacity": CAPACITY}
    yield Part(lm_stage(layers, llm), net, sizes, sample=lambda: _sample(text, speech, llm))


def lm_stage(layers: DecoderConfig, llm: LlmConfig) -> Stage:
    embeds = TensorSpec("embeds", "float32", ("batch", "time", layers.width))
    return decoder_stage("lm", layers, embeds, (TensorSpec("logits", "float32", ("batch", llm.rows)),))


def _sample(text: Table, speech: Table, llm: LlmConfig) -> tuple[Tensor, Tensor]:
    """Embeddings of a prompt of random ids, with the start before it and the task id inside, and no tokens before."""
    rng = torch.Generator().manual_seed(0)
    words, sounds = built(text.table), built(speech.table)
    start, task = sounds[[llm.speech_token_size]], sounds[[llm.speech_token_size + 2]]
    text_ids = torch.randint(0, len(words), (SAMPLE_TEXT,), generator=rng)
    tokens = torch.randint(0, llm.speech_token_size, (SAMPLE_SPEECH,), generator=rng)
    embeds = torch.cat((start, words[text_ids], task, sounds[tokens]))
    return embeds[None], torch.zeros(1, dtype=torch.int64)
