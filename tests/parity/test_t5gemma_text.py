"""T5Gemma-TTS: the golden's texts, prompt and lists, and runs with a recording that are made up."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.bundles import FIXTURES
from tests.parity.goldens import compared, wrong
from tests.t5gemma_nets import section

from voxport.bundle import Bundle
from voxport.manifest import FORMAT, Manifest, Source
from voxport.recipe import Recipe
from voxport_exporters.systems.t5gemma.config import read_config
from voxport_exporters.systems.t5gemma.tokenizer import tokenizer
from voxport_parity.systems.t5gemma import text
from voxport_parity.systems.t5gemma.utterance import RECORDING
from voxport_parity.trace import Golden, Trace

ROOT = FIXTURES / "t5gemma"
PART: Any = text  # a module that does as Feeds do, for its own tensors
CONFIG = read_config(ROOT / "t5gemma_tts" / "config.json")


class Reader(Bundle):
    """A bundle that can only read."""

    def __init__(self, folder: Path) -> None:
        self.path = folder
        (folder / "tokenizer.json").write_bytes(tokenizer(ROOT / "text_tokenizer", CONFIG)[0])
        recipe = Recipe("fp32")
        self.manifest = Manifest(
            FORMAT, "t5gemma", "2b-2b", 16000, "cpu", recipe, Source({}), {}, {}, {}, {}, CONFIG.tokens
        )

    def section(self, kind: Any) -> Any:  # noqa: ARG002
        return section(CONFIG)


@pytest.fixture
def reader(tmp_path: Path) -> Reader:
    return Reader(tmp_path)


@pytest.fixture
def golden() -> Golden:
    found = Golden.of(ROOT)
    assert found is not None
    return found


def asking(golden: Golden, tensors: Trace, **settings: Any) -> Golden:
    """The golden as if it had been run with other settings, and held these tensors alone."""
    return Golden(tensors, golden.notes | {"settings": golden.notes["settings"] | settings}, golden.folder)


def test_text_prompt_and_length_of_the_golden_are_upstreams(reader: Reader, golden: Golden) -> None:
    trace = text.trace(reader, golden)
    assert trace.keys() == {name for name in golden.tensors if text.owns(name)}
    assert len(trace) == 3
    assert wrong(compared(PART, trace, golden)) == []


def test_every_row_of_the_golden_s_lists_is_compared(golden: Golden) -> None:
    pairs = list(text.pairs(golden))
    assert len(pairs) == sum(len(golden.notes[name]) for name in (text.SECONDS, text.NORMALIZED)) > 6
    assert [name for name, ours, theirs in pairs if not np.array_equal(ours, theirs)] == []
    assert all(text.owns(name) and text.stage(name) == "text" for name, _, _ in pairs)
    wrong_notes = Golden({}, golden.notes | {text.SECONDS: [{"text": "a", "lang": "en", "seconds": 9.0}]}, None)
    name, ours, theirs = next(iter(text.pairs(wrong_notes)))
    assert (name, ours.tolist(), theirs.tolist()) == ("text.seconds.0", [0.5], [9.0])


def test_a_golden_without_texts_or_notes_has_nothing_to_compare(reader: Reader, golden: Golden) -> None:
    assert text.trace(reader, Golden(golden.tensors, {}, None)) == {}
    assert list(text.pairs(Golden(golden.tensors, {}, None))) == []


def test_a_recording_comes_from_what_was_heard_or_from_the_prompt_itself(reader: Reader, golden: Golden) -> None:
    recording = {RECORDING: golden.tensors[RECORDING]}
    codes = recording[RECORDING].ravel()
    whole = text.trace(reader, asking(golden, recording, ref_text="two small boxes", repeat_prompt=1))
    prompt = whole["t5.prompt_codes"]
    assert prompt.shape == (1, 2 * len(codes) + 1, 1)
    assert prompt.ravel().tolist() == [*codes, *codes, CONFIG.tokens["y_sep"]]
    assert whole["t5.target_total"] == [prompt.size + 45]
    assert (whole["t5.text_ids"] == CONFIG.tokens["x_sep"]).sum() == 1
    once = text.trace(reader, asking(golden, recording, ref_text="two small boxes"))
    again = text.trace(reader, asking(golden, {"t5.prompt_codes": once["t5.prompt_codes"]}, ref_text="two small boxes"))
    assert np.array_equal(again["t5.prompt_codes"], once["t5.prompt_codes"])
    assert text.trace(reader, asking(golden, {}, ref_text="two small boxes")) == {}  # nobody knows its codes


def test_without_a_length_it_is_estimated_as_without_packages(reader: Reader, golden: Golden) -> None:
    words = golden.notes["settings"]["text"]
    total = text.trace(reader, asking(golden, {}, target_duration=None))["t5.target_total"]
    assert total == [int(50 * 0.085 * len(words))]
