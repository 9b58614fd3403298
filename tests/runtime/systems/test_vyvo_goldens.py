"""VyvoTTS through the runtime gives upstream's prompts, tokens and audio."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.bundles import Export

from voxport import bounds
from voxport.audio import files
from voxport.bundle import Bundle
from voxport.codecs.noise import from_arrays, seeded
from voxport.speech.sampler import Sampling
from voxport.systems.vyvo.format import Dialect
from voxport.systems.vyvo.speaker import Speaker
from voxport.systems.vyvo.voice import Voice

Array = np.ndarray
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def test_prompts_are_upstreams(
    vyvo: Speaker, vyvo_friend: Voice, vyvo_texts: dict[str, Any], vyvo_golden: dict[str, Array]
) -> None:
    target = vyvo_texts["clone_targets"][0]
    both: tuple[Dialect, Dialect] = ("current", "classic")
    for dialect in both:
        assert vyvo.prompt(vyvo_texts["text"], None, dialect) == vyvo_golden["prompt_ids"][0].tolist()
        assert (
            vyvo.prompt(vyvo_texts["text"], vyvo_texts["voice"], dialect) == vyvo_golden["prompt_ids_voice"][0].tolist()
        )
    assert vyvo.prompt(target, vyvo_friend, "current") == vyvo_golden["clone.input_ids"][0].tolist()
    assert vyvo.prompt(target, vyvo_friend, "classic") == vyvo_golden["clone_legacy.input_ids"][0].tolist()


def test_an_empty_voice_name_is_a_prefix_in_one_dialect_only(vyvo: Speaker, vyvo_texts: dict[str, Any]) -> None:
    plain = vyvo.prompt(vyvo_texts["text"], None, "current")
    assert vyvo.prompt(vyvo_texts["text"], "", "classic") == plain
    assert len(vyvo.prompt(vyvo_texts["text"], "", "current")) > len(plain)


def test_a_reference_has_upstreams_codes(vyvo: Speaker, vyvo_friend: Voice, vyvo_golden: dict[str, Array]) -> None:
    assert np.array_equal(vyvo.format.offset_codes(vyvo_friend.codes), vyvo_golden["encode.interleaved"])
    wav = vyvo_golden["ref.wav24k"]
    assert np.array_equal(vyvo.tokenize(wav, 24000), vyvo_golden["encode.interleaved"])


@pytest.mark.parametrize("target", ["cpu", pytest.param("portable", marks=pytest.mark.slow)])
def test_greedy_tokens_are_upstreams(
    target: str, vyvo_bundles: Export, vyvo_friend: Voice, vyvo_texts: dict[str, Any], vyvo_golden: dict[str, Array]
) -> None:
    voice = Speaker(Bundle(vyvo_bundles("fp32", target)))
    free = voice.say(vyvo_texts["text"], greedy=True)
    assert len(free.samples()) == 20480
    assert np.array_equal(free.tokens, vyvo_golden["greedy.tokens"][0])
    assert free.stopped == "end"
    cloned = voice.say(vyvo_texts["clone_targets"][0], voice=vyvo_friend, greedy=True)
    assert len(cloned.samples()) == 18432
    assert np.array_equal(cloned.tokens, vyvo_golden["clone.tokens"][0])


def test_without_the_grammar_tokens_are_upstreams(
    vyvo: Speaker, vyvo_texts: dict[str, Any], vyvo_golden: dict[str, Array]
) -> None:
    for options in ({"dialect": "classic"}, {"constrained_decoding": "false"}):
        speech = vyvo.say(vyvo_texts["text"], greedy=True, **options)  # type: ignore[arg-type]
        assert len(speech.samples()) == 0
        assert np.array_equal(speech.tokens, vyvo_golden["unconstrained.tokens"][0])
        assert "no audio: the model did not begin to speak" in speech.warnings[0]


def test_sampled_tokens_and_their_chances_are_upstreams(
    vyvo: Speaker, vyvo_golden: dict[str, Array], monkeypatch: pytest.MonkeyPatch
) -> None:
    records: list[tuple[Array, Array]] = []
    chances = Sampling.chances

    def spy(self: Sampling, scores: Array) -> tuple[Array, Array]:
        ids, p = chances(self, scores)
        records.append((ids, p))
        return ids, p

    monkeypatch.setattr(Sampling, "chances", spy)
    plan = vyvo.request(None, False, {})
    prompt, u = vyvo_golden["prompt_ids_voice"][0].tolist(), vyvo_golden["sampled.u"]
    rows = list(vyvo.model.generate([prompt], [160], plan.sampling, plan.grammar, u))
    assert [int(row[0]) for row in rows] == vyvo_golden["sampled.tokens"][0].tolist()
    for (_, p), want in zip(records, vyvo_golden["sampled.probs"][0, 2:], strict=True):
        assert np.abs(np.sort(p)[::-1] - want[want > 0]).max() < 1e-5


def test_audio_is_upstreams_faded_at_its_end(vyvo: Speaker, vyvo_golden: dict[str, Array]) -> None:
    codes = vyvo.format.load_codes(vyvo_golden["greedy.tokens"][0])
    noise = from_arrays([vyvo_golden[f"decode.noise{i}"].reshape(-1) for i in range(4)])
    plan = vyvo.request(None, True, {})
    needed = np.concatenate(list(vyvo.decode(codes, plan.settings, noise)))
    want = vyvo_golden["decode.wav"].reshape(-1).copy()
    want[-2048:] = vyvo_golden["decode.wav_faded_tail"].reshape(-1)
    assert np.abs(needed - want).max() < bounds.SNAC_AUDIO.absolute
    for request in (vyvo.request(None, True, {"dialect": "classic"}), vyvo.request(Voice("a", codes), True, {})):
        plain = np.concatenate(list(vyvo.decode(codes, request.settings, noise)))
        assert np.abs(plain - vyvo_golden["decode.wav"].reshape(-1)).max() < bounds.SNAC_AUDIO.absolute


def test_masking_all_logits_is_what_the_cut_heads_compute(vyvo: Speaker, vyvo_golden: dict[str, Array]) -> None:
    form = vyvo.format
    hidden = next(vyvo.model.read(vyvo_golden["prompt_ids"][0].tolist(), [0]))
    whole = vyvo.model.logits("head", hidden)[0]
    for place, start in enumerate(form.starts):
        cut = vyvo.model.logits(f"head.{place}", hidden)[0]
        assert np.abs(cut[:-1] - whole[start : start + form.size]).max() < 2e-5
        assert abs(cut[-1] - whole[form.end]) < 2e-5


@pytest.mark.parametrize("limit", [1, 2, 3, 9, 10])
def test_max_new_tokens_counts_as_upstream_counts(limit: int, vyvo: Speaker, vyvo_golden: dict[str, Array]) -> None:
    speech = vyvo.say("Hey there, my name is Elise.", greedy=True, max_new_tokens=limit)
    samples = speech.samples()
    assert np.array_equal(speech.tokens, vyvo_golden["greedy.tokens"][0, :limit])
    assert len(samples) == (limit - 2) // 7 * 2048 * (limit > 2)
    assert speech.stopped == "max_new_tokens"


def test_tokens_go_through_files_and_back(vyvo: Speaker, vyvo_golden: dict[str, Array], vyvo_checkpoint: Path) -> None:
    coded = vyvo.tokenize(*files.read(vyvo_checkpoint / "ref.wav"))
    one = np.concatenate(list(vyvo.detokenize(coded, seed=1)))
    assert len(one) == 12 * 2048
    generated = np.concatenate(list(vyvo.detokenize(vyvo_golden["greedy.tokens"][0], seed=1)))
    levels = [vyvo_golden[f"greedy.codes{i}"][0] for i in range(3)]
    assert np.abs(generated - vyvo.codec.decode(levels, seeded(1))).max() < 2e-5
