"""The Qwen3-TTS talker, a Qwen3 decoder from embeddings to code 0, and its embeddings (docs/systems/qwen3tts.md 4).

Its rotary positions have three rows that are always equal, so they are plain ones and count tokens.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from voxport_exporters.checkpoints.later import later
from voxport_exporters.checkpoints.weights import Weights
from voxport_exporters.nets.decoder import Decoder
from voxport_exporters.nets.decoder_config import DecoderConfig
from voxport_exporters.nets.dense import Linear
from voxport_exporters.nets.ops import ACTIVATIONS
from voxport_exporters.nets.table import Table
from voxport_exporters.nets.taps import tap

CHUNK = 1 << 13  # rows of the text table in flight while it is projected


class Talker(nn.Module):
    """Embeds in; the logits of code 0 and the hidden state they came from out."""

    def __init__(self, w: Weights, config: DecoderConfig) -> None:
        """`w`: the weights below `talker.`, those of its embeddings not included."""
        super().__init__()
        self.decoder = Decoder(w.at("model"), config)
        self.head = Linear.joined(w, config.width, {"codec_head": config.vocab})

    def forward(self, embeds: Tensor, past: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        """embeds [batch, time, width], past int64 [batch], state `state_of(config)`
        -> logits [batch, vocab] and normed hidden [batch, width] of the last token, next state."""
        h, *after = self.decoder(embeds, past, *state)
        hidden = h[:, -1]
        logits = self.head(hidden)
        tap("logits", logits)
        return logits, hidden, *after


class TextTable(Table):
    """The embedding of every text id, already projected to the talker's width: one row is read per id."""

    def __init__(self, w: Weights, vocab: int, inputs: int, width: int, activation: str) -> None:
        """`w`: the weights below `talker.`; `inputs`: width of the text embedding before its projection."""
        act = ACTIVATIONS[activation]

        def table() -> Tensor:
            raw = w.take("model.text_embedding.weight", vocab, inputs)
            p = w.at("text_projection")
            w1, b1 = p.take("linear_fc1.weight", inputs, inputs), p.take("linear_fc1.bias", inputs)
            w2, b2 = p.take("linear_fc2.weight", width, inputs), p.take("linear_fc2.bias", width)
            projected = torch.empty(vocab, width, device=raw.device)
            for start in range(0, vocab, CHUNK):
                rows = slice(start, start + CHUNK)
                projected[rows] = F.linear(act(F.linear(raw[rows], w1, b1)), w2, b2)
            return projected

        super().__init__(table)


class CodeTable(Table):
    """The talker's own embedding: codes of book 0 and the control ids."""

    def __init__(self, w: Weights, vocab: int, width: int) -> None:
        """`w`: the weights below `talker.`."""
        super().__init__(lambda: w.take("model.codec_embedding.weight", vocab, width))


class FrameTable(CodeTable):
    """The embedding of whole frames: the sum over their books, which is how a reference enters the prompt."""

    def __init__(self, w: Weights, vocab: int, size: int, books: int, width: int) -> None:
        """`w`: the weights below `talker.`; `size`: codes per book from book 1 on."""
        super().__init__(w, vocab, width)
        self.tables = nn.ParameterList(book_tables(w, size, books, width))

    def forward(self, codes: Tensor) -> tuple[Tensor, ...]:
        """codes int64 [frames, books] -> embeds [frames, width]."""
        total = F.embedding(codes[:, 0], self.table)
        for book, table in enumerate(self.tables, start=1):
            total = total + F.embedding(codes[:, book], table)
        return (total,)


def book_tables(w: Weights, size: int, books: int, width: int) -> list[nn.Parameter]:
    """The embeddings of books 1 .. books - 1, [size, width] each, from the weights below `talker.`."""

    def table(book: int) -> nn.Parameter:
        return later(lambda: w.take(f"code_predictor.model.codec_embedding.{book - 1}.weight", size, width))

    return [table(book) for book in range(1, books)]
