"""Which weights of a bundle are stored at which precision: the exporter applies it, the manifest records it."""

import fnmatch
from typing import Literal

import msgspec

Kind = Literal["fp32", "fp16", "int8", "int8r", "int8b", "int4", "hqq4", "int8row", "fp16row", "int8cache", "fp16cache"]

BLOCKWISE = ("int8b", "int4", "hqq4")  # kinds that have a scale per block of inputs
BLOCKS = (16, 32, 64, 128, 256)  # that onnxruntime's kernel takes


class Rule(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Weights of `stage` whose name matches `weights` (patterns as in file names) become `kind`."""

    kind: Kind
    stage: str = "*"
    weights: str = "*"
    block: int = 128  # inputs that share a scale: int8b, int4, hqq4

    def __post_init__(self) -> None:
        if self.block not in BLOCKS:
            raise ValueError(f"block {self.block}: wanted one of {', '.join(map(str, BLOCKS))}")

    def names(self, stage: str) -> bool:
        return fnmatch.fnmatch(stage, self.stage)

    def matches(self, stage: str, weight: str) -> bool:
        return self.names(stage) and fnmatch.fnmatch(weight, self.weights)


class Recipe(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Rules in order; of those that match a weight the last one counts. No match: fp32.

    int8: weights per output channel, symmetric; activations per tensor, measured at run time.
    int8r: the same, but activations per row: for products whose rows differ much in size, a transformer's for instance.
    int8b, int4, hqq4: weights per block of inputs, with zero points; rounded to nearest, or by `hqq`.
    fp16: stored in two bytes, computed in float32: for stages whose graph is a released file. There int8 and int8r are
    known beside it, the other kinds are not.
    int8row, fp16row: a table whose rows are looked up, as int8 with one scale per row or as fp16. The other kinds leave
    such tables alone.
    int8cache, fp16cache: for the states `keys.*` and `values.*` of an attention; again their own kinds only.
    """

    name: str
    rule: list[Rule] = []

    def of(self, stage: str, weight: str) -> Rule:
        """The rule that counts for this weight."""
        return [Rule("fp32"), *(rule for rule in self.rule if rule.matches(stage, weight))][-1]

    def kind(self, stage: str, weight: str) -> Kind:
        return self.of(stage, weight).kind

    def then(self, other: "Recipe") -> "Recipe":
        """This one's rules, then those of `other`, which count where both match."""
        return Recipe(f"{self.name}+{other.name}", [*self.rule, *other.rule])
