"""Changes a traced graph into the planned one: products, tables, caches."""

from collections.abc import Mapping

import onnx_ir as ir

from voxport.graphs.stage import Stage
from voxport.recipe import Rule
from voxport_exporters.graphs import caches, half_caches, nbits, tables
from voxport_exporters.graphs.int8 import int8
from voxport_exporters.graphs.int8rows import int8_rows
from voxport_exporters.graphs.part import Part
from voxport_exporters.graphs.plan import Plan
from voxport_exporters.graphs.store import Store
from voxport_exporters.targets import Target


def rewrite(model: ir.Model, part: Part, plan: Plan, target: Target, store: Store) -> Stage:
    """Quantizes, in place, what `plan` names; returns the stage as the graph declares it then."""
    rewrite_products(model, plan.rules, target, store)
    tables.rows(model, plan.tables, store)
    stage = half_caches.fp16(model, part.stage, plan.half_caches)
    if not plan.caches:
        return stage
    return caches.int8(model, stage, caches.scales(part, plan.caches), store)


def rewrite_products(model: ir.Model, rules: Mapping[str, Rule], target: Target, store: Store) -> None:
    """Quantizes, in place, the MatMuls that read the weights `rules` names."""
    whole = {weight for weight, rule in rules.items() if rule.kind == "int8"}
    rows = {weight for weight, rule in rules.items() if rule.kind == "int8r"}
    if whole:
        int8(model, whole, target, store)
    if rows:
        int8_rows(model, rows, target, store)
    blocks = {weight: (rule.kind, rule.block) for weight, rule in rules.items() if weight not in whole | rows}
    if blocks:
        nbits.blocks(model, blocks, target, store)
