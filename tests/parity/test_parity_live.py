"""The live link: upstream's own classes beside the nets, also on checkpoints that nobody has goldens for."""

import shutil
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
import snac  # type: ignore[import-untyped]
import torch
from tests.bundles import Export
from tests.command import done, refusal, run
from tests.exporters.decoders import CONFIGS, checkpoint
from tests.exporters.test_lora import adapter
from tests.exporters.test_snac_configs import RELEASED, release

from voxport.bundle import Bundle
from voxport.manifest import FORMAT, Manifest, Source, StageRecord
from voxport.recipe import Recipe
from voxport_exporters.checkpoints.weights import Weights
from voxport_exporters.nets.decoder_config import Rope
from voxport_exporters.pack import Job
from voxport_exporters.systems.vyvo import job as vyvo
from voxport_parity.compare import compare
from voxport_parity.reference import TorchBundle
from voxport_parity.systems.vyvo import feeds

VOCAB = 29_100  # what stands before the codes in the fixture, its codes, and rows that mean nothing
# SNACs that speak 7 codes of 4096 a frame, as the fixture's language model does
SMALL = RELEASED | {"encoder_dim": 6, "decoder_dim": 32}
CODECS: dict[str, dict[str, Any]] = {
    "other rates": SMALL | {"encoder_rates": [3, 5, 4, 8], "decoder_rates": [8, 5, 4, 3]},
    "two levels, no noise": SMALL
    | {"vq_strides": [6, 1], "noise": False, "encoder_rates": [8, 8, 4], "decoder_rates": [4, 8, 8]},
    "attention": SMALL
    | {
        "encoder_rates": [4, 8],
        "encoder_dim": 16,
        "decoder_rates": [8, 8, 5],
        "decoder_dim": 128,
        "attn_window_size": 8,
    },
}
# Language models (test_decoder has them in the spelling of transformers 4 and 5), each with one of the codecs
PAIRS = list(zip(CONFIGS, list(CODECS) * len(CONFIGS), strict=False))


@pytest.fixture
def root(vyvo_checkpoint: Path, tmp_path: Path) -> Path:
    """The fixture without its goldens."""
    return Path(shutil.copytree(vyvo_checkpoint, tmp_path / "root", ignore=shutil.ignore_patterns("golden*")))


def written(root: Path, lm: str, codec: str) -> None:
    """Puts random models of another shape in place of the fixture's."""
    for folder in ("lm", "snac_24khz"):
        for name in ("config.json", "model.safetensors", "generation_config.json", "pytorch_model.bin"):
            (root / folder / name).unlink(missing_ok=True)
    checkpoint(CONFIGS[lm] | {"vocab_size": VOCAB, "max_position_embeddings": 600}, root / "lm")
    release(CODECS[codec], root / "snac_24khz")


def nets(job: Job, folder: Path) -> TorchBundle:
    """The nets of a checkpoint behind the runtime, without exporting any; `folder` gets the files beside them."""
    parts = list(job.parts)
    for name, source in job.files.items():
        (folder / name).write_bytes(source if isinstance(source, bytes) else source.read_bytes())
    bundle = object.__new__(Bundle)
    bundle.path = folder
    bundle.manifest = Manifest(
        format=FORMAT,
        system=job.system,
        variant=job.variant,
        sample_rate=job.sample_rate,
        target="cpu",
        recipe=Recipe("fp32"),
        source=Source({}),
        tools={},
        stages={part.stage.name: StageRecord(0, 0, 0, {}) for part in parts},
        files={},
        section=msgspec.to_builtins(job.section),
        tokens=job.tokens,
        sampling=job.sampling,
        voices=job.voices,
    )
    return TorchBundle(bundle, parts)


