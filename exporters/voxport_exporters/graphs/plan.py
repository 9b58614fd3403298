"""Plan: which weight of a stage becomes what, worked out from the recipe and the graph before anything is changed."""

from collections.abc import Mapping
from dataclasses import dataclass

import onnx_ir as ir

from voxport.recipe import Recipe, Rule
from voxport_exporters.graphs import caches, half_caches, halves
from voxport_exporters.graphs.graphfile import GraphFile
from voxport_exporters.graphs.part import Part
from voxport_exporters.graphs.products import Product, products
from voxport_exporters.graphs.tables import ROWS, tables

HALF = "fp16"  # of any weights of a released graph
KINDS = ("int8", "int8r", "int8b", "int4", "hqq4")  # of products
FILE_KINDS = ("int8", "int8r")  # of the products of a released graph


@dataclass(frozen=True)
class Step:
    """What is planned for one weight that MatMuls read."""

    weight: str
    shape: tuple[int, int]  # inputs, outputs
    rule: Rule
    flops: int  # of one MatMul in one step of the schedule
    reads: int  # how many MatMuls read it; a loop that is unrolled has many

    @property
    def rows(self) -> int:
        """Rows of activations that one MatMul takes."""
        inputs, outputs = self.shape
        return max(1, self.flops // (2 * inputs * outputs))


@dataclass(frozen=True)
class Plan:
    """The quantized weights of one stage; whatever is not named stays float32."""

    stage: str
    products: tuple[Step, ...]
    tables: Mapping[str, str]  # name -> one of ROWS
    caches: tuple[str, ...]  # states in 8 bits
    flops: int  # of one step of the stage, whatever its precision
    names: Mapping[str, frozenset[str]]  # kind of rule -> the weights or states of the stage that it could name
    halves: tuple[str, ...] = ()  # weights stored in two bytes
    half_caches: tuple[str, ...] = ()  # inputs and states in two bytes

    @property
    def rules(self) -> dict[str, Rule]:
        """Of every quantized product, by weight."""
        return {step.weight: step.rule for step in self.products}

    @property
    def int8_ops(self) -> int:
        """Operations that quantized products take over."""
        return sum(step.flops * step.reads for step in self.products)

    def int8_ops_of(self, flops: Mapping[str, int]) -> int:
        """As `int8_ops`, of a call whose operations are `flops` by module name (Part.flops)."""
        return sum(_module(step.weight, flops) for step in self.products)

    def matches(self, rule: Rule) -> bool:
        """Whether the rule names any weight of this stage that it can apply to."""
        return any(rule.matches(self.stage, name) for name in self.names.get(rule.kind, ()))

    @property
    def kinds(self) -> list[str]:
        """Of the products, and of the weights in two bytes."""
        return sorted({rule.kind for rule in self.rules.values()} | ({HALF} if self.halves else set()))


def plan(model: ir.Model, part: Part, recipe: Recipe) -> Plan:
    """What `recipe` makes of the weights of this graph."""
    stage, graph = part.stage.name, model.graph
    found = list(products(graph))
    flops = part.flops()
    looked_up, cached = tables(graph), caches.of(graph, part.stage)
    steps = [_step(weight, found, flops, recipe.of(stage, weight)) for weight in dict.fromkeys(p.name for p in found)]
    return Plan(
        stage,
        tuple(step for step in steps if step.rule.kind in KINDS),
        {name: recipe.kind(stage, name) for name in looked_up if recipe.kind(stage, name) in ROWS},
        tuple(name for name in cached if recipe.kind(stage, name) == caches.KIND),
        flops[""],
        _names(graph, part, frozenset(p.name for p in found), frozenset(looked_up)),
        half_caches=tuple(n for n in half_caches.of(graph, part.stage) if recipe.kind(stage, n) == half_caches.KIND),
    )


def plan_file(model: ir.Model, file: GraphFile, recipe: Recipe) -> Plan:
    """What `recipe` makes of the weights of a released graph; its look-ups and states are left as they are."""
    stage, graph = file.stage.name, model.graph
    found = list(products(graph))
    steps = []
    for weight in dict.fromkeys(product.name for product in found):
        readers = [product for product in found if product.name == weight]
        inputs, outputs = readers[0].shape
        flops = 2 * file.rows * inputs * outputs
        steps.append(Step(weight, (inputs, outputs), recipe.of(stage, weight), flops, len(readers)))
    weights = frozenset(name for name, value in graph.initializers.items() if halves.is_weight(value))
    return Plan(
        stage,
        tuple(step for step in steps if step.rule.kind in FILE_KINDS),
        tables={},
        caches=(),
        flops=0,
        names={"fp32": weights, HALF: weights, **dict.fromkeys(FILE_KINDS, frozenset(step.weight for step in steps))},
        halves=tuple(sorted(name for name in weights if recipe.kind(stage, name) == HALF)),
    )


def _step(weight: str, found: list[Product], flops: Mapping[str, int], rule: Rule) -> Step:
    readers = [product for product in found if product.name == weight]
    return Step(weight, readers[0].shape, rule, _module(weight, flops) // len(readers), len(readers))


def _module(weight: str, flops: Mapping[str, int]) -> int:
    """Of all calls of the module that holds the weight."""
    return flops.get(weight.rpartition(".")[0], 0)


def _names(
    graph: ir.Graph, part: Part, multiplied: frozenset[str], looked_up: frozenset[str]
) -> dict[str, frozenset[str]]:
    """For every kind of rule, what it could name here. A state counts where the target keeps it in float32, too."""
    states = frozenset(t.name for t in part.stage.state)
    return {
        "fp32": frozenset(graph.initializers) | states,
        caches.KIND: states,
        half_caches.KIND: states,
        **dict.fromkeys(ROWS, looked_up),
        **dict.fromkeys(KINDS, multiplied),
    }
