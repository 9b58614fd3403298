"""Each system's section of the manifest is as strict as it is typed: what its runtime would divide by is never 0."""

from typing import Any

import msgspec
import pytest

from voxport.systems.llvc.section import Section as Llvc
from voxport.systems.qwen3tts.section import Section as Qwen3Tts
from voxport.systems.vyvo.section import Section as Vyvo

CODEC = {"delay": 4754, "size": 4096, "strides": [4, 2, 1], "before": 3, "after": 3}
SECTIONS: dict[type[msgspec.Struct], dict[str, Any]] = {
    Llvc: {"hop": 16},
    Vyvo: {"context": 128000, "reference_seconds": 30, "codec": CODEC},
    Qwen3Tts: {
        "books": 16,
        "codes": 2048,
        "frame": 1920,
        "least_tokens": 2,
        "context": 32768,
        "instruct": False,
        "speaker_encoder": {"rate": 24000, "mel_frames": 5},
    },
}
WRONG: list[tuple[type[msgspec.Struct], dict[str, Any], str]] = [
    (Llvc, {"hop": 0}, r">= 1 - at `\$\.hop`"),
    (Llvc, {"hop": 1.5}, r"Expected `int`, got `float` - at `\$\.hop`"),
    (Llvc, {"hop": "8"}, r"got `str` - at `\$\.hop`"),
    (Vyvo, {"context": 0}, r">= 1 - at `\$\.context`"),
    (Vyvo, {"codec": CODEC | {"strides": []}}, r"length >= 1 - at `\$\.codec\.strides`"),
    (Vyvo, {"codec": CODEC | {"strides": [4, 0]}}, r">= 1 - at `\$\.codec\.strides\[1\]`"),
    (Vyvo, {"codec": CODEC | {"strides": [4, 3]}}, r"strides \[4, 3\]: wanted divisors of the first - at `\$\.codec`"),
    (Vyvo, {"codec": CODEC | {"size": 0}}, r">= 1 - at `\$\.codec\.size`"),
    (Vyvo, {"codec": CODEC | {"stride": 1}}, r"unknown field `stride` - at `\$\.codec`"),
    (Qwen3Tts, {"books": 0}, r">= 1 - at `\$\.books`"),
    (Qwen3Tts, {"frame": 0}, r">= 1 - at `\$\.frame`"),
    (Qwen3Tts, {"least_tokens": -1}, r">= 0 - at `\$\.least_tokens`"),
    (Qwen3Tts, {"instruct": 1}, r"Expected `bool`, got `int` - at `\$\.instruct`"),
    (Qwen3Tts, {"speaker_encoder": {"rate": 0, "mel_frames": 5}}, r">= 1 - at `\$\.speaker_encoder\.rate`"),
]


@pytest.mark.parametrize("kind", SECTIONS)
def test_a_section_survives_its_manifest_and_no_field_may_be_missing(kind: type[msgspec.Struct]) -> None:
    section = msgspec.convert(SECTIONS[kind], kind)
    assert msgspec.to_builtins(section) == SECTIONS[kind]
    required = {field.name for field in msgspec.structs.fields(kind) if field.required}
    for name in required:
        with pytest.raises(msgspec.ValidationError, match=f"missing required field `{name}`"):
            msgspec.convert({k: v for k, v in SECTIONS[kind].items() if k != name}, kind)


@pytest.mark.parametrize(("kind", "change", "words"), WRONG)
def test_a_wrong_value_is_named(kind: type[msgspec.Struct], change: dict[str, Any], words: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=words):
        msgspec.convert(SECTIONS[kind] | change, kind)
