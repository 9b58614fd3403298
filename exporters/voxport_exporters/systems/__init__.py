"""The systems voxport exports: how a checkpoint of each becomes a Job. Only this file names them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from voxport_exporters.pack import Job
from voxport_exporters.recipe import Recipe


@dataclass(frozen=True)
class Exporter:
    """One system: `job(checkpoint, **options)` and the recipes it knows by name, the first being no special case."""

    job: Callable[..., Job]
    recipes: Mapping[str, Recipe]
    default_recipe: str = "fp32"
    codec_recipes: Mapping[str, Recipe] = field(default_factory=dict)


def _llvc() -> Exporter:
    from voxport_exporters.systems.llvc import job

    return Exporter(job.job, job.RECIPES)


def _vyvo() -> Exporter:
    from voxport_exporters.systems.vyvo import job

    return Exporter(job.job, job.RECIPES, codec_recipes=job.CODEC_RECIPES)


def _qwen3tts() -> Exporter:
    from voxport_exporters.systems.qwen3tts import job

    return Exporter(job.job, job.RECIPES, job.DEFAULT_RECIPE, job.CODEC_RECIPES)


SYSTEMS: dict[str, Callable[[], Exporter]] = {"llvc": _llvc, "vyvo": _vyvo, "qwen3tts": _qwen3tts}
