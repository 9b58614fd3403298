"""Qwen3-TTS at export: draws inside the graph, and what a bundle's manifest and files say."""

import json
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from voxport.graphs.ort import OrtSession
from voxport.manifest import Manifest
from voxport.speech.sampler import Sampling
from voxport.systems.qwen3tts.section import Section, SpeakerEncoderSection
from voxport_exporters.pack import pack
from voxport_exporters.systems.qwen3tts import job as qwen3tts
from voxport_exporters.systems.qwen3tts.predictor import drawn

Array = np.ndarray

FIXTURES = Path(__file__).parents[1] / "fixtures"
BASE, CUSTOM = "qwen3tts-base", "qwen3tts-customvoice"


@given(
    seed=st.integers(0, 2**32 - 1),
    size=st.integers(2, 40),
    temperature=st.floats(0.1, 3),
    top_k=st.integers(0, 45),
    top_p=st.floats(0.05, 1),
    u=st.floats(0, 0.9999),
)
@settings(max_examples=200, deadline=None)
def test_draws_are_those_of_the_sampler(
    seed: int, size: int, temperature: float, top_k: int, top_p: float, u: float
) -> None:
    logits = np.random.default_rng(seed).standard_normal(size).astype(np.float32) * 4
    sampling = Sampling(float(np.float32(temperature)), top_k, float(np.float32(top_p)), 1.0)
    candidates, p = sampling.chances(logits)
    if np.abs(np.cumsum(p) - u).min() < 1e-5:
        return  # either neighbour is right
    full = Sampling(sampling.temperature, top_k, 1.0, 1.0).chances(logits)[1]
    if np.abs(np.cumsum(np.sort(full)) - (1 - sampling.top_p)).min() < 1e-5:
        return
    code = draw(logits, u, temperature, top_k, top_p)
    assert code == sampling.draw(logits, u)
    assert code in candidates


def draw(logits: Array, u: float, temperature: float, top_k: int, top_p: float) -> int:
    numbers = (torch.tensor([temperature]), torch.tensor([top_k]), torch.tensor([top_p]))
    return int(drawn(torch.from_numpy(logits)[None], torch.tensor([[u]], dtype=torch.float32), *numbers))


def test_best_code_is_the_first_of_equals() -> None:
    assert draw(np.array([1, 7, 3, 7, 7], np.float32), 0.0, 1.0, 1, 1.0) == 1


def test_largest_draw_ends_in_a_code_that_was_kept() -> None:
    logits = np.random.default_rng(0).standard_normal(1000).astype(np.float32)
    best = set(np.argsort(logits)[-50:].tolist())
    for u in (np.nextafter(np.float32(1), np.float32(0)), 1.0):
        assert draw(logits, float(u), 1.0, 50, 1.0) in best


def test_manifest_says_what_the_prompt_needs() -> None:
    base, custom = (qwen3tts.job(FIXTURES / name) for name in (BASE, CUSTOM))
    assert (base.variant, custom.variant, custom.sample_rate) == ("0.6b-base", "0.6b-customvoice", 24000)
    contents = json.loads((FIXTURES / CUSTOM / "config.json").read_text())["talker_config"]
    assert custom.voices == sorted(contents["spk_id"])
    assert {n: i for n, i in custom.tokens.items() if n.startswith("speaker.")} == {
        f"speaker.{n}": i for n, i in contents["spk_id"].items()
    }
    assert custom.tokens["dialect.eric"] == contents["codec_language_id"][contents["spk_is_dialect"]["eric"]]
    assert custom.tokens["codec.suppressed"] == contents["vocab_size"] - 1024
    section = Section(books=16, codes=64, frame=1920, least_tokens=2, context=32768, instruct=False)
    assert custom.section == section
    assert base.section == msgspec.structs.replace(section, speaker_encoder=SpeakerEncoderSection(24000, 5))
    assert custom.sampling["non_streaming_mode"] is True
    assert base.sampling["non_streaming_mode"] is False
    assert base.sampling["max_new_tokens"] == 8192
    assert not base.voices


def test_tokenizer_is_upstreams() -> None:
    from tokenizers import Tokenizer

    for name in (BASE, CUSTOM):
        raw = qwen3tts.job(FIXTURES / name).files["tokenizer.json"]
        assert isinstance(raw, bytes)
        tokens = Tokenizer.from_str(raw.decode())
        text = json.loads((FIXTURES / name / "golden.json").read_text())["runs"]["text"]
        for example in ({"text": text["template"], "ids": text["ids"]}, *text["examples"]):
            assert tokens.encode(example["text"]).ids == example["ids"]


@pytest.mark.parametrize("size", ["0b6", "1b7"])
@pytest.mark.parametrize("kind", ["base", "custom_voice", "voice_design"])
def test_variants_are_told_apart(size: str, kind: str, tmp_path: Path) -> None:
    for name in ("model.safetensors", "vocab.json", "merges.txt", "tokenizer_config.json"):
        (tmp_path / name).symlink_to(FIXTURES / CUSTOM / name)
    codec = FIXTURES / CUSTOM / "speech_tokenizer"
    contents = json.loads((FIXTURES / CUSTOM / "config.json").read_text())
    contents |= {"tts_model_size": size, "tts_model_type": kind}
    (tmp_path / "config.json").write_text(json.dumps(contents))
    job = qwen3tts.job(tmp_path, codec=codec)
    assert job.variant == f"{'0.6b' if size == '0b6' else '1.7b'}-{kind.replace('_', '')}"
    hears = {("1b7", "custom_voice"), ("0b6", "voice_design"), ("1b7", "voice_design")}
    assert isinstance(job.section, Section)
    assert job.section.instruct is ((size, kind) in hears)
    with pytest.raises(ValueError, match=f"found {job.variant}"):
        qwen3tts.job(tmp_path, variant="7b-base")


def test_wrong_folders_are_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is this a Qwen3-TTS folder"):
        qwen3tts.job(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="not the config of a Qwen3-TTS model"):
        qwen3tts.job(tmp_path)


def test_a_packed_bundle_holds_shared_weights_once(tmp_path: Path) -> None:
    """`mixed`: the predictor's tables lie in the file of the stage that was written first."""
    pack(qwen3tts.job(FIXTURES / BASE), tmp_path / "bundle", qwen3tts.RECIPES["mixed"], "cpu")
    manifest = msgspec.json.decode((tmp_path / "bundle/manifest.json").read_bytes(), type=Manifest)
    assert set(manifest.stages) == {
        "text_embed", "codec_embed", "frame_embed", "talker", "predictor",
        "codec_decode", "codec_analyse", "codec_encode", "speaker_encode",
    }  # fmt: skip
    assert b"frame_embed.onnx.data" in (tmp_path / "bundle/predictor.onnx").read_bytes()
    session = OrtSession(tmp_path / "bundle/predictor.onnx")
    shapes = {t.name: t.sized({"batch": 1}) for t in session.stage.inputs}
    half = {"float32": 0.5, "int64": 1}
    feed = {t.name: np.full(shapes[t.name], half[t.dtype], t.dtype) for t in session.stage.inputs}
    codes = session(session.start(), into=None, **feed)[0]["codes"]
    assert ((codes >= 0) & (codes < 64)).all()
