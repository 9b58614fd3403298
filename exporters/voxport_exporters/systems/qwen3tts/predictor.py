"""The Qwen3-TTS code predictor: from a frame's code 0 its other codes, each drawn from what the ones before it say
(docs/systems/qwen3tts.md 5).

A frame is one graph of books - 1 passes, and its draws are inputs. Weights that several nodes of one graph read are
stored once; a Loop or an If would store them in a subgraph, where onnxruntime either copies them or, when they stay
outside, does not pack them and runs three times slower (docs/performance.md 2). Tracing all passes takes minutes, so
only `First` and one `Pass` are traced, and unroll.py puts them together.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from voxport_exporters.checkpoints.later import later
from voxport_exporters.checkpoints.weights import Weights
from voxport_exporters.nets.attention import Places, mask
from voxport_exporters.nets.decoder import Decoder
from voxport_exporters.nets.decoder_config import DecoderConfig
from voxport_exporters.nets.dense import Linear
from voxport_exporters.nets.taps import tap
from voxport_exporters.systems.qwen3tts.talker import book_tables

LARGEST = 1 - 2.0**-20  # of a draw: below 1 by more than rounding, so that some code always exceeds it

# What a pass hands on: code [batch, 1], sum of embeddings [batch, width], logits [batch, 1, codes per book], embedding
# of the code [batch, width], caches [batch, kv heads, books, head size].
Passed = tuple[Tensor, ...]


class Predictor(nn.Module):
    """One frame: hidden state and code 0 in; codes 1 .. books - 1 and the embedding of the whole frame out."""

    def __init__(self, w: Weights, config: DecoderConfig, books: int, vocab: int, width: int) -> None:
        """`w`: the weights below `talker.`; `vocab` and `width`: the talker's."""
        super().__init__()
        p = w.at("code_predictor")
        self.books, self.width = books, width
        self.decoder = Decoder(p.at("model"), config)
        self.codec = later(lambda: w.take("model.codec_embedding.weight", vocab, width))
        self.tables = nn.ParameterList(book_tables(w, config.vocab, books, width))
        heads = (Linear.joined(p, config.width, {f"lm_head.{i}": config.vocab}) for i in range(books - 1))
        self.heads = nn.ModuleList(heads)
        self.project = (
            Linear.joined(p, width, {"small_to_mtp_projection": config.width}, bias=True)
            if width != config.width
            else None
        )

    def forward(
        self, hidden: Tensor, code: Tensor, uniforms: Tensor, temperature: Tensor, top_k: Tensor, top_p: Tensor
    ) -> tuple[Tensor, ...]:
        """hidden [batch, width] of the talker, code int64 [batch], uniforms [batch, books - 1] in [0, 1),
        temperature, top_k (int64) and top_p [1] as in `drawn`
        -> codes int64 [batch, books - 1], embed [batch, width], logits [batch, books - 1, codes per book]."""
        first, others = self.passes()
        settings = (temperature, top_k, top_p)
        # Not by __call__: the parts of a pass go by their names in this net when operations are counted.
        outputs = [first.forward(hidden, code, uniforms[:, :1], *settings)]
        for i, other in enumerate(others, start=1):
            _, total, _, *rest = outputs[-1]
            outputs.append(other.forward(torch.tensor([i + 1]), total, uniforms[:, i : i + 1], *settings, *rest))
        codes, totals, logits, *_ = zip(*outputs, strict=True)
        tap("logits", torch.cat(logits, dim=1))
        return torch.cat(codes, dim=1), totals[-1], torch.cat(logits, dim=1)

    def passes(self) -> "tuple[First, list[Pass]]":
        """One per code."""
        return First(self), [Pass(self, i) for i in range(1, self.books - 1)]


