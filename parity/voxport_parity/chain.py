"""golden -> torch net -> live -> fp32 graph -> quantized graph -> streamed: link by link, until one breaks.

Comparing link by link says where an error enters: a net that disagrees with upstream's golden is a wrong net, a graph
that disagrees while its net agrees is a wrong export, and so on. `live` runs upstream's own classes beside the net,
for systems whose `feeds` have it: of a checkpoint without goldens it is the only link that upstream has a part in.
"""

import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from voxport.bounds import Bound
from voxport.bundle import Bundle
from voxport.graphs.ort import OPTIONS, OrtSession
from voxport.recipe import Recipe
from voxport_exporters import systems as exporters
from voxport_exporters.pack import Job, pack
from voxport_exporters.recipe import named
from voxport_parity.compare import Diff, compare
from voxport_parity.reference import TorchBundle, quantized
from voxport_parity.systems import SYSTEMS, Feeds
from voxport_parity.trace import Golden, Trace

FP32 = Recipe("fp32")


# Portable 4-bit products in float32, as their operators say; onnxruntime would round what goes in to 8 bits.
AS_WRITTEN = {**OPTIONS, "session.qdq_matmulnbits_accuracy_level": "1"}


def chain(
    system: str,
    checkpoint: Path,
    bundle: Path | None,
    recipe: str | None,
    target: str = "cpu",
    tell: Callable[[str], None] = lambda _: None,
    **options: Any,
) -> Iterator[Diff]:
    """Yields every compared tensor in order, and ends after the first link in which one is out of bounds.

    `recipe`: adds the quantized link. `bundle`: an exported one to check instead of exporting; its recipe then counts.
    `tell` is given a line about a link that is left out. `options`: the exporter's, as `voxport export` takes them.
    Raises ValueError or FileNotFoundError in one line for bad input.
    """
    exporter, feeds = exporters.SYSTEMS[system](), SYSTEMS[system]()

    def job() -> Job:
        return exporter.job(checkpoint, **options)

    with tempfile.TemporaryDirectory(prefix="voxport-parity-") as scratch:
        given = None if bundle is None else Bundle(bundle)
        rounding = FP32 if given is None else given.manifest.recipe  # its rules as applied
        if recipe is not None:
            whole, _, codec = recipe.partition("+codec-")
            asked = named(whole, exporter.recipes)
            if codec:
                asked = asked.then(named(codec, exporter.codec_recipes))
            if given is not None and asked.name != rounding.name:
                raise ValueError(f"{bundle}: was exported with recipe {rounding.name}, not {asked.name}")
            rounding = asked if given is None else rounding
        if given is not None and rounding.name == "fp32":
            fp32 = given
        else:
            pack(job(), Path(scratch) / "fp32", FP32, target)
            fp32 = Bundle(Path(scratch) / "fp32")
        nets = TorchBundle(fp32, job().parts)
        golden = Golden.of(checkpoint)
        known = golden is not None
        if golden is None:
            golden = feeds.without_golden(fp32)

        def live(made: Trace) -> list[Diff]:
            if "lora" in options:
                tell("live link left out: upstream's class does not merge the adapter")
                return []
            try:
                seen = list(feeds.live(job().checkpoint, golden, made))
            except ModuleNotFoundError as error:
                tell(f"live link left out: {error.name} is not installed: pip install 'voxport[parity]'")
                return []
            return [compare(system, feeds.stage(t), "live", t, got, want, feeds.bound(t)) for t, got, want in seen]

        yield from _links(system, feeds, golden, known, nets, live, fp32, rounding, given, job, Path(scratch), target)


def _links(
    system: str,
    feeds: Feeds,
    golden: Golden,
    known: bool,
    nets: TorchBundle,
    live: Callable[[Trace], list[Diff]],
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
    links.append(lambda: live(made))
    links.append(lambda: link("graph", feeds.trace(fp32, golden), wanted, feeds.bound))
    if recipe.name != "fp32":

        def bound(name: str) -> Bound | None:
            """Of an int8 codec nothing: a rounding that tips over is as large in its samples as all of them together,
            and sample by sample the net is no nearer. Its products are held one by one by the tests."""
            eight = recipe.name.endswith("+codec-int8") and feeds.stage(name).startswith("codec_")
            return None if eight else feeds.rounded(name)

        def rounded() -> list[Diff]:
            if given is None:
                pack(job(), scratch / "quantized", recipe, target)
            graph = Bundle(
                given.path if given else scratch / "quantized",
                check=False,
                sessions=partial(OrtSession, options=AS_WRITTEN),
            )
            rounds = TorchBundle(graph, quantized(job().parts, recipe, graph))
            reference = feeds.trace(rounds, golden)
            got = feeds.trace(graph, golden)
            return [
                *link("quantized", got, reference, bound),
                *link("quantized to fp32", got, wanted, lambda _: None),
            ]

        links.append(rounded)
    links.append(lambda: link("streamed", feeds.streamed(fp32, golden), wanted, feeds.bound))
    for run in links:
        diffs = run()
        yield from diffs
        if not all(d.ok for d in diffs):
            return
