"""The torch nets behind the runtime's own interface, so that one driver runs nets and graphs alike."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from voxport.bundle import Bundle
from voxport.session import Array, Session, State
from voxport_exporters import lookup, nbits, quantize
from voxport_exporters.part import Part
from voxport_exporters.recipe import Recipe, Rule
from voxport_exporters.taps import tapped


class TorchSession(Session):
    """A Session that runs a Part's net eagerly; `taps` holds the intermediates of the last call."""

    def __init__(self, part: Part) -> None:
        self.stage, self.threads, self._net = part.stage, 1, part.net.eval()
        self._inputs = {t.name: t for t in self.stage.inputs}
        self.taps: dict[str, Array] = {}

    def __call__(
        self, state: State, *, into: Mapping[str, Array] | None = None, **inputs: Array
    ) -> tuple[dict[str, Array], State]:
        feed = [torch.from_numpy(np.array(a)) for a in (*(inputs[t.name] for t in self.stage.inputs), *state.values())]
        with torch.no_grad(), tapped() as taps:
            results = self._net(*feed)
        self.taps = {name: value.detach().numpy() for name, value in taps.items()}
        results = (results,) if isinstance(results, Tensor) else results
        arrays = [r.detach().numpy() for r in results]
        outputs = dict(zip((t.name for t in self.stage.outputs), arrays, strict=False))
        for name, array in (into or {}).items():
            array[:] = outputs[name]
            outputs[name] = array
        after = state.copy()
        for tensor, array in zip(self.stage.state, arrays[len(self.stage.outputs) :], strict=True):
            after[tensor.name][...] = array
        return outputs, after


class TorchBundle(Bundle):
    """A Bundle whose sessions are torch nets; manifest and files are those of the exported bundle."""

    def __init__(self, exported: Bundle, parts: Iterable[Part]) -> None:
        self.path, self.manifest = exported.path, exported.manifest
        self._parts = {part.stage.name: TorchSession(part) for part in parts}

    def session(self, stage: str, threads: int = 1) -> Session:
        return self._parts[stage]


# ---------------------------------------------------------------------------------------------------- quantized


def quantized(parts: Iterable[Part], recipe: Recipe, target: str) -> list[Part]:
    """The same nets with the arithmetic of the quantized graphs done in float32.

    Weights and tables are what their codes stand for, and activations are rounded where the kernels round them.
    """
    return [replace(part, net=_Quantized(part, recipe, target)) for part in parts]


class _Quantized(nn.Module):
    def __init__(self, part: Part, recipe: Recipe, target: str) -> None:
        super().__init__()
        self.net, self._mode = part.net, _Rounding(part, recipe, target)

    def forward(self, *feed: Tensor) -> Any:
        with self._mode:
            return self.net(*feed)


class _Rounding(TorchFunctionMode):
    """Within: a product with a weight, or a look-up in a table, that the recipe names is done as its kernel does it.

    The recipe rewrites the MatMuls and Gathers of the graph, so it is these that are caught here, whoever calls them.
    """

    def __init__(self, part: Part, recipe: Recipe, target: str) -> None:
        super().__init__()
        rules = {id(p): recipe.of(part.stage.name, name) for name, p in part.net.named_parameters() if p.dim() == 2}
        self._rules = {key: rule for key, rule in rules.items() if rule.kind != "fp32"}
        self._target = target
        self._made: dict[int, Callable[[Tensor], Tensor]] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (Tensor.__matmul__, Tensor.matmul, torch.matmul) and id(args[1]) in self._rules:
            return self._product(args[1])(args[0])
        if func is F.embedding and id(args[1]) in self._rules:
            return self._product(args[1])(args[0])
        return func(*args, **(kwargs or {}))

    def _product(self, weight: nn.Parameter) -> Callable[[Tensor], Tensor]:
        if id(weight) not in self._made:
            rule, values = self._rules[id(weight)], weight.detach().numpy()
            if rule.kind in lookup.ROWS:
                table = torch.from_numpy(lookup.rounded_rows(values, rule.kind))
                self._made[id(weight)] = lambda ids: F.embedding(ids, table)
            else:
                self._made[id(weight)] = _tensor_wise(values) if rule.kind == "int8" else self._block_wise(values, rule)
        return self._made[id(weight)]

    def _block_wise(self, values: np.ndarray, rule: Rule) -> Callable[[Tensor], Tensor]:
        blocks = nbits.quantized(values, rule.kind, rule.block)
        exact = torch.from_numpy(np.ascontiguousarray(blocks.weight()))
        if self._target != "cpu":  # dequantized in the graph, then multiplied as floats
            return lambda x: x @ exact
        whole = torch.from_numpy(np.ascontiguousarray(replace(blocks, zero=blocks.rounded.astype(np.float32)).weight()))
        lost = exact - whole  # what the correction beside the kernel adds, from activations that are not rounded
        return lambda x: _rounded_blocks(x, rule.block) @ whole + x @ lost


def _tensor_wise(values: np.ndarray) -> Callable[[Tensor], Tensor]:
    codes, scale = quantize.int8_weight(values)
    weight = torch.from_numpy(codes * scale)
    return lambda x: torch.from_numpy(quantize.fake_quantize(x.numpy())) @ weight


def _rounded_blocks(x: Tensor, block: int) -> Tensor:
    flat = x.reshape(-1, x.shape[-1]).numpy()
    return torch.from_numpy(nbits.rounded_activations(flat, block)).reshape(x.shape)