class _Code(nn.Module):
    """What every pass does: tokens through the layers, a head, a draw, the embedding of what was drawn."""

    def __init__(self, predictor: Predictor, i: int) -> None:
        super().__init__()
        self.decoder, self.project, self.books = predictor.decoder, predictor.project, predictor.books
        self.head, self.table = predictor.heads[i], predictor.tables[i]

    def _code(self, x: Tensor, places: Places, total: Tensor, settings: tuple[Tensor, ...], *caches: Tensor) -> Passed:
        h = x if self.project is None else self.project(x)
        after: list[Tensor] = []
        for layer in self.decoder.layers:
            h, *mine = layer(h, places, *caches[len(after) : len(after) + 2])
            after += mine
        logits = self.head(self.decoder.norm(h[:, -1]))
        code = drawn(logits, *settings)
        embed = F.embedding(code, self.table)
        return code[:, None], total + embed, logits[:, None], embed, *after

    def _places(self, past: Tensor, time: int, batch: int) -> Places:
        """As Places.of with rows that all stand at `past` [1]; it follows from that constant of the unrolled graph."""
        c = self.decoder.config
        total: int = past.item() + time  # type: ignore[assignment]
        torch._check(total >= time)
        torch._check(total <= self.books)
        positions, columns = past + torch.arange(time), torch.arange(total)
        angles = (positions[:, None].to(torch.float32) * self.decoder.frequencies).expand(batch, time, -1)
        windows = {c.window if mixer == "sliding" else 0 for mixer in c.mixers}
        return Places(
            positions.expand(batch, time),
            None,
            total,
            (past + (time - 1)).to(torch.int32).expand(batch),
            (past + time).to(torch.int32).reshape(()),
            angles.cos(),
            angles.sin(),
            {window: mask(positions, columns, window)[None, None] for window in windows},
        )


class Pass(_Code):
    """One token, the embedding of code i, beside the i + 1 before it -> code i + 1."""

    def forward(
        self,
        past: Tensor,
        total: Tensor,
        u: Tensor,
        temperature: Tensor,
        top_k: Tensor,
        top_p: Tensor,
        embed: Tensor,
        *caches: Tensor,
    ) -> Passed:
        """past int64 [1]: tokens in the caches; total [batch, width]: sum of the embeddings so far; u [batch, 1]."""
        places = self._places(past, 1, embed.shape[0])
        return self._code(embed[:, None], places, total, (u, temperature, top_k, top_p), *caches)


class First(_Code):
    """Two tokens, the talker's hidden state and code 0, from empty caches -> code 1."""

    def __init__(self, predictor: Predictor) -> None:
        super().__init__(predictor, 0)
        self.codec = predictor.codec

    def forward(
        self, hidden: Tensor, code: Tensor, u: Tensor, temperature: Tensor, top_k: Tensor, top_p: Tensor
    ) -> Passed:
        """hidden [batch, width], code int64 [batch], u [batch, 1]."""
        c = self.decoder.config
        embed = F.embedding(code, self.codec)
        empty = torch.zeros(hidden.shape[0], c.kv_heads, self.books, c.head_size)
        places = self._places(torch.zeros(1, dtype=torch.int64), 2, hidden.shape[0])
        caches = [empty] * (2 * len(self.decoder.layers))
        return self._code(torch.stack((hidden, embed), dim=1), places, embed, (u, temperature, top_k, top_p), *caches)


def drawn(logits: Tensor, u: Tensor, temperature: Tensor, top_k: Tensor, top_p: Tensor) -> Tensor:
    """Draws one code per row: the first whose cumulative probability exceeds `u`. logits [batch, size], u [batch, 1]
    -> int64 [batch].

    As transformers' processors: divided by temperature [1], the top_k [1] best stay (ties with the last as well; 0:
    all), of them the best that hold `top_p` [1] together. With top_k 1 and u 0: the best code, the first of equals.
    """
    size = logits.shape[-1]
    keep: int = torch.where(top_k < 1, size, top_k).clamp(max=size).item()  # type: ignore[assignment]
    torch._check(keep >= 1)
    torch._check(keep <= size)
    scores = logits / temperature
    rising = torch.topk(scores, keep).values.flip(-1)
    # Upstream drops, worst first, while what is dropped holds no more than 1 - top_p; the best always stays.
    dropped = torch.softmax(rising, dim=-1).cumsum(-1) <= 1 - top_p
    least = torch.where(dropped, rising[:, -1:], rising).amin(-1, keepdim=True)  # top_k 1 leaves no axis to count along
    weights = torch.where(scores >= least, torch.exp(scores - rising[:, -1:]), 0.0).cumsum(-1)
    code = (weights <= u.clamp(max=LARGEST) * weights[:, -1:]).sum(-1)
    return code.clamp(max=size - 1)  # logits that are no numbers must not end in a row that is not there
