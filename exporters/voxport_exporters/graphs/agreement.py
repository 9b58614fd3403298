"""What a whole stage gives once it is quantized, beside float32, for one made-up call: ids, or numbers."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from voxport.graphs.ort import OrtSession

Array = np.ndarray

# A stage below these is warned about, or kept in fp32 by `--gate`.
LEAST_DB = 20.0
LEAST_EQUAL = 0.9


@dataclass(frozen=True)
class Agreement:
    """`output_db`: signal-to-noise ratio of the outputs; `equal_ids`: the share of whole numbers that stayed."""

    output_db: float | None = None
    equal_ids: float | None = None

    @property
    def failures(self) -> tuple[str, ...]:
        """One sentence for each figure that is below its limit."""
        failures = []
        if self.output_db is not None and self.output_db < LEAST_DB:
            failures.append(f"its outputs keep {self.output_db:.1f} dB of {LEAST_DB:.0f}")
        if self.equal_ids is not None and self.equal_ids < LEAST_EQUAL:
            failures.append(f"{self.equal_ids:.0%} of its ids stay, wanted {LEAST_EQUAL:.0%}")
        return tuple(failures)


def agreement(exact: OrtSession, quantized: OrtSession, call: Mapping[str, Array]) -> Agreement:
    """Both graphs computed for the same inputs; neither has a state."""
    outputs, others = (_outputs(session, call) for session in (exact, quantized))
    ids = [name for name, array in outputs.items() if np.issubdtype(array.dtype, np.integer)]
    equal = [float((outputs[name] == others[name]).mean()) for name in ids]
    numbers = [decibels(outputs[name], others[name]) for name in outputs.keys() - set(ids)]
    return Agreement(min(numbers, default=None), min(equal, default=None))


def _outputs(session: OrtSession, call: Mapping[str, Array]) -> dict[str, Array]:
    return session(session.start(), into=None, **call)[0]


def decibels(exact: Array, other: Array) -> float:
    """Signal-to-noise ratio of `other`, in dB."""
    noise = float(np.mean((exact - other) ** 2))
    return float(10 * np.log10(np.mean(exact**2) / max(noise, 1e-30)))
