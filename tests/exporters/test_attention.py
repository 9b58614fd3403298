"""Attention with caches: onnxruntime's operator, which masks by itself, is the portable graph and the torch net."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from voxport.graphs.ort import OrtSession
from voxport.graphs.session import Array
from voxport.graphs.stage import CAPACITY, Stage, TensorSpec
from voxport.recipe import Recipe, Rule
from voxport_exporters.graphs import caches
from voxport_exporters.graphs.part import Part
from voxport_exporters.nets.attention import Places, cached_attention
from voxport_exporters.pack import save

HEADS, SHARED, SIZE, COLUMNS = 4, 2, 16, 64
WINDOWS = [0, 1, 2, 5, 7, COLUMNS]  # 0: none
# (tokens in the caches of each row, new tokens of each): prompts, longer ones in pieces, and steps of several rows
CALLS = [([0], 1), ([0], 9), ([30], 1), ([30], 6), ([3], 40), ([0, 5, 50], 1), ([0, 0, 0], 1), ([0, 0], 6)]
INT8 = Recipe("caches", [Rule(caches.KIND, weights=f"{kind}.*") for kind in ("keys", "values")])


class Attention(torch.nn.Module):
    def __init__(self, window: int) -> None:
        super().__init__()
        self.window = window

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, past: Tensor, keys: Tensor, values: Tensor
    ) -> tuple[Tensor, ...]:
        places = Places.of(past, q.shape[1], torch.ones(SIZE // 2), {self.window})
        return cached_attention(q, k, v, keys, values, places, self.window)


def attention(window: int) -> Part:
    widths = {"q": HEADS * SIZE, "k": SHARED * SIZE, "v": SHARED * SIZE}
    cache = ("batch", SHARED, CAPACITY, SIZE)
    stage = Stage(
        "attention",
        inputs=(
            *(TensorSpec(name, "float32", ("batch", "time", width)) for name, width in widths.items()),
            TensorSpec("past", "int64", ("batch",)),
        ),
        outputs=(TensorSpec("mixed", "float32", ("batch", "time", HEADS * SIZE)),),
        state=(TensorSpec("keys.0", "float32", cache), TensorSpec("values.0", "float32", cache)),
    )

    def sample() -> tuple[Tensor, ...]:
        random = torch.Generator().manual_seed(0)
        fed = (torch.randn(1, COLUMNS, width, generator=random) for width in widths.values())
        return *fed, torch.zeros(1, dtype=torch.int64)

    return Part(stage, Attention(window), {"batch": 1, "time": 1, CAPACITY: COLUMNS}, sample=sample)


def inputs(past: list[int], time: int, seed: int) -> dict[str, Array]:
    rng, rows = np.random.default_rng(seed), len(past)
    widths = {"q": HEADS * SIZE, "k": SHARED * SIZE, "v": SHARED * SIZE}
    fed: dict[str, Array] = {n: rng.standard_normal((rows, time, width), np.float32) for n, width in widths.items()}
    return fed | {"past": np.array(past, np.int64)}


def textbook(fed: dict[str, Array], keys: Array, values: Array, window: int) -> Array:
    """Token by token and head by head. keys and values [batch, kv heads, capacity, size] hold the past alone."""
    mixed = np.zeros_like(fed["q"])
    for row, past in enumerate(fed["past"]):
        new = [fed[name][row].reshape(-1, SHARED, SIZE).swapaxes(0, 1) for name in ("k", "v")]
        k, v = (np.concatenate((c[row, :, :past], x), axis=1) for c, x in zip((keys, values), new, strict=True))
        for i, token in enumerate(fed["q"][row].reshape(-1, HEADS, SIZE)):
            visible = slice(max(0, past + i + 1 - window) if window else 0, past + i + 1)
            for head, query in enumerate(token):
                shared = head // (HEADS // SHARED)
                scores = np.exp(k[shared, visible] @ query / np.sqrt(SIZE))
                mixed[row, i, head * SIZE : (head + 1) * SIZE] = scores / scores.sum() @ v[shared, visible]
    return mixed


@pytest.mark.parametrize("window", WINDOWS)
def test_every_lowering_attends_as_the_textbook(window: int, tmp_path: Path) -> None:
    """At any position of any row, with windows of one token and windows that the past is longer than; and nobody reads
    a column that holds no token."""
    part = attention(window)
    for target in ("cpu", "portable"):
        (tmp_path / target).mkdir()
        save(part, tmp_path / target, Recipe("fp32"), target)
    sessions = [OrtSession(tmp_path / target / "attention.onnx") for target in ("cpu", "portable")]
    for seed, (past, time) in enumerate(CALLS):
        fed, rng = inputs(past, time, seed), np.random.default_rng(seed)
        shape = (len(past), SHARED, COLUMNS, SIZE)
        history = {f"{kind}.0": rng.standard_normal(shape, np.float32) for kind in ("keys", "values")}
        for cache in history.values():
            for row, tokens in enumerate(past):
                cache[row, :, tokens:] = np.nan
        expected = textbook(fed, history["keys.0"], history["values.0"], window)
        tensors = [torch.from_numpy(array.copy()) for array in (*fed.values(), *history.values())]
        np.testing.assert_allclose(part.net(*tensors)[0].numpy(), expected, rtol=0, atol=2e-6)
        for session in sessions:
            state = session.start(batch=len(past), capacity=COLUMNS)
            for name, cache in history.items():
                state[name][:] = cache
            outputs, _ = session(state, into=None, **fed)
            np.testing.assert_allclose(outputs["mixed"], expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("window", [0, 1, 5])
def test_caches_in_8_bits_attend_as_the_textbook(window: int, tmp_path: Path) -> None:
    part = attention(window)
    save(part, tmp_path, INT8, "cpu")
    session, scales = OrtSession(tmp_path / "attention.onnx"), caches.scales(part, ["keys.0", "values.0"])
    for seed, (past, time) in enumerate(CALLS):
        fed, rng = inputs(past, time, seed), np.random.default_rng(seed)
        state, history = session.start(batch=len(past), capacity=COLUMNS), {}
        for (name, scale), new in zip(scales.items(), ("k", "v"), strict=True):
            state[name][:] = rng.integers(-90, 90, state[name].shape)
            history[name] = state[name] * scale.reshape(SHARED, 1, SIZE)
            fed[new] = (np.rint(fed[new] / scale).clip(-128, 127) * scale).astype(np.float32)  # what the cache can hold
        expected = textbook(fed, history["keys.0"], history["values.0"], window)
        outputs, _ = session(state, into=None, **fed)
        np.testing.assert_allclose(outputs["mixed"], expected, rtol=0, atol=1e-5)
