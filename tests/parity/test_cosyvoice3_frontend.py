"""Every golden of Fun-CosyVoice3's front end, from the recording and the texts alone."""

from pathlib import Path

import numpy as np
import pytest
from tests.cosyvoice3_frontend import ROOT, Ear

from voxport_parity.compare import compare
from voxport_parity.systems.cosyvoice3 import frontend
from voxport_parity.trace import Golden


@pytest.fixture(scope="module")
def ear(tmp_path_factory: pytest.TempPathFactory) -> Ear:
    return Ear(tmp_path_factory.mktemp("ear"))


@pytest.fixture
def golden() -> Golden:
    found = Golden.of(ROOT)
    assert found is not None
    return found


def test_every_tensor_of_the_golden_is_within_its_bound(ear: Ear, golden: Golden) -> None:
    names = {name for name in golden.tensors if name.startswith("frontend.")}
    trace = frontend.trace(ear, golden)
    assert trace.keys() == names
    for name, got in trace.items():
        diff = compare(
            "cosyvoice3", frontend.stage(name), "graph", name, got, golden.tensors[name], frontend.bound(name)
        )
        assert diff.ok, str(diff)


def test_ids_and_tokens_are_equal_and_bounds_are_small(golden: Golden) -> None:
    exact = {name for name in golden.tensors if name.startswith("frontend.") and not frontend.bound(name).absolute}
    assert exact == {
        f"frontend.{name}" for name in ("speech_token_full", "prompt_token", "text_ids", "prompt_text_ids")
    }
    for name in golden.tensors:
        if name.startswith("frontend.") and name not in exact:
            assert frontend.bound(name).absolute < 2e-3 * np.abs(golden.tensors[name]).max()


def test_every_tensor_has_a_stage() -> None:
    stages = {"frontend.wav16k": "frontend", "frontend.prompt_token": "speech_tokenizer"}
    stages |= {"frontend.spk_embedding": "campplus", "frontend.prompt_text_ids": "text", "frontend.fbank": "frontend"}
    assert {name: frontend.stage(name) for name in stages} == stages


def test_a_voice_that_converts_is_not_cut(ear: Ear, golden: Golden) -> None:
    trace = frontend.trace(ear, Golden(golden.tensors, {**golden.notes, "mode": "vc"}, ROOT))
    assert np.array_equal(trace["frontend.prompt_token"], trace["frontend.speech_token_full"])
    assert trace["frontend.prompt_token"].shape == (1, 24)


@pytest.mark.parametrize(
    ("notes", "folder", "names"),
    [
        ({}, None, set()),
        ({"tts_text": "Hi."}, None, {"frontend.text_ids"}),
        ({"tts_text": "Hi.", "prompt_text": None, "prompt_wav": "lost.wav (gone)"}, ROOT, {"frontend.text_ids"}),
        ({"prompt_text": ""}, None, {"frontend.prompt_text_ids"}),
    ],
)
def test_a_golden_may_hold_less(ear: Ear, notes: dict[str, object], folder: Path | None, names: set[str]) -> None:
    trace = frontend.trace(ear, Golden({}, notes, folder))
    assert trace.keys() == names
    assert all(array.dtype == np.int64 and array.ndim == 2 for array in trace.values())
