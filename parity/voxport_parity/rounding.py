"""Nets that round as quantized graphs do: their kernels' arithmetic on weights and activations, done in float32."""

from collections.abc import Callable, Iterable, Mapping, Set
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from voxport.bundle import Bundle
from voxport.graphs.session import Array
from voxport.recipe import Recipe, Rule
from voxport_exporters.graphs import caches, int8rows, nbits
from voxport_exporters.graphs import int8 as quantize
from voxport_exporters.graphs import tables as lookup
from voxport_exporters.graphs.part import Part
from voxport_exporters.graphs.plan import KINDS

Function = Callable[[Tensor], Tensor]
ROUNDED = (*KINDS, *lookup.ROWS)  # kinds of weights that a net's graph has


def built(parts: Iterable[Part], recipe: Recipe) -> list[Part]:
    """The parts with their nets computing as the recipe's graphs do, in float32 and without rounding."""
    return [part.for_recipe(recipe) for part in parts]


def rounding(parts: Iterable[Part], recipe: Recipe, bundle: Bundle) -> list[Part]:
    """Nets of `built` with the arithmetic of the quantized graphs, those of `bundle`, done in float32.

    Weights and tables are what their codes stand for; activations and caches are rounded where the kernels round them.
    """
    return [replace(part, net=RoundingNet(part, recipe, bundle)) for part in parts]


class RoundingNet(nn.Module):
    """`net`, inside `rounding`: there a product with one of its weights is that of the kernel."""

    def __init__(self, part: Part, recipe: Recipe, bundle: Bundle) -> None:
        super().__init__()
        self.net, self._rounding = part.net, _Rounding(part, recipe, bundle.manifest.target)
        stage = bundle.session(part.stage.name).stage
        eight = [t.name for t in stage.state if t.dtype == "int8"]
        scales = caches.scales(part, eight) if eight else {}
        half = {t.name for t in stage.feeds if t.dtype == "float16"}
        self._half = [t.name in half for t in part.stage.feeds]
        self._scales = [scales.get(t.name) for t in part.stage.feeds]

    def forward(self, *feed: Tensor) -> Any:
        """The net's outputs for its inputs and states."""
        scales = {id(x): scale for x, scale in zip(feed, self._scales, strict=True) if scale is not None}
        self._rounding.scales = scales
        self._rounding.halves = {id(x) for x, half in zip(feed, self._half, strict=True) if half}
        with self._rounding:
            return self.net(*feed)


class _Rounding(TorchFunctionMode):
    """Within: a product with a weight, or a look-up in a table, that the recipe names is done as its kernel does it.

    The recipe rewrites the MatMuls and Gathers of the graph, so it is these that are caught here, whoever calls them;
    and what is written into a cache is rounded as it is there.
    """

    def __init__(self, part: Part, recipe: Recipe, target: str) -> None:
        super().__init__()
        rules = {id(p): recipe.of(part.stage.name, name) for name, p in part.net.named_parameters() if p.dim() == 2}
        self._rules = {key: rule for key, rule in rules.items() if rule.kind in ROUNDED}
        self._target = target
        self._functions: dict[int, Function] = {}
        self.scales: Mapping[int, Array] = {}  # of the caches of this call, by the id of their tensor
        self.halves: Set[int] = frozenset()  # ids of the caches that this call keeps in fp16

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        multiplies = func in (Tensor.__matmul__, Tensor.matmul, torch.matmul)
        if (multiplies or func is F.embedding) and id(args[1]) in self._rules:
            return self._function(args[1])(args[0])
        if func is Tensor.scatter and id(args[0]) in self.scales:
            cache, axis, columns, values = args
            rounded = caches.rounded(values.numpy(), self.scales[id(cache)])
            return cache.scatter(axis, columns, torch.from_numpy(rounded))
        if func is Tensor.index_put and id(args[0]) in self.halves:
            cache, places, values = args
            return cache.index_put(places, values.half().float())
        return func(*args, **(kwargs or {}))

    def _function(self, weight: nn.Parameter) -> Function:
        if id(weight) not in self._functions:
            rule, values = self._rules[id(weight)], weight.detach().numpy()
            if rule.kind in lookup.ROWS:
                table = torch.from_numpy(lookup.rounded_rows(values, rule.kind))
                self._functions[id(weight)] = lambda ids: F.embedding(ids, table)
            else:
                self._functions[id(weight)] = product(values, rule, self._target)
        return self._functions[id(weight)]


def product(weight: Array, rule: Rule, target: str, move: Function = lambda x: x) -> Function:
    """What the target's kernel makes of x [..., inputs] and `weight` float32 [inputs, outputs], without its bias.

    `move` lays the quantized values of x side by side before they are multiplied, as graphs do for convolutions.
    """
    match rule.kind:
        case "int8":
            return _tensor_wise(weight, move)
        case "int8r":
            return _row_wise(weight)
        case _:
            return _block_wise(weight, rule, target)


def _tensor_wise(weight: Array, move: Function) -> Function:
    codes, scale = quantize.int8_weight(weight)
    exact = torch.from_numpy(codes * scale)
    return lambda x: move(torch.from_numpy(quantize.fake_quantize(x.numpy()))) @ exact


def _row_wise(weight: Array) -> Function:
    codes, scale = quantize.int8_weight(weight)
    exact = torch.from_numpy(codes * scale)

    def multiply(x: Tensor) -> Tensor:
        rows, step = int8rows.rounded_rows(x.numpy())
        return torch.from_numpy(rows) @ exact * torch.from_numpy(step)

    return multiply


def _block_wise(weight: Array, rule: Rule, target: str) -> Function:
    blocks = nbits.quantized(weight, rule.kind, rule.block)
    exact = torch.from_numpy(np.ascontiguousarray(blocks.weight()))
    if target != "cpu":  # dequantized in the graph, then multiplied as floats
        return lambda x: x @ exact
    whole = torch.from_numpy(np.ascontiguousarray(replace(blocks, zero=blocks.rounded.astype(np.float32)).weight()))
    lost = exact - whole  # what the correction beside the kernel adds, from activations that are not rounded
    return lambda x: torch.from_numpy(nbits.rounded_activations(x.numpy(), rule.block)) @ whole + x @ lost
