"""w2v-BERT 2.0 as far as XCodec2 reads it (transformers' Wav2Vec2BertModel; docs/systems/t5gemma.md 6.3).

A sequence is [steps, width] throughout, and all of it comes at once: there is no mask.
"""

import math
from pathlib import Path
from typing import Self

import msgspec
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from voxport_exporters.checkpoints.jsonfile import Count, Layers, NotNegative, Size, parse, read
from voxport_exporters.checkpoints.later import later
from voxport_exporters.checkpoints.weights import Weights
from voxport_exporters.nets import ops
from voxport_exporters.nets.checks import require
from voxport_exporters.nets.dense import LayerNorm, Linear, frozen
from voxport_exporters.nets.taps import tap

DEPTH = 16  # layers that XCodec2 runs, hard-coded upstream; the release has 24


class W2vBertConfig(msgspec.Struct, frozen=True):
    """config.json of a release. Absent keys: transformers' defaults, or None for what the tensors' shapes say."""

    hidden_size: Size | None = None
    intermediate_size: Size | None = None
    num_attention_heads: Size | None = None
    feature_projection_input_dim: Size | None = None
    conv_depthwise_kernel_size: Size | None = None
    num_hidden_layers: Layers = 24
    hidden_act: str = "swish"
    layer_norm_eps: NotNegative = 1e-5
    position_embeddings_type: str | None = "relative_key"
    left_max_position_embeddings: Count = 64  # steps; what is further away is as far as that
    right_max_position_embeddings: Count = 8
    add_adapter: bool = False

    @classmethod
    def of(cls, params: object, where: str = "config.json") -> Self:
        """From the dict of a config.json. Raises ValueError that begins with `where` and names the field."""
        return parse(params, cls, where)

    def __post_init__(self) -> None:
        require(self.hidden_act in ops.ACTIVATIONS, f"hidden_act is {self.hidden_act!r}, which is not known here")
        require(
            self.position_embeddings_type == "relative_key",
            f"position_embeddings_type is {self.position_embeddings_type!r}, only 'relative_key' is supported",
        )
        require(
            self.num_hidden_layers >= DEPTH, f"num_hidden_layers is {self.num_hidden_layers}, XCodec2 reads {DEPTH}"
        )

    @property
    def distances(self) -> int:
        """How many distances between two steps attention tells apart."""
        return self.left_max_position_embeddings + 1 + self.right_max_position_embeddings


def read_config(path: Path) -> W2vBertConfig:
    """The config.json of a release. Raises FileNotFoundError or ValueError in one line that names the file."""
    return W2vBertConfig.of(read(path), f"{path}: not a config.json of w2v-BERT 2.0")


class FeedForward(nn.Module):
    """Half of narrow(act(wide(norm(x)))), which the residual stream gets; [steps, width] -> same shape."""

    def __init__(self, w: Weights, name: str, width: int, config: W2vBertConfig) -> None:
        super().__init__()
        wide, narrow = w.at(f"{name}.intermediate_dense"), w.at(f"{name}.output_dense")
        inner = config.intermediate_size or wide.shape("weight")[0]
        self.act = ops.ACTIVATIONS[config.hidden_act]
        self.norm = LayerNorm(w.at(f"{name}_layer_norm"), width, config.layer_norm_eps)
        self.wide = Linear(later(lambda: wide.take("weight", inner, width).T), wide.take("bias", inner))
        self.narrow = Linear(
            later(lambda: narrow.take("weight", width, inner).T * 0.5), narrow.take("bias", width) * 0.5
        )

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.narrow(self.act(self.wide(self.norm(x))))
        return y


class Attention(nn.Module):
    """Every step attends to all, and a score gets its query's product with an embedding of the distance to the key."""

    def __init__(self, w: Weights, width: int, config: W2vBertConfig) -> None:
        super().__init__()
        name = "distance_embedding.weight"
        self.size = w.shape(name)[1] if config.num_attention_heads is None else width // config.num_attention_heads
        self.heads = width // self.size
        if self.heads * self.size != width:
            raise ValueError(f"{w.source}: width {width} of w2v-BERT is no multiple of {self.size} channels a head")
        self.qkv = Linear.joined(w, width, {f"linear_{n}": width for n in "qkv"}, bias=True)
        self.out = Linear.of(w.at("linear_out"), width, width)
        # The product with the distance is scaled by the head's size, as the product with the key is.
        self.distances = frozen(w.take(name, config.distances, self.size) / math.sqrt(self.size))

    def forward(self, x: Tensor, places: Tensor) -> Tensor:
        """x [steps, width]; `places` int64 [2 * steps]: the rows of `distances` of keys that are -steps .. steps - 1
        away."""
        q, k, v = self.qkv(x)[None].chunk(3, dim=-1)
        near = F.embedding(places, self.distances).T  # [size, 2 * steps]
        scores = q.squeeze(0).unflatten(-1, (self.heads, -1)).transpose(0, 1) @ near  # [heads, steps, 2 * steps]
        mixed = ops.attention(q, k, v, self.heads, "codec.enc.attention", skewed(scores)[None])
        y: Tensor = self.out(mixed.squeeze(0))
        return y


