"""cosyvoice3.yaml is data: read, checked, and never run (docs/systems/cosyvoice3.md 1)."""

import json
import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.bundles import FIXTURES

from voxport_exporters.systems.cosyvoice3 import yamlfile
from voxport_exporters.systems.cosyvoice3.config import QWEN, YAML, read_config

FIXTURE = FIXTURES / "cosyvoice3"
TEXT = (FIXTURE / YAML).read_text()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / QWEN).mkdir()
    shutil.copyfile(FIXTURE / QWEN / "config.json", tmp_path / QWEN / "config.json")
    (tmp_path / YAML).write_text(TEXT)
    return tmp_path


def change(root: Path, old: str, new: str) -> None:
    """Replaces a piece of cosyvoice3.yaml, wherever it stands."""
    text = (root / YAML).read_text()
    assert old in text
    (root / YAML).write_text(text.replace(old, new))


def test_the_fixtures_numbers_are_read() -> None:
    config = read_config(FIXTURE)
    assert (config.sample_rate, config.token_frame_rate, config.frame) == (24000, 25, 960)
    assert (config.llm.speech_token_size, config.llm.rows, config.llm.mix_ratio) == (243, 443, (5, 15))
    assert (config.flow.dit.depth, config.flow.dit.static_chunk_size, config.flow.cfm.inference_cfg_rate) == (
        3,
        50,
        0.7,
    )
    assert (config.hift.harmonics, config.hift.hop) == (9, 480)
    assert (config.mel.n_fft, config.mel.fmin, config.mel.fmax) == (1920, 0, None)


def read(folder: Path, text: str) -> dict[str, object]:
    (folder / YAML).write_text(text)
    return yamlfile.read(folder / YAML)


def test_references_are_worked_out_and_tags_are_words(tmp_path: Path) -> None:
    found = read(
        tmp_path,
        "a: 6\nb: !ref <a> * 2\nc: !new:x.Y\n  d: [!ref <b>, !ref <a> / 4]\n  e: !name:z.f\n    g: !ref <a> - 1\n",
    )
    assert found["b"] == 12
    assert found["c"] == {"d": [12, 1.5], "e": {"g": 5, "!": "name:z.f"}, "!": "new:x.Y"}


def test_nothing_in_it_is_run(tmp_path: Path) -> None:
    spell = f"a: !apply:os.system ['touch {tmp_path / 'ran'}']\nb: !new:os.mkdir ['{tmp_path / 'ran'}']\n"
    assert read(tmp_path, spell).keys() == {"a", "b"}
    with pytest.raises(ValueError, match=rf"^{tmp_path / YAML}: not YAML"):
        read(tmp_path, f"a: !!python/object/apply:os.system ['touch {tmp_path / 'ran'}']\n")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "text",
    ["", "- 1", "a: !ref <b>", "a: !ref <a>", "a: [", "a: !ref <b> / 0\nb: 1", "a: !ref x y", "\x00", "a: *b"],
)
def test_a_file_that_makes_no_sense_is_one_line(tmp_path: Path, text: str) -> None:
    with pytest.raises(ValueError, match=rf"^{tmp_path / YAML}: ") as caught:
        read(tmp_path, text)
    assert "\n" not in str(caught.value)


@given(st.one_of(st.binary(max_size=60), st.text(st.sampled_from("ab:!ref<>*/ 01[]{}\n-&'\"")).map(str.encode)))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_no_bytes_raise_anything_but_a_line(tmp_path: Path, raw: bytes) -> None:
    (tmp_path / YAML).write_bytes(raw)
    line = f"{tmp_path / YAML}: "
    try:
        yamlfile.read(tmp_path / YAML)
    except ValueError as error:
        line = str(error)
    assert line.startswith(f"{tmp_path / YAML}: ")
    assert "\n" not in line


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("llm_input_size: 32", "llm_input_size: 64", "llm: llm_input_size 64, llm_output_size 32, but .* is 32 wide"),
        ("vocab_size: 243", "vocab_size: 244", "llm: speech_token_size 243, but flow: vocab_size 244"),
        ("        pre_lookahead_len: 3", "        pre_lookahead_len: 4", "pre_lookahead_layer disagrees"),
        ("mel_dim: 80", "mel_dim: 79", "flow: mel_dim 79"),
        ("spk_dim: 80", "spk_dim: 81", "flow: spk_dim 81 is not output_size 80"),
        ("'cosine'", "'cubic'", "flow: t_scheduler 'cubic' is not known"),
        (
            "    num_mels: 80\n",
            "    num_mels: 100\n",
            "the mel has 80 bands in flow, 80 in hift, 100 in feat_extractor",
        ),
        (
            "    sampling_rate: !ref <sample_rate>\n    hop_size",
            "    sampling_rate: 16000\n    hop_size",
            "16000 in feat",
        ),
        ("hop_size: 480", "hop_size: 320", "hift makes 480 samples per frame, feat_extractor's hop is 320"),
        ("token_frame_rate: 25", "token_frame_rate: 50", "50 tokens of 960 samples are not the sample_rate 24000"),
        ("upsample_rates: [8, 5, 3]", "upsample_rates: [8, 15]", "upsample_kernel_sizes has 3 entries, upsample_rates"),
        ("base_channels: 32", "base_channels: 36", "base_channels 36 cannot be halved 3 times"),
        ("DiT.dit.DiT", "DiT.unet.UNet", "estimator: wanted a DiT, found UNet; is this a Fun-CosyVoice3 checkpoint"),
        ("llm.llm.CosyVoice3LM", "llm.llm.Qwen2LM", "llm: wanted a CosyVoice3LM, found Qwen2LM"),
        ("sample_rate: 24000", "sample_rate: 0", "sample_rate is 0, wanted a size"),
        ("depth: 3", "depth: three", 'depth is "three"'),
        ("    win_size: 1920\n", "    win_size: 1921\n", "n_fft 1920 is shorter than win_size or hop_size"),
        ("    fmin: 0\n", "    fmin: 12000\n", "fmin 12000 is not below fmax"),
        ("    center: False\n", "    center: True\n", "center is true"),
    ],
)
def test_numbers_that_disagree_are_one_line(root: Path, old: str, new: str, words: str) -> None:
    change(root, old, new)
    with pytest.raises(ValueError, match=words) as caught:
        read_config(root)
    assert str(caught.value).startswith(f"{root / YAML}: ")
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(root: Path) -> None:
    (root / QWEN / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"CosyVoice-BlankEN/config.json: No such file"):
        read_config(root)
    (root / YAML).unlink()
    with pytest.raises(FileNotFoundError, match=r"cosyvoice3.yaml: no such file; is .* a Fun-CosyVoice3 checkpoint\?"):
        read_config(root)


def test_another_width_of_the_language_model_is_found(root: Path) -> None:
    path = root / QWEN / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"hidden_size": 64}))
    with pytest.raises(ValueError, match="llm_input_size 32, llm_output_size 32, but CosyVoice-BlankEN is 64 wide"):
        read_config(root)
