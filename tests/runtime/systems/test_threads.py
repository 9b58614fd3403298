"""Several threads on one Speaker, one Converter: each gets what it would get alone."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.bundles import Export
from tests.conftest import Golden

from voxport.bundle import Bundle
from voxport.speech.speech import Speech
from voxport.systems.cosyvoice3.speaker import Speaker as Cosyvoice3
from voxport.systems.cosyvoice3.voice import synthetic_voice
from voxport.systems.llvc.converter import Converter
from voxport.systems.qwen3tts.speaker import Speaker as Qwen3tts
from voxport.systems.qwen3tts.voice import Voice
from voxport.systems.vyvo.speaker import Speaker as Vyvo

Array = np.ndarray
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

THREADS = 8
TEXTS = ("One more, please.", "Two <|im_end|> here.", "Hm.", "A third sentence, said at once.")
ROUNDS = 3
VECTOR = 192  # of the CosyVoice3 fixture's voices


def audible(speech: Speech) -> tuple[list[Any], Array]:
    samples = speech.samples()
    tokens: list[Any] = speech.tokens.tolist()
    return tokens, samples


def hold_threads_to_one(say: Callable[[int], Speech], count: int) -> None:
    """`say(i)`: the speech of request i, opened by the thread that hears it."""
    alone = [audible(say(i)) for i in range(count)]
    with ThreadPoolExecutor(THREADS) as pool:
        for i, (tokens, samples) in enumerate(pool.map(lambda i: audible(say(i % count)), range(ROUNDS * count))):
            assert tokens == alone[i % count][0]
            assert np.array_equal(samples, alone[i % count][1])


def test_eight_threads_on_one_vyvotts_speaker_hear_what_one_hears(vyvo_bundles: Export) -> None:
    bundle = Bundle(vyvo_bundles("fp32", "cpu"))
    speaker = Vyvo(bundle, threads=1)
    options: list[dict[str, Any]] = [{}, {"constrained_decoding": False}]

    def say(i: int) -> Speech:
        return speaker.say(TEXTS[i % 4], seed=i, max_new_tokens=24 + i, **options[i // 4])

    hold_threads_to_one(say, 8)


def test_eight_threads_on_one_qwen3tts_speaker_hear_what_one_hears(
    qwen3tts_bundles: Callable[[str, str, str], Path],
) -> None:
    speaker = Qwen3tts(Bundle(qwen3tts_bundles("base", "fp32", "cpu")), threads=1)
    rng = np.random.default_rng(0)
    voices = [Voice("a", rng.integers(0, 64, (4, 16)), rng.normal(size=64).astype(np.float32)) for _ in range(2)]

    def say(i: int) -> Speech:
        return speaker.say(
            TEXTS[i % 4], voice=voices[i // 4], seed=i, parse_special=i % 2 == 1, min_new_tokens=6, max_new_tokens=7
        )

    hold_threads_to_one(say, 8)


def test_eight_threads_on_one_cosyvoice3_speaker_hear_what_one_hears(cosyvoice3_bundles: Export) -> None:
    speaker = Cosyvoice3(Bundle(cosyvoice3_bundles("fp32", "cpu")), threads=1)
    voices = [synthetic_voice(speaker.section, VECTOR, seconds) for seconds in (0.6, 2.4)]
    schedules = ("low_latency", "whole", "upstream")

    def say(i: int) -> Speech:
        options: dict[str, Any] = {"flow_steps": 4, "max_new_tokens": 40 + i, "schedule": schedules[i % 3]}
        return speaker.say(TEXTS[i % 4], voice=voices[i // 4], seed=i, text_frontend=False, **options)

    hold_threads_to_one(say, 8)


def test_graphs_that_are_loaded_at_first_use_are_loaded_once(qwen3tts_bundles: Callable[[str, str, str], Path]) -> None:
    speaker = Qwen3tts(Bundle(qwen3tts_bundles("base", "fp32", "cpu")), threads=1)
    with ThreadPoolExecutor(THREADS) as pool:
        listeners = list(pool.map(lambda _: speaker.requests.listener(), range(THREADS)))
    assert len({id(listener) for listener in listeners}) == 1


def test_eight_threads_on_one_converter_hear_what_one_hears(llvc_bundles: Export, llvc_golden: Golden) -> None:
    converter = Converter(Bundle(llvc_bundles("fp32", "cpu")))
    sound = llvc_golden["audio.input_16k"][:6000]
    sounds = [np.roll(sound, 500 * i) for i in range(THREADS)]
    alone = [converter.convert(sound) for sound in sounds]

    def convert(i: int) -> Array:
        stream = converter.stream()
        return np.concatenate([*(stream.feed(piece) for piece in np.array_split(sounds[i], 9)), stream.flush()])

    with ThreadPoolExecutor(THREADS) as pool:
        for i, samples in enumerate(pool.map(lambda i: convert(i % THREADS), range(3 * THREADS))):
            assert np.array_equal(samples, alone[i % THREADS])
