"""The language model of the T5Gemma-TTS fixture on torch nets, before any bundle is exported."""

from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar

from msgspec import structs
from tests.bundles import FIXTURES

from voxport.bundle import Bundle
from voxport.graphs.session import Session
from voxport.systems.t5gemma.lm import LanguageModel
from voxport.systems.t5gemma.section import Section
from voxport_exporters.checkpoints.weights import Weights
from voxport_exporters.graphs.part import Part
from voxport_exporters.systems.t5gemma import job
from voxport_exporters.systems.t5gemma.config import Config, read_config
from voxport_exporters.systems.t5gemma.parts import parts
from voxport_parity.reference import TorchSession

T = TypeVar("T")
FIXTURE = FIXTURES / "t5gemma" / "t5gemma_tts"


class Nets(Bundle):
    """A bundle of the parts of a language model, with what parity reads of a manifest."""

    def __init__(self, of: Iterable[Part], config: Config) -> None:
        self.path = Path()
        manifest: Any = SimpleNamespace(tokens=config.tokens, sampling={"extra_cutoff": config.voice.extra_cutoff})
        self.manifest = manifest
        self._section = section(config)
        self._sessions_by_stage = {part.stage.name: TorchSession(part) for part in of}

    def section(self, kind: type[T]) -> T:
        assert isinstance(self._section, kind)
        return self._section

    def session(self, stage: str, threads: int = 1) -> Session:  # noqa: ARG002
        return self._sessions_by_stage[stage]


def section(config: Config | None = None, **changes: Any) -> Section:
    """The section of a config, the fixture's where there is none, with other values in some of its fields."""
    codec: Any = None  # nothing here asks for it
    return structs.replace(job.section(config or read_config(FIXTURE / "config.json"), codec), **changes)


def nets(weights: Weights, config: Config) -> Nets:
    return Nets(parts(weights, config), config)


def language_model(weights: Weights, config: Config) -> LanguageModel:
    return LanguageModel(nets(weights, config), 1, section(config))
