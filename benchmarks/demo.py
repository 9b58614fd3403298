"""`make demo`: takes one tiny checkpoint through the whole toolkit and prints a table of the results.

    python -m benchmarks.demo FOLDER

The checkpoint in tests/fixtures/llvc has random weights, so the converted speech sounds like noise.
"""

import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import voxport
from voxport.audio import files
from voxport.bench.run import bench
from voxport.verify import verify
from voxport_exporters.pack import pack
from voxport_exporters.systems.llvc import job as llvc
from voxport_parity.chain import chain

ROOT = Path(__file__).parent.parent
CHECKPOINT = ROOT / "tests" / "fixtures" / "llvc"
SPEECH = ROOT / "tests" / "audio" / "espeak_en_male_24k.wav"
PIECE_MS = 20  # how much audio the live stream gets at a time


@dataclass(frozen=True)
class Row:
    """What the demo shows of one bundle, and whether every check of it passed."""

    cells: dict[str, str]
    ok: bool


def main(out: Path) -> int:
    """Writes bundles and wav files into `out`. Returns 1 if parity, verify or streaming failed, else 0."""
    out.mkdir(parents=True, exist_ok=True)
    samples, rate = files.read(SPEECH)
    rows = [_row(recipe, samples, rate, out) for recipe in llvc.RECIPES]
    print(f"\nLLVC with random weights (so the output is noise): {len(samples) / rate:.1f} s of speech\n")
    names = list(rows[0].cells)
    widths = {name: max(len(name), *(len(row.cells[name]) for row in rows)) for name in names}
    for line in (
        {name: name for name in names},
        {name: "-" * widths[name] for name in names},
        *(r.cells for r in rows),
    ):
        print("  ".join(line[name].ljust(widths[name]) for name in names).rstrip())
    print(f"\nBundles and wav files: {out}/   Next: voxport info {out}/llvc-int8; voxport convert --help")
    return 0 if all(row.ok for row in rows) else 1


def _row(recipe: str, samples: np.ndarray, rate: int, out: Path) -> Row:
    """Exports the checkpoint with `recipe`, converts `samples` whole and streamed, and checks and times the bundle."""
    _report(f"{recipe}: export")
    bundle = out / f"llvc-{recipe}"
    pack(llvc.job(CHECKPOINT), bundle, llvc.RECIPES[recipe], "cpu")
    converter = voxport.load(bundle)
    assert isinstance(converter, voxport.Converter)

    _report(f"{recipe}: convert {SPEECH.name} whole, then as a live stream in pieces of {PIECE_MS} ms")
    whole = converter.stream(rate=rate).convert(samples)
    live, size = converter.stream(rate=rate), rate * PIECE_MS // 1000
    pieces = [live.feed(samples[start : start + size]) for start in range(0, len(samples), size)]
    streamed = np.concatenate([*pieces, live.flush()])
    files.write(out / f"converted-{recipe}.wav", whole, converter.sample_rate)
    files.write(out / f"streamed-{recipe}.wav", streamed, converter.sample_rate)

    _report(f"{recipe}: parity with upstream's recorded tensors, verify, bench")
    diffs = list(chain("llvc", CHECKPOINT, bundle, None))
    worst = max((diff for diff in diffs if diff.bound), key=lambda diff: diff.excess)
    parity, verified = all(diff.ok for diff in diffs), all(row.ok for row in verify(bundle))
    same = np.array_equal(whole, streamed)
    speed = bench(bundle, seconds=2.0)
    cells = {
        "recipe": recipe,
        "size": f"{speed['bundle_mb']:.2f} MB",
        "parity": "ok" if parity else "FAILED",
        "worst difference": f"{worst.max_abs:.0e} ({worst.link}, {worst.excess:.0%} of its bound)",
        "verify": "ok" if verified else "FAILED",
        "streamed = whole": "yes" if same else "NO",
        "rtf": f"{speed['rtf']:.3f}",
        "p99": f"{speed['step_ms_p99']:.2f} ms",
        "peak memory": f"{speed['peak_rss_mb']:.0f} MB",
    }
    return Row(cells, parity and verified and same)


def _report(message: str) -> None:
    print(f"{time.strftime('%H:%M:%S')}  {message}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
