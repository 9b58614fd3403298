"""Qwen3-TTS as eager PyTorch: what benchmarks compare with, frame by frame (docs/systems/qwen3tts.md 4, 5, 9).

Upstream's talker and code predictor are Qwen3 decoders (their MRoPE rows are all equal), so they run here as
transformers' own Qwen3Model with its DynamicCache, the checkpoint's weights inside, and torch draws as upstream does.
Upstream's package pins an older transformers and calls `generate()` for the predictor in every frame; this loop does
the same 1 + 15 passes without that, and is the faster of the two. benchmarks/baselines.py runs upstream's.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor
from torch.nn import functional as F
from transformers import AutoModel, DynamicCache, Qwen3Config

SUPPRESSED = 1024  # ids at the end of the talker's vocabulary that are never drawn, the end but one
SHAPE = ["hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads"]
SHAPE += ["head_dim", "rms_norm_eps", "max_position_embeddings", "hidden_act", "attention_bias"]


class Reference:
    """Talker and predictor; `frames` is their whole loop."""

    def __init__(self, checkpoint: Path, dtype: torch.dtype) -> None:
        """`checkpoint`: a release folder; its weights are converted to `dtype`."""
        self.config = json.loads((checkpoint / "config.json").read_text())["talker_config"]
        self.settings = json.loads((checkpoint / "generation_config.json").read_text())
        with safe_open(checkpoint / "model.safetensors", "pt") as file:
            weights = {k: file.get_tensor(k).to(dtype) for k in file.keys() if "text_" not in k}  # noqa: SIM118
        predictor = "talker.code_predictor."
        books = range(self.config["num_code_groups"] - 1)
        self.tables = [weights.pop("talker.model.codec_embedding.weight")]
        self.tables += [weights.pop(f"{predictor}model.codec_embedding.{i}.weight") for i in books]
        self.heads = [
            weights.pop("talker.codec_head.weight"),
            *(weights.pop(f"{predictor}lm_head.{i}.weight") for i in books),
        ]
        names = [f"{predictor}small_to_mtp_projection.{n}" for n in ("weight", "bias")]
        self.narrow = tuple(weights.pop(n) for n in names) if names[0] in weights else None  # of the 1.7B models
        self.talker = _model(self.config, weights, "talker.model.", dtype)
        self.predictor = _model(self.config["code_predictor_config"], weights, f"{predictor}model.", dtype)

    @torch.inference_mode()
    def frames(self, prompt: Tensor, pad: Tensor, least: int, sample: bool = True) -> Iterator[Tensor]:
        """prompt [tokens, width], all of the text in it, and the row that follows it, `pad` [width] -> frames int64
        [books]; none ends the speech before `least` tokens."""
        cache, s, end = DynamicCache(), self.settings, self.config["codec_eos_token_id"]
        hidden = self.talker(inputs_embeds=prompt[None], past_key_values=cache).last_hidden_state[:, -1:]
        used = torch.zeros(len(self.heads[0]), dtype=torch.bool)
        silent = torch.zeros_like(used)
        silent[-SUPPRESSED:] = True
        for frame in range(1 << 30):
            logits = F.linear(hidden[0, -1], self.heads[0]).float()
            penalty = s["repetition_penalty"]
            logits = torch.where(used, torch.where(logits > 0, logits / penalty, logits * penalty), logits)
            silent[end] = frame < least
            code = _draw(logits.masked_fill(silent, -torch.inf), s, "", sample)
            if int(code) == end:
                return
            used[code] = True
            codes, total = self._rest(hidden, code, sample)
            yield codes
            hidden = self.talker(inputs_embeds=total + pad, past_key_values=cache).last_hidden_state

    def _rest(self, hidden: Tensor, code: Tensor, sample: bool) -> tuple[Tensor, Tensor]:
        """hidden [1, 1, width], code [1] -> the frame [books], the sum of its embeddings [1, 1, width]."""
        cache, codes = DynamicCache(), [code]
        embed = F.embedding(code, self.tables[0])[None]
        total, fed = embed, torch.cat((hidden, embed), dim=1)
        for table, head in zip(self.tables[1:], self.heads[1:], strict=True):
            x = F.linear(fed, *self.narrow) if self.narrow else fed
            last = self.predictor(inputs_embeds=x, past_key_values=cache).last_hidden_state[0, -1]
            codes.append(_draw(F.linear(last, head).float(), self.settings, "subtalker_", sample))
            fed = F.embedding(codes[-1], table)[None]
            total = total + fed
        return torch.cat(codes), total


def _model(config: dict[str, Any], weights: dict[str, Tensor], prefix: str, dtype: torch.dtype) -> Any:
    """transformers' Qwen3Model with the tensors of `weights` below `prefix`; its own table is not used."""
    shape = {name: config[name] for name in SHAPE}
    rope = {"rope_type": "default", "rope_theta": config["rope_theta"]}
    model = AutoModel.from_config(Qwen3Config(**shape, vocab_size=1, rope_parameters=rope), dtype=dtype).eval()
    state = {k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)}
    model.load_state_dict(state | {"embed_tokens.weight": torch.zeros(1, config["hidden_size"])}, assign=True)
    return model


def _draw(logits: Tensor, settings: dict[str, Any], kind: str, sample: bool) -> Tensor:
    """logits [n] -> id [1]: temperature, top-k, softmax, one draw; top-p is 1 in the releases."""
    if not sample:
        return logits.argmax()[None]
    best, ids = (logits / settings[f"{kind}temperature"]).topk(settings[f"{kind}top_k"])
    drawn: Tensor = ids[torch.multinomial(best.softmax(-1), 1)]
    return drawn
