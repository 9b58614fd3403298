"""Fun-CosyVoice3 of other sizes, as a whole: another rate, other bands, ratios, widths and kernels."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from benchmarks.fullsize.cosyvoice3 import write_frontend, write_weights
from benchmarks.fullsize.cosyvoice3_frontend import Size
from tests.bundles import FIXTURES
from tests.command import done, run

from voxport.bundle import Bundle
from voxport.systems.cosyvoice3.speaker import Speaker
from voxport_exporters.systems.cosyvoice3.config import read_config
from voxport_parity.chain import chain

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::UserWarning")]
RECORDING = FIXTURES / "cosyvoice3" / "prompt.wav"
FRONTEND = Size(width=16, layers=1, heads=2, channels=16, blocks=1)
QWEN: dict[str, Any] = {
    "hidden_size": 40,
    "num_attention_heads": 5,
    "num_key_value_heads": 1,
    "num_hidden_layers": 2,
    "intermediate_size": 56,
}
# section of the yaml (or "" for all of it) -> what to write in place of what
SIZES: list[tuple[str, str]] = [
    (r"^sample_rate: .*", "sample_rate: 16000"),
    (r"^llm_(in|out)put_size: .*", r"llm_\1put_size: 40"),
    (r"^spk_embed_dim: .*", "spk_embed_dim: 12"),
    (r"^token_mel_ratio: .*", "token_mel_ratio: 4"),
    (r"^chunk_size: .*", "chunk_size: 7"),
    (r"speech_token_size: .*", "speech_token_size: 90"),
    (r"mix_ratio: .*", "mix_ratio: [3, 4]"),
    (r"win_size: 10", "win_size: 6"),
    (r"(^flow:.*\n +)input_size: .*\n( +)output_size: .*", r"\1input_size: 20\n\2output_size: 24"),
    (r"vocab_size: .*", "vocab_size: 90"),
    (r"pre_lookahead_len: .*", "pre_lookahead_len: 2"),
    (r"(PreLookaheadLayer\n +in_channels): .*\n( +channels): .*", r"\1: 20\n\2: 9"),
    (r"( +)dim: 32", r"\1dim: 48"),
    (r"depth: .*", "depth: 2"),
    (r" heads: .*", " heads: 3"),
    (r"dim_head: .*", "dim_head: 10"),
    (r"ff_mult: .*", "ff_mult: 3"),
    (r"mel_dim: .*", "mel_dim: 24"),
    (r"mu_dim: .*", "mu_dim: 20"),
    (r" spk_dim: .*", " spk_dim: 24"),
    (r"out_channels: .*", "out_channels: 24"),
    (r"t_scheduler: .*", "t_scheduler: 'linear'"),
    (r"(CausalHiFTGenerator\n +in_channels): .*\n( +base_channels): .*", r"\1: 24\n\2: 16"),
    (r"nb_harmonics: .*", "nb_harmonics: 4"),
    (r"upsample_rates: .*", "upsample_rates: [8, 5]"),
    (r"upsample_kernel_sizes: .*", "upsample_kernel_sizes: [11, 9]"),
    (r"( +)resblock_kernel_sizes: .*", r"\1resblock_kernel_sizes: [3, 5]"),
    (r"( +)resblock_dilation_sizes: .*", r"\1resblock_dilation_sizes: [[1, 2], [1, 3]]"),
    (r"source_resblock_kernel_sizes: .*", "source_resblock_kernel_sizes: [5, 3]"),
    (r"source_resblock_dilation_sizes: .*", "source_resblock_dilation_sizes: [[1, 2], [1, 3]]"),
    (r"conv_pre_look_right: .*", "conv_pre_look_right: 2"),
    (r"(CausalConvRNNF0Predictor\n +num_class: 1\n +in_channels): .*\n( +cond_channels): .*", r"\1: 24\n\2: 10"),
    (r"n_fft: 1920", "n_fft: 640"),
    (r"num_mels: .*", "num_mels: 24"),
    (r"hop_size: 480", "hop_size: 160"),
    (r"win_size: 1920", "win_size: 640"),
]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("odd") / "model"
    shutil.copytree(FIXTURES / "cosyvoice3", root, ignore=shutil.ignore_patterns("golden.*", "*.pt", "*.onnx"))
    text = (root / "cosyvoice3.yaml").read_text()
    for pattern, words in SIZES:
        text, count = re.subn(pattern, words, text, flags=re.MULTILINE)
        assert count, pattern
    (root / "cosyvoice3.yaml").write_text(text)
    qwen = root / "CosyVoice-BlankEN" / "config.json"
    qwen.write_text(json.dumps(json.loads(qwen.read_text()) | QWEN))
    config = read_config(root)
    write_weights(root, config, seed=5)
    write_frontend(root, config, seed=7, size=FRONTEND)
    return root


@pytest.mark.parametrize("target", ["cpu", "portable"])
def test_another_size_is_exported_proved_and_speaks(checkpoint: Path, target: str, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    done(run("export", "cosyvoice3", checkpoint, "-o", bundle, "--recipe", "mixed", "--target", target))
    done(run("verify", bundle))
    diffs = list(chain("cosyvoice3", checkpoint, bundle, None))
    assert [str(diff) for diff in diffs if not diff.ok] == []
    speaker = Speaker(Bundle(bundle), threads=1)
    friend = speaker.enroll(RECORDING, "Hi hope.")
    limits: dict[str, Any] = {"min_new_tokens": 30, "max_new_tokens": 30, "flow_steps": 4}
    lengths = set()
    for schedule in ("whole", "upstream", "low_latency"):
        speech = speaker.say("Good day, all.", voice=friend, seed=1, schedule=schedule, **limits)
        samples = speech.samples()
        assert np.isfinite(samples).all()
        lengths.add(len(samples))
    assert lengths == {30 * 4 * 160}
    assert speech.sample_rate == 16000
