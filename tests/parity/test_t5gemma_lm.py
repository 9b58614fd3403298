"""T5Gemma-TTS's language model against upstream's goldens: nets, graphs of both targets, quantized graphs."""

import re
from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec
import pytest
from tests.bundles import FIXTURES
from tests.parity.goldens import wrong

from voxport import bounds
from voxport.bundle import Bundle
from voxport.graphs.ort import OrtSession
from voxport.graphs.session import Session
from voxport.manifest import FORMAT, Manifest, Source
from voxport.recipe import Recipe
from voxport_exporters.checkpoints.later import deferring
from voxport_exporters.codecs.xcodec2 import stages as xcodec2
from voxport_exporters.pack import StageResult, save
from voxport_exporters.systems.t5gemma.checkpoint import open_checkpoint
from voxport_exporters.systems.t5gemma.fidelity import fidelity
from voxport_exporters.systems.t5gemma.job import section
from voxport_exporters.systems.t5gemma.parts import parts
from voxport_exporters.systems.t5gemma.recipes import LM_RULES
from voxport_parity.compare import Diff, compare, nearness
from voxport_parity.products import AS_WRITTEN
from voxport_parity.reference import TorchBundle
from voxport_parity.rounding import built, rounding
from voxport_parity.systems.t5gemma import lm
from voxport_parity.systems.t5gemma.utterance import CODES, TEXT, TOKENS, TOTAL
from voxport_parity.trace import Golden

ROOT = FIXTURES / "t5gemma"
CHECKPOINT = open_checkpoint(ROOT)
TAPPED = re.compile(r"t5\.(enc\.\d+\.out|dec\..*|eager_softcap\..*)")  # graphs hide their layers
INPUTS = (TEXT, CODES, TOTAL, TOKENS)
SLOW = pytest.mark.slow


class Alone(Bundle):
    """A bundle with the language model only. `results`: what became of each graph."""

    def __init__(self, path: Path, target: str = "cpu", results: Iterable[StageResult] = ()) -> None:
        self.path, self.results = path, {result.plan.stage: result for result in results}
        codec = xcodec2.section(xcodec2.read_config(ROOT / "xcodec2" / "config.json"))
        ours, recipe = section(CHECKPOINT.config, codec), Recipe("any")
        self.manifest = Manifest(
            *(FORMAT, "t5gemma", "any", 16000, target, recipe, Source({})),
            *({}, {}, {}, msgspec.to_builtins(ours), CHECKPOINT.config.tokens),
        )
        self._open: dict[str, Session] = {}

    def session(self, stage: str, threads: int = 1) -> Session:
        if stage not in self._open:
            self._open[stage] = OrtSession(self.path / f"{stage}.onnx", threads, AS_WRITTEN)
        return self._open[stage]


def nets(folder: Path) -> TorchBundle:
    return TorchBundle(Alone(folder), parts(CHECKPOINT.weights, CHECKPOINT.config))


def graphs(folder: Path, recipe: str, target: str) -> Alone:
    rules, results = Recipe(recipe, LM_RULES[recipe]), []
    with deferring():
        for part in parts(CHECKPOINT.weights, CHECKPOINT.config):
            results.append(save(part, folder, rules, target))
    return Alone(folder, target, results)


Models = Callable[[str, str], Bundle]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    """(recipe, target) -> the fixture's language model, made on first use; target torch: the nets."""
    known: dict[tuple[str, str], Bundle] = {}

    def find(recipe: str, target: str) -> Bundle:
        if (recipe, target) not in known:
            folder = tmp_path_factory.mktemp(f"{recipe}-{target}")
            known[recipe, target] = nets(folder) if target == "torch" else graphs(folder, recipe, target)
        return known[recipe, target]

    return find


@pytest.fixture(scope="module")
def golden() -> Golden:
    found = Golden.of(ROOT)
    assert found is not None
    ours = {n: a for n, a in found.tensors.items() if lm.owns(n) or n in INPUTS}
    return Golden(ours, found.notes, found.folder)


def compared(model: Bundle, golden: Golden) -> list[Diff]:
    """Every tensor of the golden that the model makes."""
    trace = lm.trace(model, golden)
    return [
        compare("", lm.stage(n), "", n, trace[n], array, lm.bound(n))
        for n, array in golden.tensors.items()
        if n in trace
    ]


