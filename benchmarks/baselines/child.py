"""One runner of `python -m benchmarks.baselines`, in its own process and often its own environment.

    python child.py NAME CHECKPOINT OUTPUT THREADS

OUTPUT is the bundle for `voxport`, and the folder to export into for the others. The process writes "ready" to stdout
once the model is loaded and warm. It then answers every number n on stdin with a JSON list of the seconds of n steps.
A step is a token after 100 others (VyvoTTS) or a frame of talker and predictor after a sentence (Qwen3-TTS).
"""

import json
import subprocess
import sys
import time
import types
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from itertools import pairwise
from pathlib import Path

PROMPT, MOST, WARM = 100, 250, 8
TOKEN = 64410  # any code
SENTENCE = 40  # rows of a prompt with 20 words
Rounds = Callable[[int], list[float]]


def repeated(step: Callable[[], object]) -> Rounds:
    """n -> the seconds of each of n calls of `step`."""

    def run(n: int) -> list[float]:
        marks = [time.perf_counter()]
        for _ in range(n):
            step()
            marks.append(time.perf_counter())
        return [after - before for before, after in pairwise(marks)]

    return run


def voxport(checkpoint: Path, output: Path, threads: int) -> Rounds:  # noqa: ARG001 - all runners take the same
    from benchmarks.steps import step

    return repeated(step(output, threads, MOST))


def optimum_onnx(checkpoint: Path, output: Path, threads: int) -> Rounds:
    """optimum-onnx's own export and model class, float32, all logits."""
    import onnxruntime
    import torch
    from optimum.onnxruntime import ORTModelForCausalLM  # type: ignore[import-not-found]

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    exported = output.exists()
    source = output if exported else checkpoint / "lm"
    model = ORTModelForCausalLM.from_pretrained(source, export=not exported, session_options=options)
    if not exported:
        model.save_pretrained(output)
    model.embed_size_per_head = model.config.head_dim  # it takes hidden_size / heads, which Qwen3's is not
    past, length = None, 0

    def feed(tokens: torch.Tensor) -> None:
        nonlocal past, length
        length += tokens.shape[1]
        mask = torch.ones(1, length, dtype=torch.int64)
        past = model(input_ids=tokens, attention_mask=mask, past_key_values=past).past_key_values

    feed(torch.randint(0, 60000, (1, PROMPT)))
    token = torch.tensor([[TOKEN]])
    return repeated(lambda: feed(token))


def onnxruntime_genai(checkpoint: Path, output: Path, threads: int) -> Rounds:
    """onnxruntime-genai's own builder, int4 (block 32), and its own loop, greedy over all logits."""
    import numpy as np
    import onnxruntime_genai as og  # type: ignore[import-not-found]

    if not output.exists():
        builder = [sys.executable, "-m", "onnxruntime_genai.models.builder", "-i", str(checkpoint / "lm")]
        builder += ["-o", str(output), "-p", "int4", "-e", "cpu", "-c", f"{output}.parts"]
        subprocess.run(builder, check=True, stdout=subprocess.DEVNULL)
    config = og.Config(str(output))
    config.overlay(json.dumps({"model": {"decoder": {"session_options": {"intra_op_num_threads": threads}}}}))
    model = og.Model(config)
    params = og.GeneratorParams(model)
    params.set_search_options(max_length=PROMPT + MOST, min_length=PROMPT + MOST, do_sample=False)
    generator = og.Generator(model, params)
    generator.append_tokens(np.random.default_rng(0).integers(0, 60000, (1, PROMPT)).astype(np.int32))
    return repeated(generator.generate_next_token)


def qwen_tts(checkpoint: Path, output: Path, threads: int, dtype: str = "float32") -> Rounds:  # noqa: ARG001
    """Upstream itself, eager PyTorch: the talker's `generate()`, which calls the predictor's once a frame."""
    # Its 25 Hz tokenizer, which nothing here runs, imports these.
    for name in ("sox", "torchaudio", "torchaudio.compliance", "torchaudio.compliance.kaldi"):
        sys.modules[name] = types.ModuleType(name)
        sys.modules[name].__spec__ = ModuleSpec(name, None, is_package=True)
    import torch
    from qwen_tts.core.models.configuration_qwen3_tts import (  # type: ignore[import-not-found]
        Qwen3TTSTalkerConfig,
    )
    from qwen_tts.core.models.modeling_qwen3_tts import (  # type: ignore[import-not-found]
        Qwen3TTSTalkerForConditionalGeneration,
    )
    from safetensors.torch import load_file

    torch.set_num_threads(threads)
    torch.set_default_dtype(getattr(torch, dtype))
    config = json.loads((checkpoint / "config.json").read_text())["talker_config"]
    talker = Qwen3TTSTalkerForConditionalGeneration(Qwen3TTSTalkerConfig(**config)).eval()
    weights = load_file(checkpoint / "model.safetensors")
    talker.load_state_dict({k.removeprefix("talker."): v for k, v in weights.items() if k.startswith("talker.")})
    settings = json.loads((checkpoint / "generation_config.json").read_text())
    width, marks = config["hidden_size"], []
    talker.register_forward_pre_hook(lambda *_: marks.append(time.perf_counter()))

    def run(n: int) -> list[float]:
        marks.clear()
        talker.generate(
            inputs_embeds=0.02 * torch.randn(1, SENTENCE, width),
            attention_mask=torch.ones(1, SENTENCE, dtype=torch.int64),
            trailing_text_hidden=torch.zeros(1, 1, width),
            tts_pad_embed=torch.zeros(1, 1, width),
            output_hidden_states=True,
            return_dict_in_generate=True,
            eos_token_id=config["codec_eos_token_id"],
            **settings | {"max_new_tokens": n + 2, "min_new_tokens": n + 2},
        )
        return [after - before for before, after in pairwise(marks[1:])]  # the first call is the prompt

    return run


def qwen_tts_bf16(checkpoint: Path, output: Path, threads: int) -> Rounds:
    return qwen_tts(checkpoint, output, threads, "bfloat16")


if __name__ == "__main__":
    name, checkpoint, output, threads = sys.argv[1:]
    rounds: Rounds = globals()[name](Path(checkpoint), Path(output), int(threads))
    rounds(WARM)
    print("ready", flush=True)
    for line in sys.stdin:
        print(json.dumps(rounds(int(line))), flush=True)
