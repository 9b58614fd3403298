"""Fun-CosyVoice3's language model against upstream's goldens: nets, graphs of both targets, quantized graphs."""

from collections.abc import Callable

import pytest
from tests.cosyvoice3_lm import ROOT, Alone, fixture, of_parts
from tests.parity.goldens import wrong

from voxport import bounds
from voxport.recipe import Recipe
from voxport_exporters.checkpoints.weights import Weights
from voxport_exporters.systems.cosyvoice3.config import read_config
from voxport_exporters.systems.cosyvoice3.llm import LLM_RULES, parts
from voxport_parity.compare import Diff, compare, nearness
from voxport_parity.rounding import built, rounding
from voxport_parity.systems.cosyvoice3 import lm
from voxport_parity.trace import Golden

NEEDED = ("frontend.text_ids", "frontend.prompt_text_ids", "frontend.prompt_token")
TAPPED = {"llm.prefill_hidden", "llm.step1_hidden"}  # graphs hide their layers

Models = Callable[[str, str], Alone]


@pytest.fixture(scope="module")
def golden() -> Golden:
    golden = Golden.of(ROOT)
    assert golden is not None
    ours = ("llm.", "sampler.", *NEEDED)
    return Golden({n: a for n, a in golden.tensors.items() if n.startswith(ours)}, golden.notes, golden.folder)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    """(recipe, target) -> the fixture's language model, made on first use."""
    known: dict[tuple[str, str], Alone] = {}

    def find(recipe: str, target: str) -> Alone:
        if (recipe, target) not in known:
            known[recipe, target] = fixture(tmp_path_factory.mktemp(f"{recipe}-{target}"), recipe, target)
        return known[recipe, target]

    return find


def compared(model: Alone, golden: Golden) -> list[Diff]:
    """Every tensor of the golden that the model makes."""
    trace = lm.trace(model, golden)
    tensors = {name: array for name, array in golden.tensors.items() if name in trace}
    return [compare("", lm.stage(n), "", n, trace[n], array, lm.bound(n)) for n, array in tensors.items()]


@pytest.mark.parametrize("target", ["torch", "cpu", "portable"])
def test_every_golden_is_produced_and_within_its_bound(golden: Golden, models: Models, target: str) -> None:
    diffs = compared(models("fp32", target), golden)
    assert wrong(diffs) == []
    names = {diff.tensor for diff in diffs}
    missing = {n for n in golden.tensors if n not in names and lm.input_reason(n) is None and n not in NEEDED}
    assert missing == (set() if target == "torch" else TAPPED)


@pytest.mark.parametrize("name", ["llm.", "sampler.", "frontend."])
@pytest.mark.parametrize("inside", [True, False], ids=["only", "without"])
def test_any_part_of_the_golden_is_compared(golden: Golden, models: Models, name: str, inside: bool) -> None:
    """Without the front end's ids, those in the embeddings and in the notes take their place."""
    tensors = {n: a for n, a in golden.tensors.items() if n.startswith(name) is inside}
    part = Golden(tensors, golden.notes, golden.folder)
    diffs = compared(models("fp32", "cpu"), part)
    assert wrong(diffs) == []
    names = {diff.tensor for diff in diffs}
    assert ("llm.greedy_tokens" in names) is ("llm.greedy_tokens" in tensors)
    assert ("sampler.pick" in names) is ("sampler.pick" in tensors)


@pytest.mark.parametrize("name", ["llm.greedy_tokens", "llm.ras_tokens", "llm.ras_draw_q", "llm.lm_input"])
def test_a_golden_may_lack_any_tensor(golden: Golden, models: Models, name: str) -> None:
    tensors = {n: a for n, a in golden.tensors.items() if n != name}
    diffs = compared(models("fp32", "cpu"), Golden(tensors, golden.notes, golden.folder))
    assert wrong(diffs) == []
    assert len(diffs) > 15


def test_the_names_of_other_runs_mean_nothing(golden: Golden, models: Models) -> None:
    renamed = {n.replace("instruct2", "whisper"): a for n, a in golden.tensors.items() if "instruct2" in n}
    other = Golden(renamed, golden.notes, golden.folder)
    diffs = compared(models("fp32", "cpu"), other)
    assert wrong(diffs) == []
    assert {diff.tensor for diff in diffs} == {"llm.whisper_lm_input", "llm.whisper_tokens"}


@pytest.mark.parametrize(
    ("tensor", "index"),
    [
        ("llm.greedy_logp", (3, 7)),
        ("llm.bistream_step_lens", (8,)),
        ("llm.ras_draw_pick", (2,)),
        ("sampler.pick", (0,)),
    ],
)
def test_a_golden_that_says_something_else_is_found(
    golden: Golden, models: Models, tensor: str, index: int | tuple[int, int]
) -> None:
    array = golden.tensors[tensor].copy()
    array[index] += 1
    other = Golden({**golden.tensors, tensor: array}, golden.notes, golden.folder)
    diffs = compared(models("fp32", "cpu"), other)
    assert [diff.tensor for diff in diffs if not diff.ok] == [tensor]


@pytest.mark.parametrize("target", ["cpu", pytest.param("portable", marks=pytest.mark.slow)])
@pytest.mark.parametrize("recipe", ["mixed", "int8", pytest.param("hqq4", marks=pytest.mark.slow)])
def test_a_quantized_graph_is_the_net_that_rounds_as_it_does(
    golden: Golden, models: Models, recipe: str, target: str
) -> None:
    graph, config = models(recipe, target), read_config(ROOT)
    rules = Recipe(recipe, LLM_RULES[recipe])
    plain = built(parts(Weights.open(ROOT / "llm.pt"), config), rules)
    rounding_nets = of_parts(rounding(plain, rules, graph), config, graph.path)
    got, expected, fp32 = (lm.trace(model, golden) for model in (graph, rounding_nets, models("fp32", "torch")))
    names = [name for name in got if name in expected and lm.rounded(name) is not None]
    diffs = [compare("", "", "quantized", n, got[n], expected[n], lm.rounded(n)) for n in names]
    assert wrong(diffs) == []
    assert {"llm.greedy_logp", "llm.ras_logp", "llm.lm_input", "sampler.pick"} <= {*names}
    assert nearness(got["llm.greedy_logp"], expected["llm.greedy_logp"], fp32["llm.greedy_logp"]) <= bounds.NEARER


def test_a_checkpoint_without_goldens_is_compared_too(models: Models) -> None:
    nets, graph = models("fp32", "torch"), models("fp32", "cpu")
    invented = Golden(lm.inputs(nets), {}, None)
    got, expected = (lm.trace(model, invented) for model in (graph, nets))
    diffs = [compare("", "", "graph", n, got[n], expected[n], lm.bound(n)) for n in got if n in expected]
    assert wrong(diffs) == []
    assert "llm.greedy_logp" in {diff.tensor for diff in diffs}
