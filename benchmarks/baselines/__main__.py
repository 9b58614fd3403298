"""Times voxport beside other runtimes, which need environments of their own: one decode step, in interleaved rounds.

    python -m benchmarks.baselines CHECKPOINT --bundle BUNDLE [--bundle ...] --environments DIR [--threads 2]

CHECKPOINT is a folder that benchmarks.fullsize wrote, BUNDLE an export of it. Each baseline gets a virtual environment
in DIR, created on first use, and exports the same checkpoint once, by its own means, into DIR. All runners are loaded
at the same time, each in its own process, and take turns. For a runner that cannot be installed, built or run, one line
says why.

VyvoTTS: optimum-onnx (float32; it has no LFM2) and onnxruntime-genai (int4) compute the logits of the whole
vocabulary; voxport computes those the grammar allows. Qwen3-TTS: upstream's own package, in float32 and bfloat16.
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
    # Without the packages that only its demo and its 25 Hz tokenizer need.
    "qwen": (
        TORCH,
        "transformers==4.57.3 accelerate==1.12.0 librosa==0.11.0 soundfile einops onnxruntime==1.31.1",
        "--no-deps qwen-tts==0.1.1",
    ),
}
BASELINES = {  # system -> function of child.py -> (its environment, steps per round)
    "vyvo": {"optimum_onnx": ("optimum", 20), "onnxruntime_genai": ("genai", 20)},
    "qwen3tts": {"qwen_tts": ("qwen", 8), "qwen_tts_bf16": ("qwen", 8)},
}


class Runner(NamedTuple):
    """A child process that computes steps on request, and the seconds of each step so far."""

    process: subprocess.Popen[str]
    log: Path
    seconds: list[float]

    @classmethod
    def start(cls, log: Path, *command: object) -> "Runner":
        """Starts `command` and waits until it is ready. Raises ValueError with its last line if it ends first."""
        with log.open("w") as errors:
            process = subprocess.Popen(
                list(map(str, command)), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True
            )
        runner = cls(process, log, [])
        runner.answer("ready")
        return runner

    def answer(self, start: str = "[") -> str:
        """The next line on stdout that begins with `start`; packages write other lines there."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith(start):
                return line
        self.process.wait()
        raise ValueError(last_line(self.log.read_text()))

    def round(self, steps: int) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{steps}\n")
        self.process.stdin.flush()
        self.seconds.extend(json.loads(self.answer()))


def last_line(text: str) -> str:
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "it wrote no reason")[:160]


def environment(folder: Path, lines: tuple[str, ...]) -> Path:
    """The interpreter of the environment `folder`, which is created anew unless `lines` are what it was installed from.

    Raises ValueError with pip's last line if a line cannot be installed.
    """
    python, done = folder / "bin" / "python", folder / "installed.json"
    if not done.exists() or json.loads(done.read_text()) != list(lines):
        venv.create(folder, clear=True, with_pip=True)
        for line in lines:
            report(f"{folder.name}: pip install {line}")
            pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *line.split()]
            ran = subprocess.run(pip, capture_output=True, text=True, check=False)
            if ran.returncode:
                raise ValueError(last_line(ran.stderr))
        done.write_text(json.dumps(lines))
    return python


def report(message: str) -> None:
    print(f"{time.strftime('%H:%M:%S')}  {message}", file=sys.stderr)


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
        for name, (env, steps[name]) in BASELINES[system].items():
            report(name)
            try:
                python = environment(environments / env, ENVIRONMENTS[env])
                output = environments / f"{checkpoint.name}.{name}"
                errors = environments / f"{name}.log"
                runners[name] = Runner.start(errors, python, CHILD, name, checkpoint, output, threads)
            except (ValueError, OSError) as error:
                runners[name] = str(error)
        for _ in range(ROUNDS):
            for name, runner in runners.items():
                if isinstance(runner, Runner):
                    time.sleep(0.2)  # until the other runners' threads have stopped spinning
                    runner.round(steps[name])
    finally:
        for runner in runners.values():
            if isinstance(runner, Runner):
                runner.process.kill()
    unit = "tokens/s" if system == "vyvo" else "frames/s"
    print(f"{checkpoint.name}, {threads} thread(s), median over {ROUNDS} interleaved rounds")
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