@pytest.mark.parametrize(("lm", "codec"), PAIRS)
def test_nets_of_any_shape_are_upstreams(lm: str, codec: str, root: Path) -> None:
    written(root, lm, codec)
    bundle = nets(vyvo.job(root), root)
    golden = feeds.without_golden(bundle)
    trace = feeds.trace(bundle, golden)
    rows = [
        compare("vyvo", feeds.stage(name), "live", name, got, expected, feeds.bound(name))
        for name, got, expected in feeds.live(vyvo.job(root).checkpoint, golden, trace)
    ]
    assert not [str(diff) for diff in rows if not diff.ok]
    names = {diff.tensor for diff in rows}
    layers, levels = CONFIGS[lm]["num_hidden_layers"], len(CODECS[codec]["vq_strides"])
    assert names >= {f"{call}.hidden{i}" for call in ("prefill", "step1") for i in range(layers + 1)}
    assert names >= {"decode.z_q", "decode.wav", "encode.z", *(f"encode.codes{i}" for i in range(levels))}
    assert names >= {
        f"{run}.{kind}" for run in ("greedy", "sampled") for kind in ("raw_top8_logits", "chosen_raw_logit")
    }
    assert names >= {"prefill.logits_last", "batch.hidden_last", "batch.top_logits"}
    assert trace["decode.wav"].std() > 0.01


WRONG: dict[str, tuple[Any, str, Any]] = {
    "lm": (Rope, "frequencies", lambda frequencies: lambda rope, size: 1.01 * frequencies(rope, size)),
    "codec_decode": (snac.SNAC, "decode", lambda decode: lambda codec, codes: 1.01 * decode(codec, codes)),
    "codec_encode": (snac.SNAC, "encode", lambda encode: lambda codec, x: [c + 1 for c in encode(codec, x)]),
}


@pytest.mark.parametrize("stage", WRONG)
def test_a_stage_that_is_not_upstreams_breaks_the_live_link(
    stage: str, root: Path, vyvo_bundles: Export, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = vyvo_bundles("fp32", "cpu")  # exported before anything is changed
    where, name, changed = WRONG[stage]
    monkeypatch.setattr(where, name, changed(getattr(where, name)))
    result = run("parity", "vyvo", root, "--bundle", bundle)
    assert refusal(result, exit_code=1).startswith(f"live link, stage {stage}: ")
    assert {line.split()[0] for line in result.stdout.splitlines()} == {"live"}  # and there it ends


@pytest.mark.parametrize("missing", ["transformers", "snac"])
def test_without_upstreams_packages_the_link_is_left_out(
    missing: str, root: Path, vyvo_bundles: Export, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    result = run("parity", "vyvo", root, "--bundle", vyvo_bundles("fp32", "cpu"))
    assert {line.split()[0] for line in done(result).splitlines()} == {"graph", "streamed"}
    assert result.stderr == f"live link left out: {missing} is not installed: pip install 'voxport[parity]'\n"


def test_an_adapter_is_not_for_upstreams_class(root: Path, tmp_path: Path) -> None:
    name = "model.layers.2.self_attn.q_proj"
    rows, columns = Weights.open(root / "lm").shape(f"{name}.weight")
    nothing = {"A": torch.randn(2, columns), "B": torch.zeros(rows, 2)}
    lora = adapter(tmp_path / "lora", {f"base_model.model.{name}.lora_{n}.weight": w for n, w in nothing.items()})
    result = run("parity", "vyvo", root, "--lora", lora)
    assert {line.split()[0] for line in done(result).splitlines()} == {"graph", "streamed"}
    assert result.stderr == "live link left out: upstream's class does not merge the adapter\n"


@pytest.mark.slow
def test_the_whole_chain_holds_for_another_shape(root: Path) -> None:
    written(root, "llama", "other rates")
    text = done(run("parity", "vyvo", root))
    assert list(dict.fromkeys(line.split()[0] for line in text.splitlines())) == ["live", "graph", "streamed"]


def test_options_of_another_system_are_refused(root: Path) -> None:
    for system, option in (("vyvo", "--weights"), ("llvc", "--lora")):
        line = refusal(run("parity", system, root, option, root))
        assert line == f"No such option '{option}'; see `voxport parity {system} --help`"
