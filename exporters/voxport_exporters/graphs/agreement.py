"""What a whole stage gives once it is quantized, beside float32, for one made-up call: ids, or numbers."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx_ir as ir

from voxport.graphs.ort import OrtSession
from voxport_exporters.graphs.part import Part
from voxport_exporters.graphs.plan import Plan
from voxport_exporters.graphs.rewrite import rewrite
from voxport_exporters.graphs.store import Store
from voxport_exporters.targets import Target

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


def trial(part: Part, model: ir.Model, plan: Plan, target: Target, folder: Path) -> Agreement:
    """The part's trial with the graph as `plan` would have it, and with the graph as it is; both are thrown away."""
    if part.trial is None or not plan.products:
        return Agreement()
    with TemporaryDirectory(dir=folder) as scratch:
        results = []
        for quantized in (False, True):
            path, other = Path(scratch) / f"{quantized}" / f"{plan.stage}.onnx", model.clone()
            path.parent.mkdir()
            store = Store(other.graph, path.with_suffix(".onnx.data"))
            if quantized:
                rewrite(other, part, plan, target, store)
            store.finish()
            path.write_bytes(ir.to_proto(other).SerializeToString())
            results.append(part.trial(OrtSession(path), folder))
    return Agreement(output_db=decibels(*results))


def _outputs(session: OrtSession, call: Mapping[str, Array]) -> dict[str, Array]:
    return session(session.start(), into=None, **call)[0]


def decibels(exact: Array, other: Array) -> float:
    """Signal-to-noise ratio of `other`, in dB. What all of `exact` has in common, a log-mel's floor, is no signal."""
    noise = float(np.mean((exact - other) ** 2))
    return float(10 * np.log10(max(float(exact.var()), 1e-30) / max(noise, 1e-30)))
