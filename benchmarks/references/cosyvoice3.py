"""CosyVoice3 as eager float32 PyTorch: what benchmarks compare with (docs/systems/cosyvoice3.md 3).

The language model is a Qwen2 decoder, so it runs here as transformers' own Qwen2Model with its DynamicCache, the
checkpoint's weights inside. Upstream masks the cache in every step, this loop does not; otherwise they do the same.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import AutoModel, DynamicCache, Qwen2Config

from voxport_exporters.systems.cosyvoice3.config import QWEN, Config, Sampling

MODEL = "llm.model.model."
SHAPE = ["hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads"]
SHAPE += ["rms_norm_eps", "max_position_embeddings", "hidden_act"]


class LanguageModel:
    """llm.pt: text to speech tokens."""

    def __init__(self, checkpoint: Path, config: Config) -> None:
        self._codes, self._sampling = config.llm.speech_token_size, config.llm.sampling
        state = torch.load(checkpoint / "llm.pt", weights_only=True)
        self.text, self.speech = state.pop(f"{MODEL}embed_tokens.weight"), state.pop("speech_embedding.weight")
        self.head = state.pop("llm_decoder.weight")
        self.model = _model(json.loads((checkpoint / QWEN / "config.json").read_text()), state)

    def prompt(self, text: Tensor, speech: Tensor) -> Tensor:
        """text int64 [tokens], the prompt's speech int64 [tokens] -> embeddings [1, rows, width]."""
        start, task = (self.speech[self._codes + i : self._codes + i + 1] for i in (0, 2))
        return torch.cat((start, F.embedding(text, self.text), task, F.embedding(speech, self.speech)))[None]

    @torch.inference_mode()
    def tokens(self, prompt: Tensor, sample: bool = True, least: int = 0) -> Iterator[int]:
        """Speech tokens until one that stops, which the first `least` do not; prompt [1, rows, width]."""
        cache, fed, history = DynamicCache(), prompt, list[int]()
        while True:
            hidden = self.model(inputs_embeds=fed, past_key_values=cache).last_hidden_state[0, -1]
            row = F.linear(hidden, self.head).log_softmax(-1)
            if len(history) < least:
                row[self._codes :] = -torch.inf
            token = _draw(row, history, self._sampling) if sample else int(row.argmax())
            if token >= self._codes:
                return
            history.append(token)
            yield token
            fed = self.speech[token][None, None]


def _model(config: dict[str, Any], state: dict[str, Tensor]) -> Any:
    """transformers' Qwen2Model with the tensors of `state` below MODEL; its own table is not used."""
    shape = {name: config[name] for name in SHAPE}
    rope = {"rope_type": "default", "rope_theta": config["rope_theta"]}
    model = AutoModel.from_config(Qwen2Config(**shape, vocab_size=1, rope_parameters=rope), dtype=torch.float32).eval()
    layers = {k.removeprefix(MODEL): v for k, v in state.items() if k.startswith(MODEL)}
    model.load_state_dict(layers | {"embed_tokens.weight": torch.zeros(1, config["hidden_size"])}, assign=True)
    return model


def _draw(row: Tensor, history: list[int], s: Sampling) -> int:
    """Repetition-aware sampling: a nucleus, and the whole row but the pick where that was said just now."""
    ordered, ids = row.softmax(-1).sort(descending=True, stable=True)
    count = int((ordered.cumsum(-1) < s.top_p).sum()) + 1
    pick = int(ids[torch.multinomial(ordered[: min(count, s.top_k)], 1)])
    if history[-s.win_size :].count(pick) >= s.win_size * s.tau_r:
        pick = int(torch.multinomial(row.index_fill(0, torch.tensor(pick), -torch.inf).softmax(-1), 1))
    return pick
