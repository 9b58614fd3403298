"""Part: a stage with the net that computes it."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import onnx_ir as ir
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from voxport.graphs.session import Array, Session
from voxport.graphs.stage import Stage
from voxport.recipe import Recipe

# What a short made-up request gives: with a session of the stage, and the folder where the stages before it lie.
Trial = Callable[[Session, Path], Array]


@dataclass(frozen=True)
class Part:
    """`net(*inputs, *state)` returns `(*outputs, *next state)`, in the order `stage` declares."""

    stage: Stage
    net: nn.Module
    axes: Mapping[str, int]  # sizes of the free axes in one step of the schedule
    build: Callable[[str], ir.Model] | None = None  # target -> graph, where tracing the whole net takes too long
    sample: Callable[[], tuple[Tensor, ...]] | None = None  # the inputs of one long call, as in use
    rebuild: Callable[[frozenset[str]], nn.Module] | None = None  # names of int8 weights -> the net, see for_recipe()
    trial: Trial | None = None  # by which a quantized graph is judged beside the exact one
    streamed: Callable[[Session], float] | None = None  # dB that a stream keeps, where streaming is not exact

    def for_recipe(self, recipe: Recipe) -> "Part":
        """This part with its net built for `recipe`.

        A net that computes its convolutions in either of two ways, by weights of the same names, is built again where
        the recipe makes some of them int8 or int8r, and then computes these with MatMuls from the start. Others stay.
        """
        if self.rebuild is None:
            return self
        names = (name for name, parameter in self.net.named_parameters() if parameter.dim() > 1)
        int8 = frozenset(name for name in names if recipe.kind(self.stage.name, name) in ("int8", "int8r"))
        return replace(self, net=self.rebuild(int8)) if int8 else self

    def feed(self, least: int = 1) -> list[Tensor]:
        """Zeros for every input and state in declared order; free axes of one step, but no shorter than `least`."""
        axes = {name: max(least, size) for name, size in self.axes.items()}
        return [torch.zeros(t.sized(axes), dtype=getattr(torch, t.dtype)) for t in self.stage.feeds]

    def flops(self) -> dict[str, int]:
        """Floating-point operations of one step by module name; the whole net is `""`.

        Counted from shapes alone, or, where a shape depends on a value, by running the net.
        """
        try:
            return self._count(FakeTensorMode(allow_non_fake_inputs=True))
        except DataDependentOutputException:
            return self._count(nullcontext())

    def _count(self, mode: AbstractContextManager[object]) -> dict[str, int]:
        counter = FlopCounterMode(display=False)
        with torch.no_grad(), mode, counter:
            self.net(*self.feed())
        root = type(self.net).__name__
        counts = {name: sum(ops.values()) for name, ops in counter.get_flop_counts().items()}
        return {"": counts.get("Global", 0)} | {
            n.removeprefix(f"{root}."): c for n, c in counts.items() if n.startswith(f"{root}.")
        }


@dataclass(frozen=True)
class Parts:
    """The parts of a checkpoint, built anew in every pass over them: only those in use take memory."""

    build: Callable[[], Iterator[Part]]

    def __iter__(self) -> Iterator[Part]:
        return self.build()
