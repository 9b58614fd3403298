"""A language model of Fun-CosyVoice3 that says what a test's function says, and remembers what it was fed."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from voxport.bundle import Bundle
from voxport.graphs.session import Array, Session
from voxport.graphs.stage import Stage, TensorSpec
from voxport.systems.cosyvoice3.lm import LanguageModel
from voxport.systems.cosyvoice3.section import LlmSection
from voxport_exporters.graphs.part import Part
from voxport_exporters.nets.table import table_stage
from voxport_parity.reference import TorchSession

SPEECH, CONTROLS = 20, 200  # speech tokens, and the ids behind them
SOS, EOS, TASK, FILL = range(SPEECH, SPEECH + 4)
TEXT = "t"

Fed = Sequence[str]  # what went in so far: "t7" is text id 7, "s7" speech token or control id 7
Script = Callable[[Fed], Array]  # -> scores [ids]


def best(token: int) -> Array:
    """Scores of which that of one token is the best."""
    scores = np.zeros(SPEECH + CONTROLS, np.float32)
    scores[token] = 5
    return scores


def hashed(fed: Fed, ends: float = 0.0) -> Array:
    """Scores that depend on all that was fed and its order. `ends`: what is added to those of control ids."""
    rng = np.random.default_rng([int(word[1:]) * 2 + (word[0] == TEXT) for word in fed])
    scores = rng.normal(size=SPEECH + CONTROLS).astype(np.float32)
    scores[SPEECH:] += ends
    return scores


class _Table(nn.Module):
    """Embeddings that say their id and their kind."""

    def __init__(self, kind: int) -> None:
        super().__init__()
        self.kind = kind

    def forward(self, ids: Tensor) -> tuple[Tensor, ...]:
        return (torch.stack((ids.float(), torch.full_like(ids, self.kind).float()), dim=1),)


class _Decoder(nn.Module):
    """The embeddings themselves are what its cache holds."""

    def __init__(self, script: Script) -> None:
        super().__init__()
        self.script = script

    def forward(self, embeds: Tensor, past: Tensor, keys: Tensor) -> tuple[Tensor, ...]:
        stop = int(past) + embeds.shape[1]
        keys[:, 0, int(past) : stop] = embeds
        words = [f"{'st'[int(kind)]}{int(i)}" for i, kind in keys[0, 0, :stop].tolist()]
        return torch.from_numpy(self.script(words))[None], keys


class Scripted(Bundle):
    """A bundle whose model follows `script`; `calls` are the words of every call, new ones only."""

    def __init__(self, script: Script) -> None:
        self.path, self.calls, self._fed = Path(), list[list[str]](), list[str]()

        def remember(fed: Fed) -> Array:
            before = len(self._fed) if list(fed[: len(self._fed)]) == self._fed else 0
            self.calls.append(list(fed[before:]))
            self._fed = list(fed)
            return script(fed)

        lm = Stage(
            "lm",
            inputs=(TensorSpec("embeds", "float32", ("batch", "time", 2)), TensorSpec("past", "int64", ("batch",))),
            outputs=(TensorSpec("logits", "float32", ("batch", SPEECH + CONTROLS)),),
            state=(TensorSpec("keys.0", "float32", ("batch", 1, "capacity", 2)),),
        )
        parts = (
            Part(table_stage("text_embed", 2), _Table(1), {}),
            Part(table_stage("speech_embed", 2), _Table(0), {}),
            Part(lm, _Decoder(remember), {}),
        )
        self._named = {part.stage.name: TorchSession(part) for part in parts}

    def session(self, stage: str, threads: int = 1) -> Session:
        assert threads == 1
        return self._named[stage]

    @property
    def fed(self) -> list[str]:
        """All that went in."""
        return [word for call in self.calls for word in call]

    def model(self, mix: tuple[int, int] = (5, 15), context: int = 10**6) -> LanguageModel:
        return LanguageModel(self, 1, LlmSection(SPEECH, context, mix))


def text(ids: Sequence[int]) -> list[str]:
    """Text ids as words."""
    return [f"t{i}" for i in ids]


def speech(ids: Sequence[int]) -> list[str]:
    """Speech tokens and control ids as words."""
    return [f"s{i}" for i in ids]
