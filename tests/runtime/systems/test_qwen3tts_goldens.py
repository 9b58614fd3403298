"""Qwen3-TTS through the runtime gives upstream's codes and audio."""

import json
from pathlib import Path

import numpy as np
import pytest
from tests.bundles import FIXTURES
from tests.command import done, run
from tests.qwen3tts_cases import NAMES, Bundles, arguments

from voxport import bounds
from voxport.bundle import Bundle
from voxport.systems.qwen3tts.speaker import Speaker
from voxport.verify import verify
from voxport_parity.compare import NOT_COMPARED, compare
from voxport_parity.systems.qwen3tts import feeds
from voxport_parity.trace import Golden, Trace

Array = np.ndarray
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
GREEDY = {
    "customvoice": ["cv_nonstream", "cv_textstream", "cv_dialect", "cv_auto"],
    "base": ["icl", "icl_short", "icl_nonstream", "xvec", "xvec_nonstream"],
}


@pytest.mark.parametrize(("name", "case"), [(name, case) for name, cases in GREEDY.items() for case in cases])
def test_greedy_codes_and_audio_are_upstreams(
    name: str, case: str, speakers: dict[str, Speaker], qwen3tts_goldens: dict[str, Golden]
) -> None:
    speech = speakers[name].say(**arguments(qwen3tts_goldens[name], case))
    samples, golden = speech.samples(), qwen3tts_goldens[name].tensors
    assert np.array_equal(speech.tokens, golden[f"{case}.codes"])
    assert len(samples) == 1920 * len(speech.tokens)
    if f"{case}.wav" in golden:
        assert np.abs(samples - golden[f"{case}.wav"]).max() < bounds.CODEC12HZ_AUDIO.absolute
    ended = qwen3tts_goldens[name].notes["runs"][case]["ended_with_eos"]
    assert speech.stopped == ("end" if ended else "max_new_tokens")


@pytest.mark.parametrize("name", NAMES)
def test_every_golden_a_graph_can_make_is_made(
    name: str, qwen3tts_bundles: Bundles, qwen3tts_goldens: dict[str, Golden]
) -> None:
    """Sampled runs and the instruct run are among them."""
    golden, bundle = qwen3tts_goldens[name], Bundle(qwen3tts_bundles(name, "fp32", "cpu"))
    outputs, streamed = feeds.trace(bundle, golden), feeds.streamed(bundle, golden)
    for link in (outputs, streamed):
        assert_alike(link, golden.tensors)
    inside = ("prefill_hidden", "dec.", "spk.", "enc.", ".uniforms")
    assert not [n for n in golden.tensors if n not in outputs and not any(part in n for part in inside)]
    sampled = {"customvoice": {"cv_sampled.codes", "instruct.codes"}, "base": {"xvec_sampled.codes"}}[name]
    assert sampled <= outputs.keys() & streamed.keys()


def assert_alike(outputs: Trace, expected: Trace) -> None:
    diffs = [
        compare("qwen3tts", feeds.stage(n), "", n, outputs[n], expected[n], feeds.bound(n))
        for n in outputs
        if n in expected
    ]
    assert len(diffs) > 40
    assert not [str(diff) for diff in diffs if not diff.ok]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "target"), [("customvoice", "portable"), ("base", "portable"), ("base", "cpu")])
def test_the_chain_holds_from_upstream_to_streams(
    name: str, target: str, qwen3tts_bundles: Bundles, tmp_path: Path
) -> None:
    bundle, report = qwen3tts_bundles(name, "fp32", target), tmp_path / "parity.json"
    checkpoint = FIXTURES / f"qwen3tts-{name}"
    done(run("parity", "qwen3tts", checkpoint, "--bundle", bundle, "--target", target, "--json", report))
    rows = json.loads(report.read_text())
    assert {row["link"] for row in rows} - {NOT_COMPARED} == {"torch", "graph", "streamed"}
    assert all(row["tensor"].startswith("enc.") for row in rows if row["link"] == NOT_COMPARED)
    assert all(row["ok"] for row in rows)


def test_a_rehearsal_gives_what_it_gave_at_export(qwen3tts_bundles: Bundles) -> None:
    for name in NAMES:
        rows = verify(qwen3tts_bundles(name, "fp32", "cpu"), threads=2)
        assert all(row.ok for row in rows)
        assert ("voice" in {row.name for row in rows}) == (name == "base")
