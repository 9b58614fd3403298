"""Full-size random checkpoints and their bundles, written once per run, and the table that a run ends with.

--keep DIR    keeps them in DIR and reuses what is there; empty DIR when an exporter or a recipe changed
"""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks import fullsize
from benchmarks.steps import Step
from voxport_exporters.pack import pack
from voxport_exporters.systems import SYSTEMS


class Full:
    """One variant of a system at its real size: its checkpoint, and its bundles, which are exported on first use."""

    def __init__(self, system: str, variant: str, folder: Path) -> None:
        self._system, self._folder, self._name = system, folder, f"{system}-{variant}"
        self.checkpoint = folder / self._name
        if not self.checkpoint.exists():
            fullsize.write(system, variant, self.checkpoint, seed=0)

    def bundle(self, recipe: str, codec: str | None = None) -> Path:
        out = self._folder / ".".join([self._name, recipe, *([codec] if codec else [])])
        if not out.exists():
            exporter = SYSTEMS[self._system]()
            rules = exporter.recipes[recipe]
            if codec:
                rules = rules.then(exporter.codec_recipes[codec])
            pack(exporter.job(self.checkpoint), out, rules, "cpu")
        return out


Fulls = Callable[[str, str], Full]
Timed = Callable[[Step, str, str, int, int, int], float]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--keep", type=Path, metavar="DIR", help="folder of full-size checkpoints and bundles, reused")


@pytest.fixture(scope="session")
def full(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fulls]:
    """(system, variant) -> Full."""
    keep: Path | None = request.config.getoption("--keep")
    folder = keep or tmp_path_factory.mktemp("full")
    folder.mkdir(parents=True, exist_ok=True)
    yield lambda system, variant: Full(system, variant, folder)
    if keep is None:
        shutil.rmtree(folder)  # gigabytes; pytest would keep those of the last three runs


@pytest.fixture
def timed(benchmark: BenchmarkFixture) -> Iterator[Timed]:
    """timed(step, group, name, threads, rounds, warm) -> median seconds of a step; torch runs on as many threads."""
    before = torch.get_num_threads()

    def run(step: Step, group: str, name: str, threads: int, rounds: int, warm: int) -> float:
        torch.set_num_threads(threads)
        benchmark.group, benchmark.name = f"{group}, {threads} thread(s)", name
        benchmark.pedantic(step, rounds=rounds, warmup_rounds=warm, iterations=1)
        assert benchmark.stats is not None  # pytest-benchmark is off
        return float(benchmark.stats.stats.median)

    yield run
    torch.set_num_threads(before)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Prints one line per benchmark with its extra figures, which pytest-benchmark writes to its JSON only."""
    for result in getattr(getattr(config, "_benchmarksession", None), "benchmarks", ()):
        figures = "  ".join(f"{name} {value}" for name, value in result.extra_info.items())
        terminalreporter.write_line(f"{result.group}: {result.name:14} {result.stats.median * 1e3:9.2f} ms  {figures}")
