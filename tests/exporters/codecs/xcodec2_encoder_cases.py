"""What the tests of XCodec2's encoder share: releases of random weights, and the encoder as upstream writes it."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from benchmarks.fullsize import t5gemma_codec as shapes
from benchmarks.fullsize.release import save
from torch import Tensor

from voxport_exporters.checkpoints.weights import Weights
from voxport_exporters.codecs.xcodec2.config import CodecConfig
from voxport_exporters.codecs.xcodec2.w2vbert import W2vBertConfig

Array = np.ndarray
Tensors = dict[str, Tensor]

BERT: dict[str, Any] = {
    "hidden_size": 12, "intermediate_size": 20, "num_attention_heads": 3, "num_hidden_layers": 17,
    "feature_projection_input_dim": 160, "conv_depthwise_kernel_size": 31,
}  # fmt: skip
CODEC: dict[str, Any] = {"semantic_hidden_size": 12, "codec_encoder_hidden_size": 8, "ngf": 2, "fsq_levels": [4] * 3}
# Far from the release: odd heads, widths and counts of levels, other strides, kernels and distances
ODD_BERT: dict[str, Any] = BERT | {
    "hidden_size": 9, "feature_projection_input_dim": 42, "conv_depthwise_kernel_size": 5, "num_hidden_layers": 16,
    "left_max_position_embeddings": 3, "right_max_position_embeddings": 0, "hidden_act": "gelu", "layer_norm_eps": 1e-3,
}  # fmt: skip
ODD_CODEC: dict[str, Any] = {
    "semantic_hidden_size": 9, "codec_encoder_hidden_size": 7, "ngf": 3, "fsq_levels": [3, 8, 5, 2],
    "up_ratios": [5, 64],
}  # fmt: skip
CASES = {"released kind": (CODEC, BERT), "odd": (ODD_CODEC, ODD_BERT)}
REACH = {"left_max_position_embeddings": 64, "right_max_position_embeddings": 8}


@dataclass(frozen=True)
class Release:
    config: CodecConfig
    speech: W2vBertConfig
    bert: dict[str, Any]  # the fields of `speech`
    weights: Weights
    tensors: Tensors


def release(name: str, folder: Path) -> Release:
    """A checkpoint of random weights, decoder and all, in `folder`."""
    fields, bert = CASES[name]
    config = CodecConfig.of(fields | {"codec_decoder_hidden_size": 64, "heads": 2, "depth": 1})
    sizes = shapes.Sizes.of(fields | {"codec_decoder_hidden_size": 64, "depth": 1}, REACH | bert)
    names = shapes.shapes(sizes)
    path = folder / "model.safetensors"
    save(path, names, 3, half=False, spread=shapes.spread, constants=shapes.constants(names))
    weights = Weights.open(path)
    tensors = {key: weights.take(key, *shape) for key, shape in names.items()}
    return Release(config, W2vBertConfig.of(bert), bert, Weights.open(path), tensors)


def upstreams(case: Release, features: Array, audio: Array) -> dict[str, Array]:
    """features [frames, inputs], audio [frames, 320] -> semantic, acoustic and codes as upstream computes them."""
    with torch.no_grad():
        semantic = _adapted(case.tensors, _bert(case, torch.from_numpy(features)))
        acoustic = _acoustic(case.tensors, case.config, torch.from_numpy(audio).reshape(1, 1, -1))
        codes = quantized(case.tensors, case.config, torch.cat((semantic, acoustic), dim=-1))
    return {"semantic": semantic.numpy(), "acoustic": acoustic.numpy(), "codes": codes}


def _bert(case: Release, features: Tensor) -> Tensor:
    """What transformers' own class hands on after 16 layers, [frames, width]."""
    prefix = "semantic_model."
    state = {k.removeprefix(prefix): v for k, v in case.tensors.items() if k.startswith(prefix)}
    model = _model(tuple(case.bert.items()))
    model.load_state_dict(state)
    hidden: Tensor = model(features[None], output_hidden_states=True).hidden_states[16][0]
    return hidden


