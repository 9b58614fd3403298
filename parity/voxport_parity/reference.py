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
from voxport.graphs.session import Array, Session, State
from voxport.graphs.stage import Stage
from voxport.recipe import Recipe, Rule
from voxport_exporters.graphs import caches, nbits
from voxport_exporters.graphs import int8 as quantize
from voxport_exporters.graphs import tables as lookup
from voxport_exporters.graphs.part import Part
from voxport_exporters.nets.taps import tapped


class TorchState(dict[str, Array]):
    """A State of a TorchSession: its arrays, and the constants that calls leave out."""

    def __init__(self, stage: Stage, arrays: Mapping[str, Array], constants: Mapping[str, Array]) -> None:
        super().__init__(arrays)
        self.stage, self.constants = stage, constants

    def copy(self) -> "TorchState":
        """See `State.copy`."""
        return TorchState(self.stage, {name: array.copy() for name, array in self.items()}, self.constants)

    def row(self, index: int, *, fresh: bool = False) -> "TorchState":
        """See `State.row`. Every tensor is a copy, which `put` brings back."""
        by_row = {t.name for t in self.stage.inputs if t.shape[:1] == ("batch",)}
        constants = {n: a[index : index + 1] if n in by_row else a for n, a in self.constants.items()}
        arrays = {t.name: self[t.name][index : index + 1].copy() for t in self.stage.state}
        for tensor in self.stage.state:
            if fresh and not tensor.shared:
                arrays[tensor.name][...] = 0
        return TorchState(self.stage, arrays, constants)

    def put(self, index: int, row: "TorchState") -> None:
        """See `State.put`."""
        for name, array in self.items():
            array[index] = row[name][0]


class TorchSession:
    """A Session that runs a Part's net eagerly; `taps` holds the intermediates of the last call."""

    def __init__(self, part: Part) -> None:
        self.stage, self.threads, self._net = part.stage, 1, part.net.eval()
        self.taps: dict[str, Array] = {}

    def start(self, constants: Mapping[str, Array] | None = None, /, **axes: int) -> TorchState:
        """See `Session.start`."""
        arrays = {t.name: np.zeros(t.sized(axes), t.dtype) for t in self.stage.state}
        return TorchState(self.stage, arrays, constants or {})

    def __call__(
        self, state: State, *, into: Mapping[str, Array] | None = None, **inputs: Array
    ) -> tuple[dict[str, Array], TorchState]:
        """See `Session`. The state is left as it was."""
        assert isinstance(state, TorchState)
        fed = {**inputs, **state.constants, **state}
        with torch.no_grad(), tapped() as taps:
            results = self._net(*(torch.from_numpy(np.array(fed[t.name])) for t in self.stage.feeds))
        self.taps = {name: value.detach().numpy() for name, value in taps.items()}
        results = (results,) if isinstance(results, Tensor) else results
        arrays = [r.detach().numpy() for r in results]
        outputs = dict(zip((t.name for t in self.stage.outputs), arrays, strict=False))
        for name, array in (into or {}).items():
            array[:] = outputs[name]
            outputs[name] = array
        after = zip(self.stage.state, arrays[len(self.stage.outputs) :], strict=True)
        copies = {t.name: array.copy() for t, array in after}  # the net may return views of what the taps hold
        return outputs, TorchState(self.stage, copies, state.constants)


def taps_of(session: Session) -> dict[str, Array]:
    """The intermediates of a torch net's last call, by name; a graph has none."""
    return session.taps if isinstance(session, TorchSession) else {}


class TorchBundle(Bundle):
    """A Bundle whose sessions are torch nets; manifest and files are those of the exported bundle."""

    def __init__(self, exported: Bundle, parts: Iterable[Part]) -> None:
        self.path, self.manifest = exported.path, exported.manifest
        self._parts = {part.stage.name: TorchSession(part) for part in parts}

    def session(self, stage: str, threads: int = 1) -> Session:
        return self._parts[stage]


# ---------------------------------------------------------------------------------------------------- quantized


def quantized(parts: Iterable[Part], recipe: Recipe, bundle: Bundle) -> list[Part]:
    """The same nets with the arithmetic of the quantized graphs, those of `bundle`, done in float32.

    Weights and tables are what their codes stand for; activations and caches are rounded where the kernels round them.
    """

    built = (part.for_recipe(recipe) for part in parts)
    return [replace(part, net=Quantized(part, recipe, bundle)) for part in built]


class Quantized(nn.Module):
    """`net`, inside `rounding`: there a product with one of its weights is that of the kernel."""

    def __init__(self, part: Part, recipe: Recipe, bundle: Bundle) -> None:
        super().__init__()
        self.net, self.rounding = part.net, _Rounding(part, recipe, bundle.manifest.target)
        eight = [t.name for t in bundle.session(part.stage.name).stage.state if t.dtype == "int8"]
        scales = caches.scales(part, eight) if eight else {}
        self._scales = [scales.get(t.name) for t in part.stage.feeds]

    def forward(self, *feed: Tensor) -> Any:
        self.rounding.caches = {id(x): scale for x, scale in zip(feed, self._scales, strict=True) if scale is not None}
        with self.rounding:
            return self.net(*feed)


class _Rounding(TorchFunctionMode):
    """Within: a product with a weight, or a look-up in a table, that the recipe names is done as its kernel does it.

    The recipe rewrites the MatMuls and Gathers of the graph, so it is these that are caught here, whoever calls them;
    and what is written into a cache is rounded as it is there.
    """

    def __init__(self, part: Part, recipe: Recipe, target: str) -> None:
        super().__init__()
        rules = {id(p): recipe.of(part.stage.name, name) for name, p in part.net.named_parameters() if p.dim() == 2}
        self._rules = {key: rule for key, rule in rules.items() if rule.kind != "fp32"}
        self._target = target
        self._made: dict[int, Callable[[Tensor], Tensor]] = {}
        self.caches: dict[int, np.ndarray] = {}  # by the tensor that a call was given: its scale

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (Tensor.__matmul__, Tensor.matmul, torch.matmul) and id(args[1]) in self._rules:
            return self._product(args[1])(args[0])
        if func is F.embedding and id(args[1]) in self._rules:
            return self._product(args[1])(args[0])
        if func is Tensor.scatter and id(args[0]) in self.caches:
            cache, axis, columns, values = args
            return cache.scatter(
                axis, columns, torch.from_numpy(caches.rounded(values.numpy(), self.caches[id(cache)]))
            )
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
        return lambda x: torch.from_numpy(nbits.rounded_activations(x.numpy(), rule.block)) @ whole + x @ lost


def _tensor_wise(values: np.ndarray) -> Callable[[Tensor], Tensor]:
    codes, scale = quantize.int8_weight(values)
    weight = torch.from_numpy(codes * scale)
    return lambda x: torch.from_numpy(quantize.fake_quantize(x.numpy())) @ weight
