"""Qwen3-TTS: goldens under any names and in any part."""

from typing import Any

import pytest
from tests.bundles import FIXTURES
from tests.parity.goldens import compared, groups, only, renamed, without, wrong

from voxport.bundle import Bundle
from voxport_parity.systems.qwen3tts import feeds
from voxport_parity.trace import Golden

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # of voices that a tiny model does not know


def golden_of(name: str) -> Golden:
    golden = Golden.of(FIXTURES / f"qwen3tts-{name}")
    assert golden is not None
    return golden


@pytest.mark.parametrize("name", ["customvoice", "base"])
def test_the_names_of_runs_mean_nothing(name: str, qwen3tts_bundles: Any) -> None:
    """The first is called `vd`, as a VoiceDesign golden may be."""
    golden, bundle = golden_of(name), Bundle(qwen3tts_bundles(name, "fp32", "cpu"))
    runs = [run for run, note in golden.notes["runs"].items() if isinstance(note, dict) and "settings" in note]
    words = {run: f"v{'d' * (i + 1)}" for i, run in enumerate(runs)} | {"text": "phrase"}

    def rename(tensor: str) -> str:
        run, dot, kind = tensor.partition(".")
        return words.get(run, run) + dot + kind

    def notes(about: dict[str, Any]) -> dict[str, Any]:
        return about | {"runs": {words.get(run, run): note for run, note in about["runs"].items()}}

    other = renamed(golden, rename, notes)
    diffs = compared(feeds, feeds.trace(bundle, other), other)
    assert wrong(diffs) == []
    whole = feeds.trace(bundle, golden).keys() & golden.tensors.keys()
    assert {d.tensor for d in diffs} == {rename(tensor) for tensor in whole}
    assert {"vd.codes", "phrase.input_ids"} <= {d.tensor for d in diffs}
    assert {d.tensor for d in diffs} & {"dec.full_wav", "dec.chunked_8_12_wav"}


@pytest.mark.parametrize("subset", [only, without])
def test_any_part_of_a_golden_is_compared_as_in_the_whole(subset: Any, qwen3tts_bundles: Any) -> None:
    golden, bundle = golden_of("base"), Bundle(qwen3tts_bundles("base", "fp32", "cpu"))
    whole = feeds.trace(bundle, golden).keys() & golden.tensors.keys()
    for group in groups(golden):
        other = subset(golden, group)
        diffs = compared(feeds, feeds.trace(bundle, other), other)
        assert wrong(diffs) == []
        # what the decoder makes of a whole run needs that run's codes
        codes = "icl.codes" in other.tensors
        no_codes = {tensor for tensor in whole if tensor.startswith(("dec.full", "dec.chunked")) and not codes}
        assert {d.tensor for d in diffs} == (other.tensors.keys() & whole) - no_codes, group
