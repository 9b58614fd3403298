"""Whatever stands in a config.json, it gives a config that can be used, or one line with the file and the key."""

import copy
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from voxport_exporters.codecs.codec12hz import config as codec12hz
from voxport_exporters.codecs.codec12hz import stages as codec12hz_stages
from voxport_exporters.codecs.snac import stages as snac
from voxport_exporters.nets.decoder_config import DecoderConfig
from voxport_exporters.systems.llvc import config as llvc
from voxport_exporters.systems.qwen3tts import config as qwen3tts
from voxport_exporters.systems.qwen3tts import job as qwen3tts_job
from voxport_exporters.systems.vyvo import job as vyvo

FIXTURES = Path(__file__).parents[1] / "fixtures"
VALUES: list[Any] = [0, -1, 10**400, 2**31, "x", "", None, [], {}, True, 1.5, float("inf"), float("nan"), [0]]
Place = tuple[str | int, ...]


def use_llvc(path: Path) -> object:
    net, rate = llvc.read_config(path)
    assert rate > 0
    return net.chunk, net.context, net.prenet and (net.prenet.contexts, net.prenet.in_channels)


def use_snac(path: Path) -> object:
    config = snac.read_config(path)
    return config.latent, config.widths, config.upsampled, config.hop, config.unit, config.frame, snac.section(config)


def use_codec12hz(path: Path) -> object:
    config = codec12hz.read_config(path)
    return (
        codec12hz_stages.decode_stage(config.decoder_config),
        codec12hz_stages.analyse_stage(config.encoder_config),
        codec12hz_stages.encode_stage(config.encoder_config, config.encoder_valid_num_quantizers),
        config.encoder_config.reach,
    )


def use_decoder(config: DecoderConfig) -> object:
    assert min(config.vocab, config.width, config.heads, config.kv_heads, config.head_size, config.ffn) > 0
    assert config.head_size > 10**6 or config.rope.frequencies(config.head_size).shape == (config.head_size // 2,)
    return config.mixers


def use_qwen3tts(path: Path) -> object:
    config = qwen3tts.read_config(path)
    use_decoder(config.talker_layers)
    use_decoder(config.predictor_layers)
    return config.variant, qwen3tts_job.tokens(config), config.speaker and config.speaker.least


CASES: dict[str, tuple[Path, Callable[[Path], object]]] = {
    "llvc": (FIXTURES / "llvc/experiments/llvc/config.json", use_llvc),
    "snac": (FIXTURES / "vyvo/snac_24khz/config.json", use_snac),
    "codec12hz": (FIXTURES / "qwen3tts-base/speech_tokenizer/config.json", use_codec12hz),
    "lfm2": (FIXTURES / "vyvo/lm/config.json", lambda path: use_decoder(vyvo.read_config(path))),
    "qwen3tts": (FIXTURES / "qwen3tts-base/config.json", use_qwen3tts),
    "customvoice": (FIXTURES / "qwen3tts-customvoice/config.json", use_qwen3tts),
    "sampling": (
        FIXTURES / "qwen3tts-base/generation_config.json",
        lambda path: [float(value) for value in qwen3tts.sampling(path).values()],
    ),
}
LLAMA = {
    "model_type": "llama", "vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "intermediate_size": 48, "hidden_act": "silu", "rms_norm_eps": 1e-6,
    "tie_word_embeddings": True, "attention_bias": False, "mlp_bias": False, "max_position_embeddings": 64,
    "rope_scaling": {
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 32,
    },
}  # fmt: skip


def places(value: Any, way: Place = ()) -> Iterator[Place]:
    """The way to every value inside."""
    items: Any = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield (*way, key)
        yield from places(inner, (*way, key))


def changed(content: Any, way: Place, value: Any) -> Any:
    """A copy with `value` at the end of `way`."""
    content = copy.deepcopy(content)
    place = content
    for key in way[:-1]:
        place = place[key]
    place[way[-1]] = value
    return content


def refusal(use: Callable[[Path], object], path: Path) -> str | None:
    """The message of the ValueError that `use` raises. Any other exception passes through."""
    try:
        use(path)
    except ValueError as error:
        return str(error)
    return None


def assert_used_or_one_line(content: Any, use: Callable[[Path], object], path: Path) -> None:
    path.write_text(json.dumps(content))
    line = refusal(use, path)
    if line is not None:
        assert "\n" not in line
        assert line.startswith(str(path))
        assert len(line) < len(str(path)) + 260


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("configs")


@pytest.mark.parametrize("name", CASES)
def test_any_wrong_value_of_a_field_is_one_line_that_names_the_file(name: str, scratch: Path) -> None:
    source, use = CASES[name]
    content = json.loads(source.read_text())
    use(source)
    for way in places(content):
        for value in VALUES:
            assert_used_or_one_line(changed(content, way, value), use, scratch / source.name)


def test_any_wrong_value_of_a_llama_is_one_line_that_names_the_file(scratch: Path) -> None:
    for family in ("llama", "qwen2", "qwen3"):
        content = LLAMA | {"model_type": family}
        for way in places(content):
            for value in VALUES:
                assert_used_or_one_line(changed(content, way, value), CASES["lfm2"][1], scratch / "config.json")


@settings(max_examples=200, deadline=None)
@given(data=st.data(), name=st.sampled_from(list(CASES)))
def test_any_two_wrong_values_are_one_line_that_names_the_file(name: str, scratch: Path, data: st.DataObject) -> None:
    source, use = CASES[name]
    content = json.loads(source.read_text())
    for _ in range(2):
        way = data.draw(st.sampled_from(list(places(content))))
        content = changed(content, way, data.draw(st.sampled_from(VALUES)))
    assert_used_or_one_line(content, use, scratch / source.name)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"vq_strides": ' + "9" * 5000 + "}", "\ufeff{}", "{'a': 1}", "nul"])
def test_a_file_that_is_no_json_is_one_line(text: str, scratch: Path) -> None:
    path = scratch / "config.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"config\.json: not JSON: ") as error:
        snac.read_config(path)
    assert "\n" not in str(error.value)
