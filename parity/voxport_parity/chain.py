"""golden -> torch net -> live -> fp32 graph -> quantized graph -> streamed: link by link, until one breaks.

Comparing link by link says where an error enters: a net that disagrees with upstream's golden is a wrong net, a graph
that disagrees while its net agrees is a wrong export, and so on. `live` runs upstream's own classes beside the net,
for systems whose `feeds` have it: of a checkpoint without goldens it is the only link that upstream has a part in.
"""

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from voxport import bounds
from voxport.bounds import Bound
from voxport.bundle import Bundle
from voxport.checksums import record
from voxport.recipe import Recipe
from voxport_exporters import systems as exporters
from voxport_exporters.graphs.graphfile import GraphFile
from voxport_exporters.graphs.part import Part
from voxport_exporters.pack import Job, pack
from voxport_exporters.recipe import named
from voxport_parity import products
from voxport_parity.compare import NOT_COMPARED, Diff, compare, nearness
from voxport_parity.reference import TorchBundle
from voxport_parity.rounding import built, rounding
from voxport_parity.systems import SYSTEMS, Feeds
from voxport_parity.trace import Golden, Trace

FP32 = Recipe("fp32")
CODEC = "+codec-"  # between the names of the two recipes of a system with a codec

Tell = Callable[[str], None]


def chain(
    system: str,
    checkpoint: Path,
    bundle: Path | None,
    recipe: str | None,
    target: str | None = None,
    tell: Tell = lambda _: None,
    **options: Any,
) -> Iterator[Diff]:
    """Yields every compared tensor in order, and ends after the first link in which one is out of bounds.

    `recipe`: adds the quantized links. `bundle`: an exported one to check instead of exporting; its recipe then counts,
    and it must be of this system, checkpoint and, where one is given, target (default: the bundle's, or cpu).
    `options`: the exporter's, as `voxport export` takes them.

    A golden tensor that no stage produces, a misspelt one for instance, is yielded once, after the first link: as a
    Diff of link NOT_COMPARED without a bound, as everything that is reported and never judged, and with `max_abs` NaN.
    Inputs that upstream handed us are no such tensors (`Feeds.input_reason`). `tell` is given a line that counts and
    names them, and a line about every link that is left out.

    Raises ValueError or FileNotFoundError in one line for bad input.
    """
    exporter, feeds = exporters.SYSTEMS[system](), SYSTEMS[system]()

    found = Golden.of(checkpoint)
    asks = {**options, **(feeds.options(found) if found is not None else {})}

    def job() -> Job:
        return exporter.job(checkpoint, **asks)

    with tempfile.TemporaryDirectory(prefix="voxport-parity-") as folder:
        scratch = Path(folder)
        exported = None if bundle is None else _opened(bundle, system, checkpoint, target, job())
        applied = FP32 if exported is None else exported.manifest.recipe  # its rules as applied
        if recipe is not None:
            requested = _recipe(exporter, recipe)
            if exported is not None and requested.name != applied.name:
                raise ValueError(f"{bundle}: was exported with recipe {applied.name}, not {requested.name}")
            applied = requested if exported is None else applied
        if exported is not None:
            target = exported.manifest.target
        if exported is not None and applied.name == FP32.name:
            fp32 = exported
        else:
            pack(job(), scratch / "fp32", FP32, target or "cpu")
            fp32 = Bundle(scratch / "fp32")
        golden = found or feeds.without_golden(fp32)
        links = _Links(system, feeds, golden, TorchBundle(fp32, job().parts), fp32, tell)

        def quantized() -> Bundle:
            if exported is not None:
                return exported
            pack(job(), scratch / "quantized", applied, target or "cpu")
            return Bundle(scratch / "quantized", check=False)

        def steps() -> Iterator[list[Diff]]:
            if found is not None:
                yield links.torch()
            if options.get("lora") is None:
                yield links.live(job())
            else:
                tell("live link left out: upstream's class does not merge the adapter")
            yield links.graph()
            if applied.name != FP32.name:
                yield from links.quantized(quantized(), job(), applied)
            yield links.streamed()

        for diffs in steps():
            yield from diffs
            if not all(d.ok for d in diffs):
                return


def _recipe(exporter: exporters.Exporter, name: str) -> Recipe:
    whole, _, codec = name.partition(CODEC)
    recipe = named(whole, exporter.recipes)
    return recipe.then(named(codec, exporter.codec_recipes)) if codec else recipe


def _opened(path: Path, system: str, checkpoint: Path, target: str | None, job: Job) -> Bundle:
    """The bundle at `path`; ValueError when it is of another system, target or checkpoint."""
    bundle = Bundle(path)
    manifest = bundle.manifest
    if manifest.system != system:
        raise ValueError(f"{path}: is a bundle of {manifest.system}, not of {system}")
    if target is not None and manifest.target != target:
        raise ValueError(f"{path}: was exported for target {manifest.target}, not {target}")
    sources = {file.sha256 for file in manifest.source.files.values()}
    for file in job.checkpoint:
        if record(file).sha256 not in sources:
            raise ValueError(f"{path}: was not exported from {checkpoint}: {file} is another file; export it again")
    return bundle


