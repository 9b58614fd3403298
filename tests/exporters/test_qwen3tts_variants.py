"""Qwen3-TTS checkpoints of every variant and of sizes that no fixture has, made on the spot: said, exported, proved."""

import json
import math
import re
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile as sf
from benchmarks.fullsize.qwen3tts import write_weights
from safetensors.torch import load_file, save_file
from tests.bundles import FIXTURES
from tests.command import done, refusal, run
from tests.parity.test_parity_live import nets

from voxport.systems.qwen3tts.section import Section
from voxport.systems.qwen3tts.speaker import Speaker
from voxport.systems.qwen3tts.voice import synthetic_voice
from voxport_exporters.systems.qwen3tts import job as qwen3tts

Fields = dict[str, Any]

BASE, CUSTOM = FIXTURES / "qwen3tts-base", FIXTURES / "qwen3tts-customvoice"
KINDS = ("base", "custom_voice", "voice_design")
TEXT = "Hello there, 你好."
SHORT = {"rate": 24000, "up": [4, 5, 3], "ratios": [2, 2, 2], "down": [5, 6, 8]}  # 480 samples a frame
LOW = {"rate": 16000, "up": [8, 5], "ratios": [2, 4], "down": [4, 5, 8]}  # 320 samples a frame
# `wide` and `narrow`: the predictor is of another width than the talker, and small_to_mtp_projection lies between
SIZES: dict[str, Fields] = {
    "wide": {
        "size": "1b7", "books": 8, "codes": 40, "codec": SHORT,
        "talker": {"hidden_size": 96, "head_dim": 16, "num_hidden_layers": 2, "text_hidden_size": 40},
        "predictor": {"hidden_size": 40, "head_dim": 24, "num_hidden_layers": 1, "layer_types": ["full_attention"]},
    },
    "equal": {
        "size": "0b6", "books": 5, "codes": 70, "codec": LOW,
        "talker": {"hidden_size": 48, "num_attention_heads": 6, "num_key_value_heads": 3, "head_dim": 10},
        "predictor": {"hidden_size": 48, "num_hidden_layers": 3, "layer_types": ["full_attention"] * 3},
    },
    "narrow": {
        "size": "0b6", "books": 2, "codes": 33, "codec": SHORT,
        "talker": {"hidden_size": 40, "num_hidden_layers": 1, "num_attention_heads": 3, "num_key_value_heads": 1},
        "predictor": {"hidden_size": 56},
    },
}  # fmt: skip
ALL = [(kind, size) for kind in KINDS for size in SIZES]
QUICK = ("voice_design", "wide")
SOME = [pair if pair == QUICK else pytest.param(*pair, marks=pytest.mark.slow) for pair in ALL]


def written(
    folder: Path, kind: str, size: str, books: int, codes: int, codec: Fields, talker: Fields, predictor: Fields
) -> None:
    """A random checkpoint in the release's layout with the fixtures' tokenizer.

    `kind`: tts_model_type; `talker`, `predictor`: what is changed in their configs.
    """
    source = CUSTOM if kind == "custom_voice" else BASE
    for name in ("vocab.json", "merges.txt", "tokenizer_config.json", "generation_config.json"):
        shutil.copy(source / name, folder)
    model: Fields = json.loads((source / "config.json").read_text()) | {"tts_model_type": kind, "tts_model_size": size}
    inner = model["talker_config"]
    inner |= {"num_code_groups": books, "vocab_size": codes + qwen3tts.SUPPRESSED} | talker
    inner["spk_id"] = {name: 200 + i for i, name in enumerate(inner["spk_id"])}
    inner["code_predictor_config"] |= {"num_code_groups": books, "vocab_size": codes} | predictor
    if kind == "base":
        model["speaker_encoder_config"]["enc_dim"] = inner["hidden_size"]
    else:
        model.pop("speaker_encoder_config", None)
    speech: Fields = json.loads((source / "speech_tokenizer/config.json").read_text())
    frame = math.prod(codec["up"]) * math.prod(codec["ratios"])
    both = {"num_quantizers": books, "codebook_size": codes}
    speech["decoder_config"] |= both | {"upsample_rates": codec["up"], "upsampling_ratios": codec["ratios"]}
    speech["encoder_config"] |= both | {"num_quantizers": books + 1, "upsampling_ratios": codec["down"]}
    speech["encoder_config"] |= {"sampling_rate": codec["rate"], "_frame_rate": codec["rate"] / frame}
    speech |= dict.fromkeys(("input_sample_rate", "output_sample_rate"), codec["rate"])
    speech |= dict.fromkeys(("decode_upsample_rate", "encode_downsample_rate"), frame)
    speech["encoder_valid_num_quantizers"] = books
    (folder / "speech_tokenizer").mkdir()
    (folder / "config.json").write_text(json.dumps(model))
    (folder / "speech_tokenizer/config.json").write_text(json.dumps(speech))
    write_weights(folder, model, speech, seed=0)
    calmed(folder / "speech_tokenizer/model.safetensors")