def skewed(scores: Tensor) -> Tensor:
    """scores [heads, steps, 2 * steps] by distance, -steps first -> [heads, steps, steps] by place of the key.

    Key j of query i stands at column j - i + steps: cut into rows that are one column shorter, from column `steps` on,
    the columns meet. No index of every single score is needed.
    """
    steps = scores.shape[1]
    rows: Tensor = scores.flatten(1)[:, steps:].unflatten(1, (steps, 2 * steps - 1))
    return rows[..., :steps]


class Convolution(nn.Module):
    """Gated convolution along time, one per channel, that looks back only; [steps, width] -> same shape."""

    def __init__(self, w: Weights, width: int, config: W2vBertConfig) -> None:
        super().__init__()
        eps = config.layer_norm_eps
        self.norm1, self.norm2 = (LayerNorm(w.at(n), width, eps) for n in ("layer_norm", "depthwise_layer_norm"))
        self.act = ops.ACTIVATIONS[config.hidden_act]
        self.enter = Linear.of(w.at("pointwise_conv1"), width, 2 * width, 1, bias=False)
        self.leave = Linear.of(w.at("pointwise_conv2"), width, width, 1, bias=False)
        kernel = config.conv_depthwise_kernel_size or w.shape("depthwise_conv.weight")[-1]
        self.weight = frozen(w.take("depthwise_conv.weight", width, 1, kernel)[:, :, None])

    def forward(self, x: Tensor) -> Tensor:
        y = F.glu(self.enter(self.norm1(x)), dim=-1).T[None, :, None]
        y = F.conv2d(F.pad(y, (self.weight.shape[-1] - 1, 0)), self.weight, groups=self.weight.shape[0])
        z: Tensor = self.leave(self.act(self.norm2(y[0, :, 0].T)))
        return z


class Layer(nn.Module):
    """A Conformer layer: half a feed-forward, attention, convolution, the other half."""

    def __init__(self, w: Weights, width: int, config: W2vBertConfig) -> None:
        super().__init__()
        eps = config.layer_norm_eps
        self.ffn1, self.ffn2 = (FeedForward(w, name, width, config) for name in ("ffn1", "ffn2"))
        self.norm1, self.norm2 = (LayerNorm(w.at(f"{n}_layer_norm"), width, eps) for n in ("self_attn", "final"))
        self.attention = Attention(w.at("self_attn"), width, config)
        self.convolution = Convolution(w.at("conv_module"), width, config)

    def forward(self, x: Tensor, places: Tensor) -> Tensor:
        x = x + self.ffn1(x)
        x = x + self.attention(self.norm1(x), places)
        x = x + self.convolution(x)
        y: Tensor = self.norm2(x + self.ffn2(x))
        return y


class W2vBert(nn.Module):
    """features [steps, inputs] -> hidden [steps, width] after the layers that XCodec2 runs."""

    def __init__(self, w: Weights, config: W2vBertConfig) -> None:
        """`w`: the weights below `semantic_model.`"""
        super().__init__()
        self.config = c = config
        enter = w.at("feature_projection")
        width = c.hidden_size or enter.shape("projection.weight")[0]
        inputs = c.feature_projection_input_dim or enter.shape("projection.weight")[1]
        self.norm = LayerNorm(enter.at("layer_norm"), inputs, c.layer_norm_eps)
        self.project = Linear.of(enter.at("projection"), inputs, width)
        self.layers = nn.ModuleList(Layer(w.at(f"encoder.layers.{i}"), width, c) for i in range(DEPTH))
        for i in range(DEPTH, c.num_hidden_layers):
            w.drop(f"encoder.layers.{i}.*", "a layer that XCodec2 does not read")
        w.drop("masked_spec_embed", "training only")

    def forward(self, features: Tensor) -> Tensor:
        c, steps = self.config, features.shape[0]
        x: Tensor = self.project(self.norm(features))
        left, right = c.left_max_position_embeddings, c.right_max_position_embeddings
        places = torch.arange(2 * steps, device=x.device).sub(steps).clamp(-left, right) + left
        for i, layer in enumerate(self.layers):
            x = layer(x, places)
            tap(f"codec.enc.semantic_hidden{i + 1}", x[None])
        return x
