"""Fun-CosyVoice3's language model: what goes in, what ends a generation, and upstream's way beside the right one."""

import numpy as np
import pytest
from tests.cosyvoice3_script import EOS, SOS, SPEECH, TASK, Fed, Scripted, best, hashed, speech, text

from voxport.speech import limits
from voxport.speech.rows import Rows
from voxport.systems.cosyvoice3.lm import EXPECTED, Row, Rule, log_softmax
from voxport.systems.cosyvoice3.ras import Ras
from voxport.systems.cosyvoice3.silence import MOST, SILENT, SilenceFilter

GREEDY, UPSTREAM = Rule(None), Rule(None, compatible=True)


def ones(_address: int, size: int) -> np.ndarray:
    return np.ones(size, np.float32)


def test_a_prompt_is_the_text_between_start_and_task_then_the_prompts_speech() -> None:
    """No speaker vector: version 3 has none in its language model, though ports put one there."""
    bundle = Scripted(lambda _: best(EOS))
    model = bundle.model()
    for tokens in ([3, 4], []):
        bundle.calls.clear()
        assert list(model.generate(Row(model.prompt([7, 8, 9], tokens), 0, 5, ones), GREEDY)) == []
        assert bundle.calls == [speech([SOS]) + text([7, 8, 9]) + speech([TASK, *tokens])]


def test_every_token_is_fed_back_alone_and_the_end_is_not_a_token() -> None:
    bundle = Scripted(lambda fed: best(len(fed) if len(fed) < 9 else EOS))
    model = bundle.model()
    row = Row(model.prompt([7], [3]), 0, 100, ones)
    assert list(model.generate(row, GREEDY)) == [4, 5, 6, 7, 8]
    assert bundle.calls[1:] == [[f"s{i}"] for i in (4, 5, 6, 7, 8)]
    assert row.stopped == limits.END


@pytest.mark.parametrize("token", [SPEECH, EOS, TASK, SPEECH + 3, SPEECH + 4, SPEECH + 199])
@pytest.mark.parametrize("rule", [GREEDY, UPSTREAM])
def test_every_id_behind_the_speech_tokens_ends_it(token: int, rule: Rule) -> None:
    """Ports look for the one named eos only, and speak ids that no codebook has."""
    model = Scripted(lambda fed: best(token if len(fed) > 4 else 1)).model()
    row = Row(model.prompt([7], []), 0, 100, ones)
    assert list(model.generate(row, rule)) == [1, 1]
    assert row.stopped == limits.END


@pytest.mark.parametrize("most", [0, 1, 3, 2 * EXPECTED + 9])
def test_a_limit_ends_it_and_nothing_more_is_computed(most: int) -> None:
    bundle = Scripted(lambda _: best(1))
    model = bundle.model()
    row = Row(model.prompt([7], []), 0, most, ones)
    assert list(model.generate(row, GREEDY)) == [1] * most
    assert row.stopped == limits.LIMIT
    assert len(bundle.calls) == most
    assert model.clock.steps == most


def test_before_its_least_length_nothing_ends_it() -> None:
    def script(_fed: Fed) -> np.ndarray:
        scores = best(EOS)
        scores[SPEECH + 9], scores[3] = 4, 2
        return scores

    model = Scripted(script).model()
    assert list(model.generate(Row(model.prompt([7], []), 4, 100, ones), GREEDY)) == [3, 3, 3, 3]


def test_upstream_bars_the_start_instead_of_the_end() -> None:
    """The mask of a least length hides id V, which was the end in version 2 and is the start in version 3."""
    model = Scripted(lambda _: best(EOS)).model()
    assert list(model.generate(Row(model.prompt([7], []), 4, 100, ones), UPSTREAM)) == []
    model = Scripted(lambda _: best(SOS) + 0.5 * best(3)).model()
    assert list(model.generate(Row(model.prompt([7], []), 4, 100, ones), UPSTREAM)) == [3, 3, 3, 3]


def test_a_sampled_token_is_that_of_the_sampler_with_what_came_before() -> None:
    ras, scores = Ras(top_p=0.8, top_k=25, window=10, share=0.1), list[np.ndarray]()
    model = Scripted(lambda fed: hashed(fed, ends=-2)).model()
    addresses = []

    def draws(address: int, size: int) -> np.ndarray:
        addresses.append(address)
        return np.random.default_rng(address).exponential(size=size).astype(np.float32)

    def watch(name: str, array: np.ndarray) -> None:
        if name == "scores":
            scores.append(array.copy())

    tokens = list(model.generate(Row(model.prompt([7], []), 40, 40, draws), Rule(ras), watch))
    assert len({*addresses}) == len(addresses) > len(tokens) == 40
    assert [ras.choose(row, tokens[:i], draws).token for i, row in enumerate(scores)] == tokens


def test_reading_tokens_gives_the_scores_that_generating_them_gave() -> None:
    bundle, scores = Scripted(lambda fed: hashed(fed, ends=-9)), list[np.ndarray]()
    model = bundle.model()

    def watch(name: str, array: np.ndarray) -> None:
        if name == "scores":
            scores.append(array.copy())

    prompt = model.prompt([7, 1], [2])
    tokens = list(model.generate(Row(prompt, 0, 12, ones), GREEDY, watch))
    np.testing.assert_array_equal(list(model.read(prompt, tokens))[:12], scores)


def test_scores_are_logarithms_of_probabilities() -> None:
    logits = np.array([3, 80, -200, 79], np.float32)
    exact = logits.astype(np.float64) - np.log(np.exp(logits.astype(np.float64)).sum())
    np.testing.assert_allclose(log_softmax(logits), exact, rtol=0, atol=1e-5)


def test_caches_that_grow_hold_what_they_held() -> None:
    rows = Rows(Scripted(hashed).session("lm"), 1, 3)
    expected = Rows(Scripted(hashed).session("lm"), 1, 20)
    embeds = np.stack((np.arange(9.0), np.arange(9.0) % 2), axis=1).astype(np.float32)
    rows.prefill(0, embeds=embeds[:3])
    with pytest.raises(ValueError, match="do not fit its caches of 3"):
        rows.step(embeds=embeds[3:4])
    rows.grow(9)
    got = rows.prefill(0, embeds=embeds[3:])["logits"]
    np.testing.assert_array_equal(got, expected.prefill(0, embeds=embeds)["logits"])


def test_of_silent_tokens_in_a_row_the_first_few_pass() -> None:
    silence, (a, b, *_) = SilenceFilter(), sorted(SILENT)
    other = max(SILENT) + 1
    tokens = [a, b] * 4 + [other] + [b] * 7 + [other, other]
    passed = [token for token in map(silence.feed, tokens) if token is not None]
    assert passed == ([a, b] * 4)[:MOST] + [other] + [b] * MOST + [other, other]
