"""The systems whose parity is proved: how the goldens of each are fed. Only this file names them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from voxport.bounds import Bound
from voxport.bundle import Bundle
from voxport.graphs.session import Array
from voxport_parity.trace import Golden, Trace

Pairs = Iterator[tuple[str, Array, Array]]  # name, got, expected


class Feeds(Protocol):
    """Runs a bundle on the inputs of a golden and names what comes out as the golden does.

    A golden may hold any subset of upstream's tensors, and its runs may have any names: which run is which is read from
    the golden's notes (texts, settings, what a tensor means) and from the tensors that are there. What cannot be
    produced from them is left out, and the chain lists it.
    """

    def trace(self, bundle: Bundle, golden: Golden) -> Trace:
        """Everything the bundle's stages can produce of the golden's names, in the golden's layout.

        Raises KeyError or ValueError in one line when the golden lacks an input that a stage cannot do without.
        """
        ...

    def streamed(self, bundle: Bundle, golden: Golden) -> Trace:
        """The audio again, fed in random pieces."""
        ...

    def options(self, golden: Golden) -> Mapping[str, Any]:
        """What an export must be asked for beside the user's options, so that all of the golden can be produced."""
        ...

    def without_golden(self, bundle: Bundle) -> Golden:
        """Inputs for a checkpoint nobody has goldens for; the torch nets' outputs are then the reference."""
        ...

    def live(self, files: Sequence[Path], golden: Golden, trace: Trace) -> Pairs:
        """What upstream's own classes compute of the same inputs; nothing where there are none.

        `files` are those of the checkpoint, `trace` is that of the torch nets. Raises ModuleNotFoundError when
        upstream's package is not installed.
        """
        ...

    def bound(self, name: str) -> Bound:
        """How far a float32 tensor may be off."""
        ...

    def rounded(self, name: str) -> Bound | None:
        """How far a tensor of a quantized graph may be off the net that rounds as it does; None: it is reported."""
        ...

    def stage(self, name: str) -> str:
        """Which stage a tensor belongs to."""
        ...

    def input_reason(self, name: str) -> str | None:
        """Why a golden tensor goes in and has nothing to be compared with; None for all that should come out."""
        ...


def _llvc() -> Feeds:
    from voxport_parity.systems.llvc import feeds

    return feeds


def _vyvo() -> Feeds:
    from voxport_parity.systems.vyvo import feeds

    return feeds


def _qwen3tts() -> Feeds:
    from voxport_parity.systems.qwen3tts import feeds

    return feeds


def _cosyvoice3() -> Feeds:
    from voxport_parity.systems.cosyvoice3 import feeds

    return feeds


def _t5gemma() -> Feeds:
    from voxport_parity.systems.t5gemma import feeds

    return feeds


SYSTEMS: dict[str, Callable[[], Feeds]] = {
    "llvc": _llvc,
    "vyvo": _vyvo,
    "qwen3tts": _qwen3tts,
    "cosyvoice3": _cosyvoice3,
    "t5gemma": _t5gemma,
}
