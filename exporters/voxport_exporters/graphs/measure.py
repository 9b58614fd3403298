"""Measures what a plan costs and gains: the error of every quantized product, the speed of the most expensive one."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
import onnxruntime as ort

from voxport.recipe import Rule
from voxport_exporters.graphs import int8, int8rows, nbits
from voxport_exporters.graphs.plan import Plan
from voxport_exporters.graphs.rewrite import rewrite_products
from voxport_exporters.graphs.store import Array, Store
from voxport_exporters.targets import IR_VERSION, OPSET, Target

# Products below these are warned about, or kept in fp32 by `--gate`.
LEAST_DB = {"int8": 30.0, "int8r": 30.0, "int8b": 30.0, "int4": 15.0, "hqq4": 15.0}
LEAST_SPEED_UP = 1.05
RUNS, WARM_UP = 40, 10


@dataclass(frozen=True)
class Measurement:
    """Both figures are None where nothing is quantized."""

    error_db: float | None = None  # of the product that is nearest to its limit, or furthest below
    speed_up: float | None = None  # of the most expensive product
    failures: tuple[str, ...] = ()  # one sentence for each figure that is below its limit


def measure(plan: Plan, target: Target, store: Store) -> Measurement:
    """Reads the weights of the plan's products one at a time."""
    if not plan.products:
        return Measurement()
    errors = ((error_db(store.read(s.weight), s.rule), s.weight, LEAST_DB[s.rule.kind]) for s in plan.products)
    error, worst, least = min(errors, key=lambda e: e[0] - e[2])
    largest = max(plan.products, key=lambda step: step.flops)
    speed = speed_up(largest.shape, largest.rows, largest.rule, target)
    failures = [f"{worst} keeps {error:.1f} dB of {least:.0f}"] if error < least else []
    failures += [f"{largest.weight} runs x{speed:.2f} of fp32"] if speed < LEAST_SPEED_UP else []
    return Measurement(error, speed, tuple(failures))


def error_db(weight: Array, rule: Rule) -> float:
    """Signal-to-noise ratio in dB of a product with weight float32 [inputs, outputs], on a few rows of noise."""
    match rule.kind:
        case "int8":
            return int8.error_db(weight)
        case "int8r":
            return int8rows.error_db(weight)
        case _:
            return nbits.error_db(weight, rule.kind, rule.block)


def speed_up(shape: tuple[int, int], rows: int, rule: Rule, target: Target) -> float:
    """How many times faster a product of `rows` rows with a weight of `shape` is once it is quantized by `rule`.

    Both are timed here, interleaved, on one thread; medians.
    """
    single, fast = _single(shape, rows), _single(shape, rows)
    rewrite_products(fast, {"w": rule}, target, Store(fast.graph))
    x = np.random.default_rng(1).standard_normal((rows, shape[0]), np.float32)
    runs = [_runner(model, x) for model in (single, fast)]
    times: list[list[float]] = [[], []]
    for _ in range(RUNS):
        for run, seconds in zip(runs, times, strict=True):
            start = time.perf_counter()
            run()
            seconds.append(time.perf_counter() - start)
    slow, quick = (float(np.median(seconds[WARM_UP:])) for seconds in times)
    return slow / quick


def _single(shape: tuple[int, int], rows: int) -> ir.Model:
    """The graph y = x w."""
    weight = ir.tensor(np.random.default_rng(2).standard_normal(shape, np.float32), name="w")
    x, w = ir.val("x", ir.DataType.FLOAT, (rows, shape[0])), ir.val("w", const_value=weight)
    y = ir.val("y", ir.DataType.FLOAT, (rows, shape[1]))
    nodes = [ir.node("MatMul", [x, w], outputs=[y])]
    graph = ir.Graph([x], [y], nodes=nodes, initializers=[w], opset_imports={"": OPSET}, name="layer")
    return ir.Model(graph, ir_version=IR_VERSION)


def _runner(model: ir.Model, x: Array) -> Callable[[], object]:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    graph = ir.to_proto(model).SerializeToString()
    session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, {"x": x})