def calmed(file: Path) -> None:
    """Makes the decoder's audio small enough for float32: where tanh saturates, 1e-6 before it is 1e-3 after."""
    weights = load_file(file)
    last = max(int(key.split(".")[2]) for key in weights if re.match(r"decoder\.decoder\.\d+\.conv\.", key))
    loud = rf"decoder\.decoder\.(\d+\.block\.\d+\.conv2|{last})\.conv\.weight"
    save_file({key: w * 0.3 if re.fullmatch(loud, key) else w for key, w in weights.items()}, file)


# ------------------------------------------------------------------------------------------------------- saying


def modes(kind: str) -> Iterator[Fields]:
    """Every way that a variant has of saying something."""
    ways: dict[str, list[Fields]] = {
        "base": [{}, {"x_vector_only_mode": True}],
        "custom_voice": [{"voice": "ryan"}, {"voice": "eric", "language": "chinese"}, {"instruct": "Slowly."}],
        "voice_design": [{}, {"instruct": "An old sailor."}, {"instruct": "A child.", "language": "german"}],
    }
    for way in ways[kind]:
        for whole in (True, False):
            yield way | {"non_streaming_mode": whole}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(("kind", "size"), ALL)
def test_every_variant_of_any_size_speaks_in_every_mode(kind: str, size: str, tmp_path: Path) -> None:
    written(tmp_path, kind, **SIZES[size])
    job = qwen3tts.job(tmp_path)
    speaker = Speaker(nets(job, tmp_path), threads=1)
    assert isinstance(job.section, Section)
    books, codes, frame = job.section.books, job.section.codes, job.section.frame
    assert (books, codes) == (SIZES[size]["books"], SIZES[size]["codes"])
    utterances = []
    for mode in modes(kind):
        common: Fields = {
            "voice": synthetic_voice(speaker.requests.listener(), speaker.sample_rate),
            "min_new_tokens": 9,
            "max_new_tokens": 9,
        } | mode
        for draw in ({"greedy": True}, {"seed": 3}):
            speech = speaker.say(TEXT, **common, **draw)
            pieces = [chunk.samples for chunk in speech]
            samples = np.concatenate(pieces)
            assert speech.tokens.shape == (8, books)
            assert 0 <= speech.tokens.min() <= speech.tokens.max() < codes
            assert len(pieces[0]) == frame  # and the rest while it is made
            assert len(samples) == 8 * frame
            assert samples.std() > 0.01
            if "seed" in draw:  # the best codes of random weights may be the same ones over and over
                utterances.append(str(speech.tokens))
            upstreams = speaker.say(TEXT, **common, **draw, codec_schedule="upstream").samples()
            assert np.abs(upstreams[-8 * frame :] - samples).max() < 2e-6
    unheard = kind == "custom_voice" and not job.section.instruct
    assert len(utterances) - len(set(utterances)) == 2 * unheard  # as ryan says it


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["mixed", "int4", "hqq4"])
@pytest.mark.parametrize("size", SIZES)
def test_quantized_variants_of_any_size_are_proved(size: str, recipe: str, tmp_path: Path) -> None:
    """Without goldens the nets that round as the graphs do are the reference; every product is held to its kernel."""
    root, report = tmp_path / "checkpoint", tmp_path / "rows.json"
    root.mkdir()
    written(root, "voice_design", **SIZES[size])
    text = done(run("parity", "qwen3tts", root, "--recipe", recipe, "--json", report))
    assert {line.split()[0] for line in text.splitlines()} == {"graph", "products", "quantized", "streamed"}
    config = json.loads((root / "config.json").read_text())["talker_config"]
    inner, books = config["code_predictor_config"], SIZES[size]["books"]
    layers, joined = inner["num_hidden_layers"], inner["hidden_size"] != config["hidden_size"]
    counts = Counter(row["stage"] for row in json.loads(report.read_text()) if row["link"] == "products")
    assert counts["talker"] == 4 * config["num_hidden_layers"] + 1
    assert counts["predictor"] == (books - 1) * (4 * layers + 1 + joined)


