"""golden -> torch net -> fp32 graph -> quantized graph -> streamed: link by link, until one breaks.

Comparing link by link says where an error enters: a net that disagrees with upstream's golden is a wrong net, a graph
that disagrees while its net agrees is a wrong export, and so on.
"""

import tempfile
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

from voxport.bounds import Bound
from voxport.bundle import Bundle
from voxport_exporters.pack import Job, pack
from voxport_exporters.recipe import Recipe
from voxport_parity.compare import Diff, compare
from voxport_parity.reference import TorchBundle, quantized
from voxport_parity.trace import Golden, Trace

FP32 = Recipe("fp32")


def chain(
    system: str, checkpoint: Path, bundle: Path | None, recipe: str | None, target: str = "cpu", **options: Any
) -> Iterator[Diff]:
    """Yields every compared tensor in order, and ends after the first link in which one is out of bounds.

    `recipe`: adds the quantized link. `bundle`: an exported one to check instead of exporting; its recipe then counts.
    Raises ValueError or FileNotFoundError in one line for bad input.
    """
    exporter = import_module(f"voxport_exporters.{system}")
    feeds = import_module(f"voxport_parity.{system}")

    def job() -> Job:
        made: Job = exporter.job(checkpoint, **options)
        return made

    with tempfile.TemporaryDirectory(prefix="voxport-parity-") as scratch:
        given = None if bundle is None else Bundle(bundle)
        name = recipe or (given.manifest.recipe if given else "fp32")
        rounding = Recipe.named(name, exporter.RECIPES)
        if given is not None and given.manifest.recipe != rounding.name:
            raise ValueError(f"{bundle}: was exported with recipe {given.manifest.recipe}, not {rounding.name}")
        if given is not None and given.manifest.recipe == "fp32":
            fp32 = given
        else:
            pack(job(), Path(scratch) / "fp32", FP32, target)
            fp32 = Bundle(Path(scratch) / "fp32")
        nets = TorchBundle(fp32, job().parts)
        golden = Golden.of(checkpoint)
        known = golden is not None
        if golden is None:
            golden = feeds.without_golden(fp32.manifest)
        yield from _links(system, feeds, golden, known, nets, fp32, rounding, given, job, Path(scratch), target)


def _links(
    system: str,
    feeds: Any,
    golden: Golden,
    known: bool,
    nets: TorchBundle,
    fp32: Bundle,
    recipe: Recipe,
    given: Bundle | None,
    job: Callable[[], Job],
    scratch: Path,
    target: str,
) -> Iterator[Diff]:
    def link(name: str, got: Trace, wanted: Trace, bound: Callable[[str], Bound | None]) -> list[Diff]:
        shared = [t for t in got if t in wanted]
        return [compare(system, feeds.stage(t), name, t, got[t], wanted[t], bound(t)) for t in shared]

    made = feeds.trace(nets, golden)
    wanted = golden.tensors if known else made  # without goldens the torch nets are the reference
    links: list[Callable[[], list[Diff]]] = [lambda: link("torch", made, wanted, feeds.bound)] if known else []
    links.append(lambda: link("graph", feeds.trace(fp32, golden), wanted, feeds.bound))
    if recipe.name != "fp32":

        def rounded() -> list[Diff]:
            if given is None:
                pack(job(), scratch / "quantized", recipe, target)
            graph = given or Bundle(scratch / "quantized")
            rounds = TorchBundle(graph, quantized(job().parts, recipe, graph.manifest.target))
            reference = feeds.trace(rounds, golden)
            got = feeds.trace(graph, golden)
            return [
                *link("quantized", got, reference, feeds.rounded),
                *link("quantized to fp32", got, wanted, lambda _: None),
            ]

        links.append(rounded)
    links.append(lambda: link("streamed", feeds.streamed(fp32, golden), wanted, feeds.bound))
    for run in links:
        diffs = run()
        yield from diffs
        if not all(d.ok for d in diffs):
            return
