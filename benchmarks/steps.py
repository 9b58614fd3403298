"""A bundle's language model as a function to call again and again: a token (VyvoTTS) or a frame (Qwen3-TTS) a call.

Through the runtime's own loops and sessions, without the codec.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np

import voxport
from voxport import draws
from voxport.speech.rows import Rows
from voxport.speech.speech import SENTENCE
from voxport.systems.qwen3tts import speaker as qwen3tts
from voxport.systems.qwen3tts.lm import Row
from voxport.systems.vyvo import speaker as vyvo

PROMPT = 100  # tokens in the cache before the first step of VyvoTTS
TOKEN = 64410  # a code, whichever
Step = Callable[[], object]


def step(bundle: Path, threads: int, most: int) -> Step:
    """At most `most` calls: the caches are allocated once."""
    speaker = voxport.load(bundle, threads=threads, check=False)
    if isinstance(speaker, qwen3tts.Speaker):
        return _frame(speaker, most)
    assert isinstance(speaker, vyvo.Speaker), f"{bundle}: no language model"
    return _token(speaker, most)


def _token(speaker: vyvo.Speaker, most: int) -> Step:
    """One token: the model, and one of the cut heads, which computes the logits that the grammar allows."""
    rows = Rows(speaker.model._lm, 1, PROMPT + most)
    rows.prefill(0, tokens=np.random.default_rng(0).integers(0, 60000, PROMPT))
    token = np.array([TOKEN])
    return lambda: speaker.model.logits("head.1", rows.step(tokens=token)["hidden"])


def _frame(speaker: qwen3tts.Speaker, most: int) -> Step:
    """One frame: talker, sampling and predictor, after a sentence of 20 words."""
    plan = speaker.requests.request(options={"min_new_tokens": most + 1})
    books = speaker.model.books
    row = Row(
        speaker.prompt(SENTENCE, plan), most + 1, lambda: most + 1, lambda i: draws.uniforms(0, "bench", i, books)
    )
    frames = speaker.model.generate([row], plan.rule)
    return lambda: next(frames)
