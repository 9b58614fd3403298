"""What the tests of the 12 Hz codec share: configs far from the release, random weights, nets run in steps."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import numpy as np
import onnx_ir as ir
import pytest
import torch
from hypothesis import strategies as st
from tests.bundles import FIXTURES
from torch import Tensor, nn

from voxport.audio import files
from voxport.audio.resample import resample_reference
from voxport.graphs.ort import OrtSession
from voxport_exporters.checkpoints.weights import Weights
from voxport_exporters.codecs.codec12hz import decoder as nets
from voxport_exporters.codecs.codec12hz import stages as codec12hz
from voxport_exporters.codecs.codec12hz.config import DecoderConfig
from voxport_exporters.graphs.part import Part
from voxport_exporters.graphs.trace import trace
from voxport_exporters.systems.qwen3tts import xvector as speaker
from voxport_exporters.systems.qwen3tts.stages import speaker_part

Array = np.ndarray

CUSTOM, BASE = "qwen3tts-customvoice", "qwen3tts-base"
WAVE, LAYER, STREAM, MEL, EMBEDDING = 1e-4, 1e-4, 2e-6, 1e-3, 2e-5
QUICK = [(CUSTOM, "portable"), (BASE, "cpu")]
CROSS = [pytest.param(CUSTOM, "cpu", marks=pytest.mark.slow), pytest.param(BASE, "portable", marks=pytest.mark.slow)]

# Far from the release: heads that share keys, odd widths and rates, a window shorter than a call, biases.
DECODERS: dict[str, dict[str, Any]] = {
    "odd": {
        "codebook_size": 11, "codebook_dim": 10, "num_quantizers": 3, "latent_dim": 7, "hidden_size": 9,
        "intermediate_size": 5, "num_hidden_layers": 2, "num_attention_heads": 6, "num_key_value_heads": 2,
        "head_dim": 6, "attention_bias": True, "hidden_act": "gelu", "sliding_window": 4, "decoder_dim": 13,
        "upsample_rates": [3, 2], "upsampling_ratios": [3],
    },
    "window of one frame": {
        "codebook_size": 5, "codebook_dim": 4, "num_quantizers": 2, "latent_dim": 3, "hidden_size": 5,
        "intermediate_size": 4, "num_hidden_layers": 1, "num_attention_heads": 1, "num_key_value_heads": 1,
        "head_dim": 2, "sliding_window": 1, "decoder_dim": 6, "upsample_rates": [1, 4], "upsampling_ratios": [],
    },
}  # fmt: skip
ENCODER: dict[str, Any] = {
    "num_filters": 3, "upsampling_ratios": [5, 3], "num_residual_layers": 2, "residual_kernel_size": 5, "compress": 1,
    "kernel_size": 4, "last_kernel_size": 1, "use_conv_shortcut": True, "sampling_rate": 300, "_frame_rate": 10,
    "hidden_size": 12, "intermediate_size": 7, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 6, "codebook_size": 8, "vector_quantization_hidden_dimension": 5,
    "num_quantizers": 6, "num_semantic_quantizers": 2,
}  # fmt: skip
SPEAKER: dict[str, Any] = {
    "mel_dim": 5, "enc_dim": 6, "enc_channels": [9, 9, 9, 18], "enc_kernel_sizes": [3, 5, 2, 3],
    "enc_dilations": [2, 1, 3, 1], "enc_attention_channels": 4, "enc_res2net_scale": 3, "enc_se_channels": 2,
}  # fmt: skip


class RandomWeights(Weights):
    """Every key, of every shape, random."""

    def __init__(self, seed: int = 0) -> None:
        self._random = torch.Generator().manual_seed(seed)
        self._prefix = ""

    def at(self, prefix: str) -> Self:
        view = object.__new__(type(self))
        view.__dict__.update(self.__dict__)
        view._prefix = f"{self._prefix}{prefix}."
        return view

    def take(self, name: str, *shape: int) -> Tensor:
        tensor = torch.randn(shape, generator=self._random)
        if name == "cluster_usage":
            return tensor.abs() + 0.5
        return 0.3 * tensor * (1 if len(shape) == 1 else tensor[0].numel() ** -0.5)

    def drop(self, pattern: str, why: str) -> None:
        pass


def parts(name: str) -> dict[str, Part]:
    stages_of = {part.stage.name: part for part in codec12hz.parts(FIXTURES / name / "speech_tokenizer")}
    if name == BASE:
        weights = Weights.open(FIXTURES / name / "model.safetensors")
        config = json.loads((FIXTURES / name / "config.json").read_text())["speaker_encoder_config"]
        stages_of["speaker_encode"] = speaker_part(weights, speaker.SpeakerConfig.of(config))
    return stages_of


def session(part: Part, target: str, folder: Path) -> OrtSession:
    ir.save(trace(part, target), folder / f"{part.stage.name}.onnx")
    return OrtSession(folder / f"{part.stage.name}.onnx")


Sessions = Callable[[str, str, str], OrtSession]


def zeros(part: Part) -> list[Tensor]:
    return [torch.zeros(t.sized({}), dtype=getattr(torch, t.dtype)) for t in part.stage.state]


def stepped(part: Part, *inputs: Tensor, sizes: list[int]) -> Tensor:
    """The torch net over pieces of `sizes` frames of its first input; its first output, joined."""
    state, out, at = zeros(part), [], 0
    with torch.no_grad():
        for size in sizes:
            y, *state = part.net(inputs[0][at : at + size], *inputs[1:], *state)
            out.append(y)
            at += size
    return torch.cat(out)


def close(got: Array | Tensor, expected: Array | Tensor, bound: float) -> None:
    np.testing.assert_allclose(np.asarray(got), np.asarray(expected), rtol=0, atol=bound)


def drawn(seed: int, size: int, frames: int, books: int) -> Array:
    return np.random.default_rng(seed).integers(0, size, (frames, books))


splits = st.lists(st.integers(1, 12), min_size=1, max_size=40)


def recording(name: str) -> Array:
    return resample_reference(*files.read(FIXTURES / name / "ref.wav"), 24000)


def random_decoder(which: str) -> tuple[Part, Array]:
    """A decoder of DECODERS, and codes for it."""
    config = DecoderConfig.of(DECODERS[which])

    def build(int8: frozenset[str] = frozenset()) -> nn.Module:
        return nets.Decoder(RandomWeights(), config, int8)

    part = Part(codec12hz.decode_stage(config), build(), axes={"frames": 4}, rebuild=build)
    return part, drawn(2, config.codebook_size, 31, config.num_quantizers)
