"""VyvoTTS: goldens under any names and in any part."""

from pathlib import Path
from typing import Any

import pytest
from tests.bundles import Export
from tests.parity.goldens import compared, groups, only, renamed, without, wrong

from voxport.bundle import Bundle
from voxport_parity.systems.vyvo import feeds
from voxport_parity.trace import Golden

RUNS = {"greedy": "aube", "sampled": "brin", "unconstrained": "cime", "clone": "dune", "clone_legacy": "eau"}


@pytest.fixture(scope="module")
def bundle(vyvo_bundles: Export) -> Bundle:
    return Bundle(vyvo_bundles("fp32", "cpu"))


@pytest.fixture(scope="module")
def golden(vyvo_checkpoint: Path) -> Golden:
    golden = Golden.of(vyvo_checkpoint)
    assert golden is not None
    return golden


@pytest.fixture(scope="module")
def produced(bundle: Bundle, golden: Golden) -> set[str]:
    """What the graphs produce of the whole golden."""
    return feeds.trace(bundle, golden).keys() & golden.tensors.keys()


def test_the_names_of_runs_mean_nothing(bundle: Bundle, golden: Golden, produced: set[str]) -> None:
    def rename(name: str) -> str:
        run, dot, kind = name.partition(".")
        return RUNS.get(run, run) + dot + kind

    def notes(about: dict[str, Any]) -> dict[str, Any]:
        return about | {"generation": {RUNS[run]: note for run, note in about["generation"].items()}}

    other = renamed(golden, rename, notes)
    diffs = compared(feeds, feeds.trace(bundle, other), other)
    assert wrong(diffs) == []
    assert {d.tensor for d in diffs} == {rename(name) for name in produced}
    streamed = compared(feeds, feeds.streamed(bundle, other), other)
    assert wrong(streamed) == []
    assert {d.tensor for d in streamed} >= {"aube.tokens", "dune.tokens", "decode.wav", "dune.row0.wav"}


@pytest.mark.parametrize("subset", [only, without])
def test_any_part_of_a_golden_is_compared_as_in_the_whole(
    subset: Any, bundle: Bundle, golden: Golden, produced: set[str]
) -> None:
    for group in groups(golden):
        other = subset(golden, group)
        diffs = compared(feeds, feeds.trace(bundle, other), other)
        assert wrong(diffs) == []
        no_draws = set() if "decode.noise0" in other.tensors else {"stream.window_chunks"}
        assert {d.tensor for d in diffs} == (other.tensors.keys() & produced) - no_draws, group
