"""The torch nets behind the runtime's own interface, so that one driver runs nets and graphs alike."""

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from voxport.bundle import Bundle, Manifest
from voxport.session import Array, Session, State
from voxport_exporters.part import Part
from voxport_exporters.quantize import int8_weight
from voxport_exporters.recipe import Recipe
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
    """A Bundle whose sessions are torch nets; the manifest is that of the exported bundle."""

    def __init__(self, manifest: Manifest, parts: Iterable[Part]) -> None:
        self.path, self.manifest = Path("torch"), manifest
        self._parts = {part.stage.name: TorchSession(part) for part in parts}

    def session(self, stage: str, threads: int = 1) -> Session:
        return self._parts[stage]


def quantized(parts: Iterable[Part], recipe: Recipe) -> list[Part]:
    """The same nets with the recipe's arithmetic done in float: weights and activations rounded, then multiplied.

    Every module `m` whose `m.weight` [inputs, outputs] the recipe quantizes gets the dequantized weight, and its
    input is rounded as DynamicQuantizeLinear would.
    """
    parts = list(parts)
    for part in parts:
        for name, module in part.net.named_modules():
            weight = getattr(module, "weight", None)
            if not isinstance(weight, nn.Parameter) or weight.dim() != 2 or type(module).__name__ != "Linear":
                continue
            if recipe.kind(part.stage.name, f"{name}.weight") == "int8":
                q, scale = int8_weight(weight.numpy())
                weight.copy_(torch.from_numpy(q * scale))
                module.register_forward_pre_hook(_round_input)
    return parts


def _round_input(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    (x,) = inputs
    low, high = x.min().clamp(max=0), x.max().clamp(min=0)
    scale = (high - low) / 255
    if scale == 0:
        return inputs
    zero = torch.round(-low / scale)
    return ((torch.clamp(torch.round(x / scale) + zero, 0, 255) - zero) * scale,)
