"""Parity of T5Gemma-TTS's positions and choices: on the nets they are upstream's, and a golden may hold any of them."""

from typing import Any

import numpy as np
import pytest
from tests.bundles import FIXTURES, Export
from tests.t5gemma_nets import FIXTURE, Nets, nets

from voxport.bundle import Bundle
from voxport_exporters.systems.t5gemma.checkpoint import open_checkpoint
from voxport_parity.compare import compare
from voxport_parity.systems.t5gemma import sampler
from voxport_parity.systems.t5gemma.utterance import CODES, TEXT, TOTAL
from voxport_parity.trace import Golden

INPUTS = (TEXT, CODES, TOTAL)


@pytest.fixture(scope="module")
def bundle() -> Nets:
    checkpoint = open_checkpoint(FIXTURE)
    return nets(checkpoint.weights, checkpoint.config)


@pytest.fixture(scope="module")
def golden() -> Golden:
    found = Golden.of(FIXTURES / "t5gemma")
    assert found is not None
    return found


def failures(bundle: Bundle, golden: Golden) -> list[str]:
    """The golden's tensors that are missing or out of their bounds; inputs aside."""
    outputs = sampler.trace(bundle, golden)
    owned = [n for n in golden.tensors if sampler.owns(n) and sampler.input_reason(n) is None]
    return [
        name
        for name in owned
        if name not in outputs
        or not compare("", "", "", name, outputs[name], golden.tensors[name], sampler.bound(name)).ok
    ]


def part(golden: Golden, *names: str, **notes: Any) -> Golden:
    """A golden with some of the tensors."""
    return Golden({name: golden.tensors[name] for name in names}, golden.notes | notes, golden.folder)


def test_the_nets_choose_as_upstream_did(bundle: Nets, golden: Golden) -> None:
    assert failures(bundle, golden) == []
    assert len([name for name in golden.tensors if sampler.owns(name)]) == 14


@pytest.mark.parametrize("target", ["cpu", pytest.param("portable", marks=pytest.mark.slow)])
def test_the_graphs_choose_as_upstream_did(t5gemma_bundles: Export, golden: Golden, target: str) -> None:
    assert failures(Bundle(t5gemma_bundles("fp32", target)), golden) == []


@pytest.mark.parametrize(
    "names",
    [
        ("t5.step.position_ids",),
        ("t5.greedy.codes",),
        ("sample.codes", sampler.DRAWS),
        ("sample.probs", "sample.codes"),
        ("silence.tokens", "silence.logits_adj"),
    ],
    ids=lambda names: names[0],
)
def test_a_golden_may_hold_some_of_them(bundle: Nets, golden: Golden, names: tuple[str, ...]) -> None:
    some = part(golden, *INPUTS, *names)
    without_draws = {"sample.codes"} if "sample.probs" in names else set()  # its tokens are fed, and none is drawn
    assert set(failures(bundle, some)) == without_draws
    assert names[0] in sampler.trace(bundle, some)


@pytest.mark.parametrize(
    ("name", "notes", "broken"),
    [
        ("sampled", {"top_p": 0.5}, {"sample.probs"}),
        ("sampled", {"temperature": 1.0}, {"sample.probs"}),
        ("silence_run", {"stop_repetition": 0}, {"silence.logits_adj", "silence.tokens"}),
    ],
)
def test_other_settings_are_other_choices(
    bundle: Nets, golden: Golden, name: str, notes: dict[str, Any], broken: set[str]
) -> None:
    changed = golden.notes["settings"] | {name: golden.notes["settings"][name] | notes}
    assert broken <= set(failures(bundle, part(golden, *golden.tensors, settings=changed)))


def test_where_nothing_says_what_was_read_nothing_is_made(bundle: Nets, golden: Golden) -> None:
    assert sampler.trace(bundle, Golden({}, {}, golden.folder)) == {}


def test_forced_choices_do_not_depend_on_the_ones_before(bundle: Nets, golden: Golden) -> None:
    """A token that is not the model's own changes what follows, but every step still is a choice after upstream's."""
    changed = dict(golden.tensors)
    changed["sample.tokens"] = golden.tensors["sample.tokens"].copy()
    changed["sample.tokens"][5] = 7
    tokens = sampler.trace(bundle, Golden(changed, golden.notes, golden.folder))["sample.tokens"]
    np.testing.assert_array_equal(tokens[:6], golden.tensors["sample.tokens"][:6])
