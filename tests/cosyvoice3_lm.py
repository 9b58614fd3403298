"""What the tests of Fun-CosyVoice3's language model share: any checkpoint's, as torch nets and as graphs."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tests.bundles import FIXTURES

from voxport.bundle import Bundle
from voxport.graphs.ort import OrtSession
from voxport.graphs.session import Session
from voxport.manifest import FORMAT, Manifest, Source
from voxport.recipe import Recipe
from voxport.systems.cosyvoice3.lm import LanguageModel
from voxport.systems.cosyvoice3.section import LlmSection, Section
from voxport_exporters.checkpoints.later import deferring
from voxport_exporters.checkpoints.weights import Weights
from voxport_exporters.graphs.part import Part
from voxport_exporters.pack import StageResult, save
from voxport_exporters.systems.cosyvoice3.config import Config, read_config
from voxport_exporters.systems.cosyvoice3.llm import LLM_RULES, parts
from voxport_exporters.systems.cosyvoice3.tokenizer import tokenizer
from voxport_parity.products import AS_WRITTEN
from voxport_parity.reference import TorchSession

ROOT = FIXTURES / "cosyvoice3"
STAGES = ("text_embed", "speech_embed", "lm")


class Alone(Bundle):
    """A bundle with the language model only. `results`: what became of each graph."""

    def __init__(
        self,
        path: Path,
        config: Config,
        sessions: dict[str, Session],
        target: str = "cpu",
        results: Iterable[StageResult] = (),
    ):
        self.path, self.results, self._named = path, tuple(results), sessions
        recipe = Recipe("any")
        self.manifest = Manifest(FORMAT, "cosyvoice3", "base", 24000, target, recipe, Source({}), {}, {}, {}, {})
        llm = LlmSection(config.llm.speech_token_size, config.decoder.context, config.llm.mix_ratio)
        self._llm = Section(25, llm, None, None, None)  # type: ignore[arg-type]

    def session(self, stage: str, threads: int = 1) -> Session:
        assert threads == 1
        return self._named[stage]

    def section(self, kind: Any) -> Any:
        assert kind is Section
        return self._llm

    @property
    def model(self) -> LanguageModel:
        return LanguageModel(self, 1, self._llm.llm)


def nets(weights: Weights, config: Config, folder: Path) -> Alone:
    """The torch nets."""
    return of_parts(parts(weights, config), config, folder)


def of_parts(stages: Iterable[Part], config: Config, folder: Path) -> Alone:
    """These nets."""
    return Alone(folder, config, {part.stage.name: TorchSession(part) for part in stages})


def graphs(weights: Weights, config: Config, folder: Path, recipe: str, target: str) -> Alone:
    """The graphs, written into `folder`, and run as they are written."""
    rules, results = Recipe(recipe, LLM_RULES[recipe]), []
    with deferring():
        for part in parts(weights, config):
            results.append(save(part, folder, rules, target))
    return Alone(
        folder,
        config,
        {name: OrtSession(folder / f"{name}.onnx", options=AS_WRITTEN) for name in STAGES},
        target,
        results,
    )


def fixture(folder: Path, recipe: str, target: str) -> Alone:
    """The fixture's, with its tokenizer, as torch nets for the target `torch`."""
    config, weights = read_config(ROOT), Weights.open(ROOT / "llm.pt")
    (folder / "tokenizer.json").write_bytes(tokenizer(ROOT, config.decoder.vocab)[0])
    return nets(weights, config, folder) if target == "torch" else graphs(weights, config, folder, recipe, target)
