"""What the tests of systems share: open speakers, their goldens and a cloned voice each."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.bundles import FIXTURES, Export

from voxport.bundle import Bundle
from voxport.systems.cosyvoice3.speaker import Speaker as Cosyvoice3
from voxport.systems.cosyvoice3.voice import Voice as Cosyvoice3Voice
from voxport.systems.qwen3tts.speaker import Speaker as Qwen3tts
from voxport.systems.qwen3tts.voice import Voice as Qwen3ttsVoice
from voxport.systems.t5gemma.speaker import Speaker as T5gemma
from voxport.systems.t5gemma.voice import Voice as T5gemmaVoice
from voxport.systems.vyvo.speaker import Speaker as Vyvo
from voxport.systems.vyvo.voice import Voice as VyvoVoice
from voxport_parity.trace import Golden

VARIANTS = ("customvoice", "base")


@pytest.fixture(scope="session")
def vyvo_texts(vyvo_checkpoint: Path) -> dict[str, Any]:
    texts: dict[str, Any] = json.loads((vyvo_checkpoint / "golden.json").read_text())["texts"]
    return texts


@pytest.fixture(scope="session")
def vyvo(vyvo_bundles: Export) -> Vyvo:
    return Vyvo(Bundle(vyvo_bundles("fp32", "cpu")), threads=1)


@pytest.fixture(scope="session")
def vyvo_friend(vyvo: Vyvo, vyvo_checkpoint: Path, vyvo_texts: dict[str, Any]) -> VyvoVoice:
    return vyvo.enroll(vyvo_checkpoint / "ref.wav", vyvo_texts["clone_ref"])


@pytest.fixture(scope="session")
def speakers(qwen3tts_bundles: Callable[[str, str, str], Path]) -> dict[str, Qwen3tts]:
    return {name: Qwen3tts(Bundle(qwen3tts_bundles(name, "fp32", "cpu")), threads=1) for name in VARIANTS}


@pytest.fixture(scope="session")
def custom(speakers: dict[str, Qwen3tts]) -> Qwen3tts:
    return speakers["customvoice"]


@pytest.fixture(scope="session")
def base(speakers: dict[str, Qwen3tts]) -> Qwen3tts:
    return speakers["base"]


@pytest.fixture(scope="session")
def cosyvoice3(cosyvoice3_bundles: Export) -> Cosyvoice3:
    return Cosyvoice3(Bundle(cosyvoice3_bundles("fp32", "cpu")), threads=1)


@pytest.fixture(scope="session")
def cosyvoice3_friend(cosyvoice3: Cosyvoice3, cosyvoice3_checkpoint: Path) -> Cosyvoice3Voice:
    return cosyvoice3.enroll(cosyvoice3_checkpoint / "prompt.wav", "Hi hope.")


@pytest.fixture(scope="session")
def t5gemma(t5gemma_bundles: Export) -> T5gemma:
    return T5gemma(Bundle(t5gemma_bundles("fp32", "cpu")), threads=1)


@pytest.fixture(scope="session")
def t5gemma_friend(t5gemma: T5gemma, t5gemma_checkpoint: Path) -> T5gemmaVoice:
    return t5gemma.enroll(t5gemma_checkpoint / "reference.wav", "Two boxes.")


@pytest.fixture(scope="session")
def qwen3tts_goldens() -> dict[str, Golden]:
    goldens = {name: Golden.of(FIXTURES / f"qwen3tts-{name}") for name in VARIANTS}
    return {name: golden for name, golden in goldens.items() if golden is not None}


@pytest.fixture(scope="session")
def qwen3tts_friend(base: Qwen3tts) -> Qwen3ttsVoice:
    return base.enroll(FIXTURES / "qwen3tts-base" / "ref.wav", "比我还好呦")