@dataclass
class _Links:
    """The links of one chain. `nets` are the checkpoint's torch nets, behind the manifest and files of `fp32`."""

    system: str
    feeds: Feeds
    golden: Golden
    nets: TorchBundle
    fp32: Bundle
    tell: Tell

    def __post_init__(self) -> None:
        self._outputs = self.feeds.trace(self.nets, self.golden)
        known = self.golden.folder is not None
        self._expected = self.golden.tensors if known else self._outputs  # without goldens the torch nets are right

    def torch(self) -> list[Diff]:
        """The nets against the golden, and what of it they do not produce."""
        return [*self._link("torch", self._outputs, self._expected, self.feeds.bound), *self._not_compared()]

    def live(self, job: Job) -> list[Diff]:
        """The nets against upstream's own classes."""
        try:
            pairs = list(self.feeds.live(job.checkpoint, self.golden, self._outputs))
        except ModuleNotFoundError as error:
            self.tell(f"live link left out: {error.name} is not installed: pip install 'voxport[parity]'")
            return []
        return [self._compare("live", name, got, expected, self.feeds.bound) for name, got, expected in pairs]

    def graph(self) -> list[Diff]:
        """The fp32 graphs against the golden."""
        return self._link("graph", self.feeds.trace(self.fp32, self.golden), self._expected, self.feeds.bound)

    def quantized(self, exported: Bundle, job: Job, recipe: Recipe) -> Iterator[list[Diff]]:
        """The quantized graphs: every product, then what comes out of them, against nets that round as they do.

        A tensor that is judged must not only be within its bound of the rounding net but also nearer to it than to the
        fp32 net (bounds.NEARER), unless it is within its fp32 bound of both: a reference that rounds nothing is none.
        The distance to fp32 is reported.
        """
        recorder = products.Recorder()
        graph = Bundle(exported.path, check=False, sessions=recorder)
        outputs = self.feeds.trace(graph, self.golden)
        parts = built(job.parts, recipe)
        yield self._products(exported, parts, job.graphs, recipe, recorder.calls)
        reference = self.feeds.trace(TorchBundle(graph, rounding(parts, recipe, graph)), self.golden)
        plain = self.feeds.trace(self.nets.behind(graph), self.golden)

        def bound(name: str) -> Bound | None:
            """Of an int8 codec nothing: a rounding that tips over is as large in its samples as all of them together,
            and sample by sample the net is no nearer. Its products are held one by one."""
            eight = recipe.name.endswith("+codec-int8") and self.feeds.stage(name).startswith("codec_")
            return None if eight else self.feeds.rounded(name)

        diffs = self._link("quantized", outputs, reference, bound)
        yield [
            *(self._nearer(diff, outputs, reference, plain) for diff in diffs),
            *self._link("quantized to fp32", outputs, self._expected, lambda _: None),
        ]

    def _products(
        self,
        exported: Bundle,
        parts: list[Part],
        files: tuple[GraphFile, ...],
        recipe: Recipe,
        calls: dict[str, Trace],
    ) -> list[Diff]:
        diffs: list[Diff] = []
        target = exported.manifest.target
        items: list[Part | GraphFile] = [*parts, *files]
        for item in items:
            stage = item.stage.name
            graph = exported.path / f"{stage}.onnx"
            if stage in calls:
                diffs += products.check(self.system, item, recipe, target, graph, calls[stage])
            elif products.counted(graph):
                self.tell(f"the products of stage {stage} are not compared: nothing was fed to it")
        return diffs

    def _nearer(self, diff: Diff, outputs: Trace, reference: Trace, plain: Trace) -> Diff:
        """The same Diff with its nearness, where that is judged."""
        name = diff.tensor
        if diff.bound is None or name not in plain or plain[name].shape != outputs[name].shape:
            return diff
        fp32 = self.feeds.bound(name)
        if all(self._compare("", name, outputs[name], x[name], lambda _: fp32).ok for x in (reference, plain)):
            return diff
        ratio = nearness(outputs[name], reference[name], plain[name])
        return replace(diff, nearer=ratio, nearer_limit=bounds.NEARER)

    def streamed(self) -> list[Diff]:
        """The fp32 graphs again, fed in pieces."""
        return self._link("streamed", self.feeds.streamed(self.fp32, self.golden), self._expected, self.feeds.bound)

    def _link(self, name: str, outputs: Trace, expected: Trace, bound: Callable[[str], Bound | None]) -> list[Diff]:
        shared = [tensor for tensor in outputs if tensor in expected]
        return [self._compare(name, tensor, outputs[tensor], expected[tensor], bound) for tensor in shared]

    def _compare(
        self, link: str, name: str, got: np.ndarray, expected: np.ndarray, bound: Callable[[str], Bound | None]
    ) -> Diff:
        return compare(self.system, self.feeds.stage(name), link, name, got, expected, bound(name))

    def _not_compared(self) -> list[Diff]:
        """The golden's tensors that nothing was compared with, inputs aside."""
        names = [n for n in self._expected if n not in self._outputs and self.feeds.input_reason(n) is None]
        if names:
            self.tell(f"{len(names)} golden tensors are not compared, no stage produces them: {', '.join(names)}")
        shapes = {name: self._expected[name].shape for name in names}
        return [
            Diff(self.system, self.feeds.stage(n), NOT_COMPARED, n, shape, np.nan, None) for n, shape in shapes.items()
        ]