@cache
def _model(fields: tuple[tuple[str, Any], ...]) -> Any:
    from transformers import Wav2Vec2BertConfig, Wav2Vec2BertModel

    return Wav2Vec2BertModel(Wav2Vec2BertConfig(**dict(fields), layerdrop=0.0)).eval()


def _adapted(w: Tensors, x: Tensor) -> Tensor:
    def conv(x: Tensor, name: str) -> Tensor:
        name = f"SemanticEncoder_module.{name}"
        return F.conv1d(x, w[f"{name}.weight"], w.get(f"{name}.bias"), padding=1)

    x = F.relu(conv(x.T[None], "initial_conv"))
    x = x + conv(F.relu(conv(x, "residual_blocks.1")), "residual_blocks.3")
    return conv(x, "final_conv")[0].T


def _acoustic(w: Tensors, config: CodecConfig, x: Tensor) -> Tensor:
    def conv(x: Tensor, name: str, **options: int) -> Tensor:
        gain, direction = (w[f"{name}.parametrizations.weight.original{i}"] for i in (0, 1))
        weight = direction * gain / direction.flatten(1).norm(dim=1)[:, None, None]
        return F.conv1d(x, weight, w[f"{name}.bias"], **options)

    blocks = "CodecEnc.conv_blocks"
    x = conv(x, f"{blocks}.0", padding=3)
    for i, ratio in enumerate(config.up_ratios):
        block = f"{blocks}.{i + 1}.block"
        for unit, dilation in enumerate((1, 3, 9)):
            name = f"{block}.{unit}.block"
            y = conv(_activated(w, f"{name}.0", x), f"{name}.1", padding=3 * dilation, dilation=dilation)
            x = x + conv(_activated(w, f"{name}.2", y), f"{name}.3")
        x = conv(_activated(w, f"{block}.3", x), f"{block}.4", stride=ratio, padding=-(-ratio // 2))
    final = "CodecEnc.conv_final_block"
    return conv(_activated(w, f"{final}.0", x), f"{final}.1", padding=1)[0].T


def _activated(w: Tensors, name: str, x: Tensor) -> Tensor:
    x = doubled(x, w[f"{name}.upsample.filter"])
    alpha, beta = (w[f"{name}.act.{part}"].exp()[:, None] for part in ("alpha", "beta"))
    return halved(x + torch.sin(x * alpha) ** 2 / (beta + 1e-9), w[f"{name}.downsample.lowpass.filter"])


def doubled(x: Tensor, taps: Tensor) -> Tensor:
    """x [1, channels, steps] at twice the rate, as upstream does it: edges repeated, transposed convolution, cut."""
    count, channels = taps.shape[-1], x.shape[1]
    pad, left, right = count // 2 - 1, (count - 2) // 2, (count - 1) // 2
    x = F.pad(x, (pad, pad), mode="replicate")
    x = 2 * F.conv_transpose1d(x, taps.expand(channels, -1, -1), stride=2, groups=channels)
    return x[..., 2 * pad + left : x.shape[-1] - 2 * pad - right]


def halved(x: Tensor, taps: Tensor) -> Tensor:
    """x [1, channels, 2 * steps] at half of the rate, as upstream does it."""
    count, channels = taps.shape[-1], x.shape[1]
    x = F.pad(x, (count // 2 - (count % 2 == 0), count // 2), mode="replicate")
    return F.conv1d(x, taps.expand(channels, -1, -1), stride=2, groups=channels)


def quantized(w: Tensors, config: CodecConfig, x: Tensor) -> Array:
    """x [frames, width] -> codes [frames], digit by digit."""
    x = F.linear(x, w["fc_prior.weight"], w["fc_prior.bias"])
    name = "generator.quantizer.project_in"
    values = F.linear(x, w[f"{name}.weight"], w[f"{name}.bias"]).double().numpy()
    codes, worth = np.zeros(len(values), np.int64), 1
    for column, levels in zip(values.T, config.fsq_levels, strict=True):
        half, offset = (levels - 1) * 1.001 / 2, 0.0 if levels % 2 else 0.5
        for _ in range(2):
            column = np.tanh(column + np.arctanh(offset / half)) * half - offset
        codes += worth * (np.round(column).astype(np.int64) + levels // 2)
        worth *= levels
    return codes
