"""`make demo`: one tiny checkpoint through the whole toolkit, and one table of what came out.

    python -m benchmarks.demo FOLDER

The checkpoint in tests/fixtures/llvc has random weights: what it makes of speech sounds like noise.
"""

import sys
import time
from pathlib import Path

import numpy as np

import voxport
from voxport.audio import files as audio
from voxport.bench.run import bench
from voxport.verify import verify
from voxport_exporters.pack import pack
from voxport_exporters.systems.llvc import job as llvc
from voxport_parity.chain import chain

ROOT = Path(__file__).parent.parent
CHECKPOINT = ROOT / "tests" / "fixtures" / "llvc"
SPEECH = ROOT / "tests" / "audio" / "espeak_en_male_24k.wav"
STEP_MS = 20  # how the stream is fed


def main(out: Path) -> None:
    """Writes bundles and wavs into `out`. Exits with 1 when parity or verify fails."""
    out.mkdir(exist_ok=True)
    rows = [("recipe", "MB", "parity: worst link", "verify", "streamed", "rtf", "p99 ms", "peak MB")]
    samples, rate = audio.read(SPEECH)
    fine = True
    for recipe in llvc.RECIPES:
        say(f"{recipe}: export")
        bundle = out / f"llvc-{recipe}"
        pack(llvc.job(CHECKPOINT), bundle, llvc.RECIPES[recipe], "cpu")
        converter = voxport.load(bundle)
        assert isinstance(converter, voxport.Converter)

        say(f"{recipe}: convert {SPEECH.name} whole, then as a live stream in pieces of {STEP_MS} ms")
        whole = converter.stream(rate=rate).convert(samples)
        live = converter.stream(rate=rate)
        size = rate * STEP_MS // 1000
        pieces = [live.feed(samples[at : at + size]) for at in range(0, len(samples), size)]
        streamed = np.concatenate([*pieces, live.flush()])
        audio.write(out / f"converted-{recipe}.wav", whole, converter.sample_rate)
        audio.write(out / f"streamed-{recipe}.wav", streamed, converter.sample_rate)

        say(f"{recipe}: parity with upstream's goldens, verify, bench")
        diffs = list(chain("llvc", CHECKPOINT, bundle, None))
        worst = max((d for d in diffs if d.bound), key=lambda d: d.excess)
        verified = all(row.ok for row in verify(bundle))
        fine = fine and verified and all(d.ok for d in diffs) and np.array_equal(whole, streamed)
        speed = bench(bundle, seconds=2.0)
        rows.append(
            (
                recipe,
                f"{speed['bundle_mb']:.2f}",
                f"{worst.link}: {worst.max_abs:.0e}, {worst.excess:.0%} of its bound",
                "ok" if verified else "DRIFTED",
                "same samples" if np.array_equal(whole, streamed) else "DIFFERENT",
                f"{speed['rtf']:.3f}",
                f"{speed['step_ms_p99']:.2f}",
                f"{speed['peak_rss_mb']:.0f}",
            )
        )
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    print(f"\nLLVC fixture, {len(samples) / rate:.1f} s of speech (random weights: the output is noise), in {out}/")
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    if not fine:
        sys.exit(1)


def say(what: str) -> None:
    print(f"{time.strftime('%H:%M:%S')}  {what}", file=sys.stderr)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
