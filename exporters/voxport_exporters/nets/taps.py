"""Looking inside a net: `tap("enc.0.out", h)` costs nothing until somebody listens with `tapped()`.

Parity compares taps with upstream's intermediates by name; a trace for export never sees them.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from torch import Tensor

_taps: ContextVar[dict[str, Tensor] | None] = ContextVar("taps", default=None)


@contextmanager
def tapped() -> Iterator[dict[str, Tensor]]:
    """Within: every tap lands in the dict this yields, by name (the last value wins)."""
    taps: dict[str, Tensor] = {}
    token = _taps.set(taps)
    try:
        yield taps
    finally:
        _taps.reset(token)


def listening() -> bool:
    """Whether anybody does: what only a tap needs is computed then."""
    return _taps.get() is not None


def tap(name: str, value: Tensor) -> None:
    taps = _taps.get()
    if taps is not None:
        taps[name] = value
