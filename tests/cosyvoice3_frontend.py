"""Fun-CosyVoice3's front end alone, behind a bundle's interface: the fixture's graphs, as they are."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from tests.bundles import FIXTURES

from voxport.audio import files
from voxport.bundle import Bundle
from voxport.graphs.ort import OrtSession
from voxport.graphs.session import Array, Session
from voxport.manifest import FORMAT, Manifest, Source
from voxport.recipe import Recipe
from voxport.systems.cosyvoice3.frontend import SPEAKER, TOKENIZER, Listener
from voxport.systems.cosyvoice3.section import LlmSection, MelSection, Section, VocoderSection
from voxport_exporters.systems.cosyvoice3 import flow
from voxport_exporters.systems.cosyvoice3.config import read_config
from voxport_exporters.systems.cosyvoice3.tokenizer import tokenizer

ROOT = FIXTURES / "cosyvoice3"
GRAPHS = {TOKENIZER: "speech_tokenizer_v3.onnx", SPEAKER: "campplus.onnx"}
CONFIG = read_config(ROOT)
RECORDING, RATE = files.read(ROOT / "prompt.wav")


class Ear(Bundle):
    """A bundle that can only listen; `loads` counts how often each graph was loaded."""

    def __init__(self, folder: Path) -> None:
        self.path = folder
        (folder / "tokenizer.json").write_bytes(tokenizer(ROOT, CONFIG.decoder.vocab)[0])
        recipe, rate = Recipe("fp32"), CONFIG.sample_rate
        self.manifest = Manifest(FORMAT, "cosyvoice3", "base", rate, "cpu", recipe, Source({}), {}, {}, {}, {})
        self.loads: Counter[str] = Counter()

    def session(self, stage: str, threads: int = 1) -> Session:
        self.loads[stage] += 1
        return OrtSession(ROOT / GRAPHS[stage], threads)

    def once(self, stage: str, threads: int = 1) -> Session:
        self.loads[f"{stage} once"] += 1
        return OrtSession(ROOT / GRAPHS[stage], threads, once=True)

    def section(self, kind: Any) -> Any:
        assert kind is Section
        llm, mel = CONFIG.llm, CONFIG.mel
        return Section(
            CONFIG.token_frame_rate,
            LlmSection(llm.speech_token_size, CONFIG.decoder.context, llm.mix_ratio),
            flow.section(CONFIG.flow),
            VocoderSection(CONFIG.hift.hop, 0),
            MelSection(mel.win_size, mel.n_fft, mel.hop_size, mel.num_mels, mel.fmin, mel.fmax),
        )

    def listener(self, keep: bool = False) -> Listener:
        return Listener(self, 1, self.section(Section), keep=keep)


def noise(seconds: float, rate: int) -> Array:
    """A recording of somebody who hisses."""
    return np.random.default_rng(0).uniform(-0.5, 0.5, round(seconds * rate)).astype(np.float32)
