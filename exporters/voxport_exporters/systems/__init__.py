"""The systems voxport exports: how a checkpoint of each becomes a Job. Only this file names them.

Importing it needs click only; the rest, torch with it, is imported when one of SYSTEMS is called.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from voxport_exporters.options import SystemOptions
from voxport_exporters.systems.cosyvoice3 import options as cosyvoice3
from voxport_exporters.systems.llvc import options as llvc
from voxport_exporters.systems.qwen3tts import options as qwen3tts
from voxport_exporters.systems.t5gemma import options as t5gemma
from voxport_exporters.systems.vyvo import options as vyvo

if TYPE_CHECKING:
    from voxport.recipe import Recipe
    from voxport_exporters.pack import Job


@dataclass(frozen=True)
class Exporter:
    """One system: `job(checkpoint, **options)`, with the options of its `SystemOptions`, and its recipes by name.

    `writers`: by the names of `SystemOptions.formats`, `(checkpoint, folder, **options) -> advice`.
    """

    job: "Callable[..., Job]"
    recipes: "Mapping[str, Recipe]"
    codec_recipes: "Mapping[str, Recipe]" = field(default_factory=dict)
    writers: "Mapping[str, Callable[..., str]]" = field(default_factory=dict)


def _llvc() -> Exporter:
    from voxport_exporters.systems.llvc import job

    return Exporter(job.job, job.RECIPES)


def _vyvo() -> Exporter:
    from voxport_exporters.systems.vyvo import job

    return Exporter(job.job, job.RECIPES, job.CODEC_RECIPES)


def _qwen3tts() -> Exporter:
    from voxport_exporters.systems.qwen3tts import job

    return Exporter(job.job, job.RECIPES, job.CODEC_RECIPES)


def _cosyvoice3() -> Exporter:
    from voxport_exporters.systems.cosyvoice3 import job

    return Exporter(job.job, job.RECIPES, job.CODEC_RECIPES)


def _t5gemma() -> Exporter:
    from voxport_exporters.systems.t5gemma import job

    return Exporter(job.job, job.RECIPES, job.CODEC_RECIPES, {"hf": job.write_hf})


SYSTEMS: dict[str, Callable[[], Exporter]] = {
    "llvc": _llvc,
    "vyvo": _vyvo,
    "qwen3tts": _qwen3tts,
    "cosyvoice3": _cosyvoice3,
    "t5gemma": _t5gemma,
}

OPTIONS: dict[str, SystemOptions] = {
    "llvc": llvc.OPTIONS,
    "vyvo": vyvo.OPTIONS,
    "qwen3tts": qwen3tts.OPTIONS,
    "cosyvoice3": cosyvoice3.OPTIONS,
    "t5gemma": t5gemma.OPTIONS,
}