@pytest.mark.parametrize(("kind", "size"), SOME)
def test_every_variant_of_any_size_is_exported_and_proved(kind: str, size: str, tmp_path: Path) -> None:
    root, bundle, out, codes = (tmp_path / name for name in ("checkpoint", "bundle", "out.wav", "codes.npy"))
    root.mkdir()
    written(root, kind, **SIZES[size])
    done(run("export", "qwen3tts", root, "-o", bundle, "--recipe", "fp32"))
    text = done(run("parity", "qwen3tts", root, "--bundle", bundle))
    assert {line.split()[0] for line in text.splitlines()} == {"graph", "streamed"}
    voices = {
        "base": ["--ref-audio", str(BASE / "ref.wav"), "--ref-text", "Hi."],
        "custom_voice": ["--voice", "serena"],
    }
    who = voices.get(kind, ["--instruct", "An old sailor."])
    say: tuple[str | Path, ...] = (
        "say",
        bundle,
        TEXT,
        *who,
        "--save-tokens",
        codes,
        "-o",
        out,
        "--set",
        "max_new_tokens=7",
    )
    recordings = []
    for way in (["--greedy"], ["--seed", "2"], ["--seed", "2", "--stream"], ["--set", "non_streaming_mode=false"]):
        done(run(*say, *way, "--set", "min_new_tokens=7"))
        assert np.load(codes).shape == (6, SIZES[size]["books"])
        assert sf.info(out).samplerate == SIZES[size]["codec"]["rate"]
        assert sf.info(out).frames == 6 * math.prod([*SIZES[size]["codec"]["up"], *SIZES[size]["codec"]["ratios"]])
        recordings.append(out.read_bytes())
    assert recordings[1] == recordings[2]
    assert len(set(recordings)) == 3


# ---------------------------------------------------------------------------------------------------- bad input


@pytest.fixture(scope="module")
def described(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of VoiceDesign."""
    folder = tmp_path_factory.mktemp("described")
    (folder / "checkpoint").mkdir()
    written(folder / "checkpoint", QUICK[0], **SIZES[QUICK[1]])
    done(run("export", "qwen3tts", folder / "checkpoint", "-o", folder / "bundle", "--recipe", "fp32"))
    return folder / "bundle"


def test_a_described_voice_is_asked_for_nothing_else(described: Path, tmp_path: Path) -> None:
    def line(*options: str | Path) -> str:
        return refusal(run("say", described, "Hi.", "-o", tmp_path / "o.wav", *options))

    assert "clones no voices; a Base model does" in line("--ref-audio", BASE / "ref.wav", "--ref-text", "Hi.")
    assert "has no voices of its own; describe one with --instruct" in line("--voice", "ryan")
    assert "language 'klingon' is not one of auto, chinese, english" in line("--language", "klingon")
    assert "clones no voices" in refusal(run("enroll", described, BASE / "ref.wav", "-o", tmp_path / "v.safetensors"))
    assert not (tmp_path / "o.wav").exists()


@pytest.mark.parametrize("verb", ["export", "parity"])
def test_a_missing_speech_tokenizer_is_named(verb: str, tmp_path: Path) -> None:
    root = Path(shutil.copytree(CUSTOM, tmp_path / "checkpoint", ignore=shutil.ignore_patterns("speech_tokenizer")))
    out = ("-o", tmp_path / "bundle") if verb == "export" else ()
    line = refusal(run(verb, "qwen3tts", root, *out))
    assert f"{root / 'speech_tokenizer'}: no such folder; it is part of every release" in line
    assert not (tmp_path / "bundle").exists()
