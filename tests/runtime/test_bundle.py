"""A bundle opens whole or says why not, and proves itself."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.command import done, refusal, run

import voxport
from voxport.bundle import Bundle
from voxport.checksums import record
from voxport.manifest import FORMAT, FileRecord, Manifest, Source, StageRecord
from voxport.recipe import Recipe, Rule

MANIFEST: dict[str, Any] = msgspec.to_builtins(
    Manifest(
        format=FORMAT,
        system="llvc",
        variant="v",
        sample_rate=16000,
        target="cpu",
        recipe=Recipe("int8", [Rule("int8")]),
        source=Source({"G.pth": FileRecord("0", 1)}),
        tools={"torch": "2"},
        stages={"convert": StageRecord(weight_bytes=1, flops=1, int8_ops=0, axes={"chunks": 1})},
        files={"convert.onnx": FileRecord(hashlib.sha256(b"graph").hexdigest(), 5)},
        section={"hop": 8},
    )
)
FREE = (
    "axes",
    "files",
    "growth",
    "repos",
    "sampling",
    "section",
    "stages",
    "tokens",
    "tools",
)  # names are the bundle's own there
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


def edited(bundle: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    file = bundle / "manifest.json"
    manifest = json.loads(file.read_text())
    change(manifest)
    file.write_text(json.dumps(manifest))
    return bundle


# ---- opening


def truncate(bundle: Path) -> None:
    (bundle / "convert.onnx").write_bytes((bundle / "convert.onnx").read_bytes()[:100])


def flip(bundle: Path) -> None:
    data = bytearray((bundle / "convert.onnx.data").read_bytes())
    data[5000] ^= 1
    (bundle / "convert.onnx.data").write_bytes(data)


def unlisted(bundle: Path, name: str) -> None:
    edited(bundle, lambda m: m["files"].pop(name))


GOLDEN = "golden/rehearsal.safetensors"
BREAK: dict[str, tuple[Callable[[Path], object], str]] = {
    "truncated": (truncate, "convert.onnx: corrupted (100 bytes, wanted "),
    "one bit": (flip, "convert.onnx.data: corrupted (sha256 "),
    "missing file": (lambda b: (b / "prenet.onnx").unlink(), "prenet.onnx: missing from the bundle; copy or export"),
    "no manifest": (lambda b: (b / "manifest.json").unlink(), "not a bundle (no manifest.json); make one with"),
    "no JSON": (lambda b: (b / "manifest.json").write_text("{"), "manifest.json: Input data was truncated; export"),
    "no object": (lambda b: (b / "manifest.json").write_text("[]"), "manifest.json: "),
    "no text": (lambda b: (b / "manifest.json").write_bytes(b"\xff\xfe\x00"), "manifest.json: "),
    "deep": (lambda b: (b / "manifest.json").write_text("[" * 100_000), "manifest.json: "),
    "newer format": (
        lambda b: edited(b, lambda m: m.update(format=3)),
        "format 3, this voxport reads format 2; export",
    ),
    "no format": (lambda b: edited(b, lambda m: m.pop("format")), "format None, this voxport reads format 2"),
    "unknown key": (lambda b: edited(b, lambda m: m.update(colour=1)), "unknown field `colour`; export the bundle"),
    "deep key": (lambda b: edited(b, lambda m: m["source"].update(x=1)), "unknown field `x` - at `$.source`"),
    "missing key": (lambda b: edited(b, lambda m: m.pop("recipe")), "missing required field `recipe`"),
    "wrong type": (lambda b: edited(b, lambda m: m.update(sample_rate="16k")), "got `str` - at `$.sample_rate`"),
    "no rate": (lambda b: edited(b, lambda m: m.update(sample_rate=0)), "`int` >= 1 - at `$.sample_rate`"),
    "unknown system": (lambda b: edited(b, lambda m: m.update(system="sixth")), "system 'sixth' is not one of llvc"),
    "format 1": (
        lambda b: edited(b, lambda m: m.update(format=1, schedule=m.pop("section"))),
        "manifest.json: format 1, this voxport reads format 2; export the bundle again",
    ),
    "no hop": (
        lambda b: edited(b, lambda m: m.update(section={})),
        "manifest.json: section: Object missing required field `hop`; export the bundle again",
    ),
    "hop 0": (
        lambda b: edited(b, lambda m: m["section"].update(hop=0)),
        "manifest.json: section: Expected `int` >= 1 - at `$.hop`; export the bundle again",
    ),
    "unknown section key": (
        lambda b: edited(b, lambda m: m["section"].update(hops=1)),
        "manifest.json: section: Object contains unknown field `hops`; export the bundle again",
    ),
    "unknown rule key": (
        lambda b: edited(b, lambda m: m["recipe"].update(rule=[{"type": "int8"}])),
        "unknown field `type` - at `$.recipe.rule[0]`",
    ),
    "stage name": (
        lambda b: edited(b, lambda m: m["stages"].update({"a/b": m["stages"].pop("convert")})),
        "manifest.json: Expected `str` matching regex",
    ),
    "stage without graph": (
        lambda b: edited(b, lambda m: m["stages"].update(other=m["stages"]["convert"])),
        "manifest.json: does not list other.onnx; export",
    ),
    "unlisted graph": (
        lambda b: (b / "other.onnx").write_bytes(b""),
        "other.onnx: manifest.json does not list it; remove it",
    ),
    "unlisted data": (lambda b: unlisted(b, "convert.onnx.data"), "convert.onnx.data: manifest.json does not list it"),
    "unlisted golden": (lambda b: unlisted(b, GOLDEN), "rehearsal.safetensors: manifest.json does not list it"),
    "unlisted tokenizer": (
        lambda b: (b / "tokenizer.json").write_text("{}"),
        "tokenizer.json: manifest.json does not list it",
    ),
}


@pytest.mark.parametrize("kind", BREAK)
def test_a_broken_bundle_says_which_file_and_what_to_do(llvc_copy: Path, kind: str) -> None:
    damage, words = BREAK[kind]
    damage(llvc_copy)
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        voxport.load(llvc_copy)
    assert words in str(caught.value)
    assert str(caught.value).startswith(str(llvc_copy))
    line = refusal(run("convert", llvc_copy, "-", "-", stdin=bytes(100)))
    assert line == str(caught.value)


@pytest.mark.parametrize(
    "name", ["../bundle/convert.onnx", "/etc/passwd", "a/../../b", "C:/b", "..\\b", ".", "a//b", ""]
)
def test_a_listed_file_outside_of_the_folder_is_refused(llvc_copy: Path, name: str) -> None:
    edited(llvc_copy, lambda m: m["files"].update({name: m["files"]["convert.onnx"]}))
    for check in (True, False):
        with pytest.raises(ValueError, match="leaves the bundle's folder; export the bundle again"):
            Bundle(llvc_copy, check=check)


def test_no_check_skips_the_hashes_only(llvc_copy: Path) -> None:
    flip(llvc_copy)
    done(run("info", llvc_copy, "--no-check"))
    edited(llvc_copy, lambda m: m.update(colour=1))
    assert "colour" in refusal(run("info", llvc_copy, "--no-check"))


def test_a_truncated_graph_is_one_line_even_unchecked(llvc_copy: Path) -> None:
    truncate(llvc_copy)
    assert "convert.onnx: onnxruntime cannot load it" in refusal(run("info", llvc_copy, "--no-check", "--tensors"))


def opened(folder: Path, raw: bytes) -> Manifest | None:
    (folder / "manifest.json").write_bytes(raw)
    try:
        return Bundle(folder).manifest
    except ValueError as error:
        if not str(error).startswith(str(folder / "manifest.json")):
            raise
        return None


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bundle")
    (path / "convert.onnx").write_bytes(b"graph")
    assert opened(path, json.dumps(MANIFEST).encode()) is not None
    return path


@given(raw=st.binary(max_size=60) | JSON.map(lambda value: json.dumps(value).encode()))
def test_no_bytes_make_the_manifest_parser_raise_anything_but_its_line(folder: Path, raw: bytes) -> None:
    assert opened(folder, raw) is None


@settings(max_examples=300)
@given(path=st.lists(st.integers(0, 30), max_size=4), key=st.text(min_size=1, max_size=8), value=JSON)
def test_an_added_key_is_refused_wherever_the_manifest_knows_its_keys(
    folder: Path, path: list[int], key: str, value: object
) -> None:
    manifest = json.loads(json.dumps(MANIFEST))
    place, way = manifest, []
    for step in path:
        inner = sorted(k for k, v in place.items() if isinstance(v, dict))
        if not inner:
            break
        way.append(inner[step % len(inner)])
        place = place[way[-1]]
    known = key in place
    place[key] = value
    got = opened(folder, json.dumps(manifest).encode())
    if not known and way[-1:] not in ([name] for name in FREE):
        assert got is None


# ---- verify


def rehashed(bundle: Path, name: str) -> None:
    file = record(bundle / name)
    edited(bundle, lambda m: m["files"].update({name: {"sha256": file.sha256, "bytes": file.bytes}}))


def test_verify_finds_altered_weights_even_with_a_matching_hash(llvc_copy: Path) -> None:
    file = llvc_copy / "convert.onnx.data"
    weights = np.frombuffer(file.read_bytes(), np.float32).copy()
    weights[np.abs(weights) < 10] *= 1.01
    file.write_bytes(weights.tobytes())
    rehashed(llvc_copy, "convert.onnx.data")
    result = run("verify", llvc_copy)
    assert "this machine computes something else" in refusal(result, exit_code=1)
    assert "exact" in result.stdout
    assert result.stdout.count("DRIFTED") == 3


@pytest.mark.parametrize("damage", [flip, truncate, lambda b: (b / "prenet.onnx").unlink()])
def test_verify_fails_on_a_corrupted_file(llvc_copy: Path, damage: Callable[[Path], object]) -> None:
    damage(llvc_copy)
    refusal(run("verify", llvc_copy), exit_code=1)


@pytest.mark.parametrize(
    ("name", "raw", "words"),
    [
        ("golden/rehearsal.safetensors", b"no tensors", "header"),
        ("convert.onnx", b"no graph", "onnxruntime cannot load it"),
    ],
)
def test_verify_fails_on_what_cannot_run(llvc_copy: Path, name: str, raw: bytes, words: str) -> None:
    (llvc_copy / name).write_bytes(raw)
    rehashed(llvc_copy, name)
    assert words in refusal(run("verify", llvc_copy), exit_code=1).lower()


def test_links_in_a_circle_are_no_bundle(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    for path in (tmp_path / "a", tmp_path / "\0"):
        with pytest.raises(FileNotFoundError, match="no such bundle folder"):
            Bundle(path)


def test_verify_of_no_bundle_is_bad_input(tmp_path: Path) -> None:
    assert "no such bundle folder" in refusal(run("verify", tmp_path / "none"))