@pytest.mark.parametrize("target", ["torch", "cpu", pytest.param("portable", marks=SLOW)])
def test_every_golden_is_produced_and_within_its_bound(golden: Golden, models: Models, target: str) -> None:
    diffs = compared(models("fp32", target), golden)
    assert wrong(diffs) == []
    missing = {*golden.tensors} - {diff.tensor for diff in diffs} - {*INPUTS}
    assert missing == (set() if target == "torch" else {n for n in golden.tensors if TAPPED.fullmatch(n)})


@pytest.mark.parametrize("name", ["t5.enc", "t5.kv.cross", "t5.kv.call5", "t5.dec.1", "t5.logits", "t5.eager"])
def test_any_part_of_the_golden_is_compared(golden: Golden, models: Models, name: str) -> None:
    part = {n: a for n, a in golden.tensors.items() if n.startswith(name) or n in INPUTS}
    diffs = compared(models("fp32", "torch"), Golden(part, golden.notes, golden.folder))
    assert wrong(diffs) == []
    assert {diff.tensor for diff in diffs} == part.keys() - {*INPUTS}


@pytest.mark.parametrize(
    "index", [("t5.enc.1.out", (0, 3, 7)), ("t5.kv.cross.2.v", (0, 1, 30, 15)), ("t5.logits", (31, 0))]
)
def test_a_golden_that_says_something_else_is_found(
    golden: Golden, models: Models, index: tuple[str, tuple[int, ...]]
) -> None:
    name, place = index
    array = golden.tensors[name].copy()
    array[place] += 0.01
    diffs = compared(models("fp32", "torch"), Golden({**golden.tensors, name: array}, golden.notes, golden.folder))
    assert [diff.tensor for diff in diffs if not diff.ok] == [name]


CASES = [("int4", "cpu"), *(pytest.param(r, "cpu", marks=SLOW) for r in ("mixed", "int8", "hqq4", "encoder-int4"))]
CASES += [pytest.param(recipe, "portable", marks=SLOW) for recipe in ("int4", "mixed")]


@pytest.mark.parametrize(("recipe", "target"), CASES)
def test_a_quantized_graph_is_the_net_that_rounds_as_it_does(
    golden: Golden, models: Models, recipe: str, target: str
) -> None:
    graph, rules = models(recipe, target), Recipe(recipe, LM_RULES[recipe])
    plain = built(parts(CHECKPOINT.weights, CHECKPOINT.config), rules)
    rounding_nets = TorchBundle(graph, rounding(plain, rules, graph))
    got, expected, fp32 = (lm.trace(model, golden) for model in (graph, rounding_nets, models("fp32", "torch")))
    names = [name for name in got if name in expected]
    diffs = [compare("", "", "quantized", n, got[n], expected[n], lm.rounded(n)) for n in names]
    assert wrong(diffs) == []
    assert nearness(got["t5.logits"], expected["t5.logits"], fp32["t5.logits"]) <= bounds.NEARER


@pytest.mark.parametrize("recipe", ["int4", *(pytest.param(r, marks=SLOW) for r in ("mixed", "int8", "hqq4"))])
def test_every_rule_of_a_recipe_applies(models: Models, recipe: str) -> None:
    model = models(recipe, "cpu")
    assert isinstance(model, Alone)
    for rule in LM_RULES[recipe]:
        assert any(result.plan.matches(rule) for result in model.results.values()), rule
    decoder = model.results["decoder"].plan
    assert len(decoder.rules) == 2 + 3 * 6  # of each layer: query-key-value, out, query, out, gate-up, down
    assert model.results["text_embed"].plan.tables == {"table": "int8row"}
    assert {t.dtype for t in model.session("decoder").stage.state} == {"int8"}


def test_what_quantization_did_is_measured(models: Models) -> None:
    """Of float32 graphs nothing; of 4 bits what such small layers lose."""
    with deferring():
        exact = {part.stage.name: part for part in parts(CHECKPOINT.weights, CHECKPOINT.config)}
    same, other = (fidelity(exact, models(recipe, "cpu").path, CHECKPOINT.config) for recipe in ("fp32", "int4"))
    assert same.top1 == 1
    assert same.snr_db > 90
    assert same.kl < 1e-6
    assert 0 < other.snr_db < 20
    assert other.kl > 0.01


def test_a_checkpoint_without_goldens_is_compared_too(models: Models) -> None:
    invented = Golden(lm.inputs(models("fp32", "torch")), {}, None)
    got, expected = (lm.trace(models("fp32", target), invented) for target in ("cpu", "torch"))
    names = [name for name in got if name in expected]
    assert wrong([compare("", "", "graph", n, got[n], expected[n], lm.bound(n)) for n in names]) == []
    assert {"t5.logits", "t5.enc.out", "t5.kv.call0.self.0.k"} <= {*names}
