"""Parameters whose values are read later: a net can be traced, and its graph written, without its weights in memory.

with deferring():
    net = Decoder(weights, config)  # its large parameters are placeholders, made by later()
for parameter in net.parameters():
    built(parameter)                # the values, read one parameter at a time
with reading(net):
    net(*inputs)                    # each module reads its weights when it is called
"""

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor, nn

_deferring: ContextVar[bool] = ContextVar("deferring", default=False)
_shapes_only: ContextVar[bool] = ContextVar("shapes_only", default=False)
_serial = itertools.count(1)


@contextmanager
def deferring() -> Iterator[None]:
    """Within this context `later()` makes placeholders: a net takes no memory and can be traced, but not run."""
    token = _deferring.set(True)
    try:
        yield
    finally:
        _deferring.reset(token)


def shapes_only() -> bool:
    """True while `later()` works out a shape: a tensor of the meta device is then enough, and nothing need be read."""
    return _shapes_only.get()


class Deferred(nn.Parameter):
    """A placeholder of the right shape; `build` reads the values."""

    build: Callable[[], Tensor]
    hollow: Tensor  # one number in memory, repeated by strides


def later(build: Callable[[], Tensor]) -> nn.Parameter:
    """A parameter with the values that `build()` takes from Weights.

    Under `deferring()` only its shape is worked out now (on the meta device: keys are accounted for, nothing is read);
    `built()` runs `build` again when the values are written, one parameter at a time.
    """
    if not _deferring.get():
        return nn.Parameter(build().contiguous(), requires_grad=False)
    token = _shapes_only.set(True)
    try:
        shape = build().shape
    finally:
        _shapes_only.reset(token)
    # Each placeholder holds a number of its own, or the exporter would merge equal weights.
    hollow = torch.full((1,), float(next(_serial))).expand(shape)
    placeholder = Deferred(hollow, requires_grad=False)
    placeholder.build, placeholder.hollow = build, hollow
    return placeholder


@contextmanager
def reading(net: nn.Module) -> Iterator[None]:
    """Within this context a net made under `deferring()` can be run.

    Each module reads its weights when it is called, and lets go of them afterwards.
    """
    hooks = []
    for module in net.modules():
        waiting = [p for p in module.parameters(recurse=False) if isinstance(p, Deferred)]
        if waiting:
            hooks += [
                module.register_forward_pre_hook(lambda _, __, own=waiting: _fill(own)),
                module.register_forward_hook(lambda _, __, ___, own=waiting: _empty(own)),
            ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _fill(parameters: list[Deferred]) -> None:
    for parameter in parameters:
        parameter.data = built(parameter)


def _empty(parameters: list[Deferred]) -> None:
    for parameter in parameters:
        parameter.data = parameter.hollow


def deferred(parameter: Tensor) -> bool:
    """True for a placeholder, whose values only `built()` knows."""
    return isinstance(parameter, Deferred)


def built(parameter: Tensor) -> Tensor:
    """The values of a parameter, read now if it is a placeholder."""
    return parameter.build().contiguous() if isinstance(parameter, Deferred) else parameter.detach()
