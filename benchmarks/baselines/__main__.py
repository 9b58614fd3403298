"""voxport beside other people's runtimes, which need packages of their own: one decode step, round for round.

    python -m benchmarks.baselines CHECKPOINT --bundle BUNDLE [--bundle ...] --environments DIR [--threads 2]

CHECKPOINT is a folder of benchmarks.fullsize, BUNDLE an export of it. Each baseline gets a virtual environment in DIR,
made when it is not there, and exports the same checkpoint by its own means, once, into DIR. All runners are loaded at
the same time, each in a process of its own, and take turns; one that cannot be installed, built or run is a line with
the reason.

VyvoTTS: optimum-onnx (float32; it has no LFM2) and onnxruntime-genai (int4) compute the logits of the whole
vocabulary, voxport those the grammar allows. Qwen3-TTS: upstream's own package, in float32 and bfloat16.
"""

import json
import subprocess
import sys
import time
import venv
from pathlib import Path
from statistics import median
from typing import NamedTuple

import click

CHILD = Path(__file__).with_name("child.py")
ROUNDS = 5

# `pip install` lines of each environment, in order. torch comes first, exactly this version.
TORCH = "torch==2.13.0"
ENVIRONMENTS = {
    # With protobuf 6 and later, its export of a model of more than 2 GB fails ("Failed to serialize proto").
    "optimum": (TORCH, "optimum-onnx==0.1.0 onnxruntime==1.31.1 transformers==4.57.6 onnx==1.20.1 protobuf==5.29.6"),
    "genai": (TORCH, "onnxruntime-genai==0.18.0 onnxruntime==1.31.1 transformers==5.23.0 onnx_ir==1.1.0"),
    # Without what only its demo and its 25 Hz tokenizer need.
    "qwen": (
        TORCH,
        "transformers==4.57.3 accelerate==1.12.0 librosa==0.11.0 soundfile einops onnxruntime==1.31.1",
        "--no-deps qwen-tts==0.1.1",
    ),
}
BASELINES = {  # a function of baselines_child.py: (its environment, steps per round)
    "vyvo": {"optimum_onnx": ("optimum", 20), "onnxruntime_genai": ("genai", 20)},
    "qwen3tts": {"qwen_tts": ("qwen", 8), "qwen_tts_bf16": ("qwen", 8)},
}


class Runner(NamedTuple):
    process: subprocess.Popen[str]
    log: Path
    seconds: list[float]

    @classmethod
    def start(cls, log: Path, *command: object) -> "Runner":
        """ValueError: what the process said last."""
        with log.open("w") as errors:
            process = subprocess.Popen(
                list(map(str, command)), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True
            )
        runner = cls(process, log, [])
        runner.told("ready")
        return runner

    def told(self, wanted: str = "") -> str:
        """The next line of the child's that is not its packages' chatter."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith(wanted or "["):
                return line
        self.process.wait()
        raise ValueError(last_line(self.log.read_text()))

    def round(self, steps: int) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{steps}\n")
        self.process.stdin.flush()
        self.seconds.extend(json.loads(self.told()))


def last_line(text: str) -> str:
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "no word of why")[:160]


def environment(folder: Path, lines: tuple[str, ...]) -> Path:
    """The interpreter of the environment `folder`, made when it is not as `lines` say. ValueError: why not."""
    python, done = folder / "bin" / "python", folder / "installed.json"
    if not done.exists() or json.loads(done.read_text()) != list(lines):
        venv.create(folder, clear=True, with_pip=True)
        for line in lines:
            say(f"{folder.name}: pip install {line}")
            pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *line.split()]
            ran = subprocess.run(pip, capture_output=True, text=True, check=False)
            if ran.returncode:
                raise ValueError(last_line(ran.stderr))
        done.write_text(json.dumps(lines))
    return python


def say(what: str) -> None:
    print(f"{time.strftime('%H:%M:%S')}  {what}", file=sys.stderr)


@click.command(help=(__doc__ or "").partition("\n")[0])
@click.argument("checkpoint", type=click.Path(path_type=Path, exists=True))
@click.option("--bundle", "bundles", type=click.Path(path_type=Path, exists=True), multiple=True, required=True)
@click.option("--environments", type=click.Path(path_type=Path), required=True, help="Folder of some gigabytes.")
@click.option("--threads", default=2, show_default=True)
def main(checkpoint: Path, bundles: tuple[Path, ...], environments: Path, threads: int) -> None:
    system = "vyvo" if (checkpoint / "lm").is_dir() else "qwen3tts"
    environments.mkdir(parents=True, exist_ok=True)
    runners: dict[str, Runner | str] = {}
    steps = dict.fromkeys((f"voxport {bundle.name}" for bundle in bundles), 20)
    try:
        for bundle in bundles:
            name = f"voxport {bundle.name}"
            module = ("-m", "benchmarks.baselines.child", "voxport")
            runners[name] = Runner.start(
                environments / f"{name}.log", sys.executable, *module, checkpoint, bundle, threads
            )
        for name, (needs, steps[name]) in BASELINES[system].items():
            say(name)
            try:
                python = environment(environments / needs, ENVIRONMENTS[needs])
                place = environments / f"{checkpoint.name}.{name}"
                log = environments / f"{name}.log"
                runners[name] = Runner.start(log, python, CHILD, name, checkpoint, place, threads)
            except (ValueError, OSError) as error:
                runners[name] = str(error)
        for _ in range(ROUNDS):
            for name, runner in runners.items():
                if isinstance(runner, Runner):
                    time.sleep(0.2)  # until nobody's threads spin any more
                    runner.round(steps[name])
    finally:
        for runner in runners.values():
            if isinstance(runner, Runner):
                runner.process.kill()
    unit = "tokens/s" if system == "vyvo" else "frames/s"
    print(f"{checkpoint.name}, {threads} thread(s), median of {ROUNDS} rounds in turn")
    print(f"{'':32} {'ms':>8} {unit:>9} {'voxport is':>11}")
    first = None
    for name, runner in runners.items():
        if isinstance(runner, str):
            print(f"{name:32} {runner}")
            continue
        ms = median(runner.seconds) * 1e3
        first = first or ms
        print(f"{name:32} {ms:8.2f} {1e3 / ms:9.1f} {ms / first:10.2f}x")


if __name__ == "__main__":
    main()
