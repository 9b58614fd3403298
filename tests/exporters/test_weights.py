"""Every key of a checkpoint is accounted for, in every file format, and no damaged file gets further than its line."""

import json
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor

from voxport.recipe import Recipe, Rule
from voxport_exporters.checkpoints.weights import Weights
from voxport_exporters.recipe import named
from voxport_exporters.systems.llvc.config import read_config

T = TypeVar("T")
TENSORS = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.b.bias": torch.ones(2).half(), "c": torch.zeros(1)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The same tensors in every format Weights reads."""
    torch.save({"model": TENSORS, "step": 1}, tmp_path / "inside.pth")
    torch.save(TENSORS, tmp_path / "plain.bin")
    torch.save(TENSORS, tmp_path / "legacy.pt", _use_new_zipfile_serialization=False)
    (tmp_path / "one").mkdir()
    save_file(TENSORS, tmp_path / "one" / "model.safetensors")
    (tmp_path / "two").mkdir()
    where = {key: f"{i % 2}.safetensors" for i, key in enumerate(TENSORS)}
    for name in set(where.values()):
        save_file({k: t for k, t in TENSORS.items() if where[k] == name}, tmp_path / "two" / name)
    (tmp_path / "two" / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    return tmp_path


FORMATS = ("inside.pth", "plain.bin", "legacy.pt", "one", "one/model.safetensors", "two")


def opened(folder: Path, name: str) -> Weights:
    return Weights.open(folder / name, inside="model" if name == "inside.pth" else None)


# ---- keys


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_holds_the_same_tensors_in_float32(folder: Path, name: str) -> None:
    weights = opened(folder, name)
    for key, tensor in TENSORS.items():
        assert weights.has(key)
        got = weights.take(key, *tensor.shape)
        assert got.dtype == torch.float32
        assert torch.equal(got, tensor.float())
    weights.finish()


@pytest.mark.parametrize("name", FORMATS)
def test_a_missing_key_a_wrong_shape_and_an_extra_key_are_named(folder: Path, name: str) -> None:
    weights = opened(folder, name).at("a")
    with pytest.raises(ValueError, match=r"lacks a\.nope \[3\]; is the config that of this checkpoint\?"):
        weights.take("nope", 3)
    with pytest.raises(ValueError, match=r"a\.weight has shape \[2, 3\], the config says \[3, 2\]"):
        weights.take("weight", 3, 2)
    weights.take("weight", 2, 3)
    with pytest.raises(ValueError, match=r"holds a\.b\.bias, c, which this net does not know"):
        weights.finish()


def test_a_view_shares_the_account_and_drop_takes_patterns_below_it(folder: Path) -> None:
    weights = opened(folder, "plain.bin")
    view = weights.at("a").at("b")
    view.drop("*", "not needed")
    assert view.has("bias")
    with pytest.raises(ValueError, match=r"holds a\.weight, c, which"):
        weights.finish()
    weights.at("a").take("weight", 2, 3)
    weights.drop("c", "not needed")
    view.finish()


def test_many_extra_keys_are_counted_not_listed(tmp_path: Path) -> None:
    torch.save({str(i): torch.zeros(1) for i in range(9)}, tmp_path / "a.pth")
    with pytest.raises(ValueError, match="holds 0, 1, 2, 3 and 5 more, which"):
        Weights.open(tmp_path / "a.pth").finish()


# ---- files


class Trap:
    """What a hostile checkpoint would run."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.write_text, (Path("trapped"), "")


def test_a_checkpoint_never_runs_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.pth").write_bytes(pickle.dumps({"model": Trap()}))
    warnings.simplefilter("error")  # one line on stderr, and no warning beside it
    with pytest.raises(ValueError, match=r"a\.pth: not a whole torch checkpoint"):
        Weights.open(Path("a.pth"))
    assert not Path("trapped").exists()


@pytest.mark.parametrize(
    ("name", "words"),
    [("none.pth", "no such checkpoint"), ("none.safetensors", "no such checkpoint"), (".", "found none")],
)
def test_a_missing_file_is_named(tmp_path: Path, name: str, words: str) -> None:
    with pytest.raises(FileNotFoundError, match=words):
        Weights.open(tmp_path / name)


@pytest.mark.parametrize(
    ("index", "words"),
    [
        ("[]", "index.json: wanted a JSON object"),
        ("{", "index.json: not JSON"),
        ('{"weight_map": {"a": 5}}', "not a safetensors index"),
        ('{"weight_map": {"a": "none.safetensors"}}', "lacks 1 of its 1 shards: none.safetensors"),
        (
            '{"weight_map": {"a": "../one/model.safetensors"}}',
            "the shard .* is not in",
        ),
        ('{"weight_map": {"a": "/elsewhere/model.safetensors"}}', "the shard ./elsewhere/model.safetensors' is not in"),
        (r'{"weight_map": {"a": "..\\model.safetensors"}}', "the shard .* is not in"),
        (r'{"weight_map": {"a": "C:model.safetensors"}}', "the shard .C:model.safetensors' is not in"),
        (r'{"weight_map": {"a": "model\u0000.safetensors"}}', "the shard .* is not in"),
        ('{"weight_map": {"x": "0.safetensors"}}', "0.safetensors: lacks x, which model.safetensors.index.json says"),
    ],
)
def test_a_bad_index_is_one_line(folder: Path, index: str, words: str) -> None:
    (folder / "two" / "model.safetensors.index.json").write_text(index)
    with pytest.raises((ValueError, FileNotFoundError), match=words):
        Weights.open(folder / "two")


def result_or_one_line(read: Callable[[], T], file: Path) -> T | None:
    """What `read` returns; None when it refuses in one line that names the file. Anything else fails the test."""
    try:
        return read()
    except ValueError as error:
        if "\n" in str(error) or file.name not in str(error):
            raise AssertionError(str(error)) from error
        return None


def readable(path: Path) -> bool:
    def read() -> bool:
        weights = Weights.open(path)
        for key, tensor in TENSORS.items():
            weights.take(key, *tensor.shape)
        weights.finish()
        return True

    return result_or_one_line(read, path) is True


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    scratch_folder = tmp_path_factory.mktemp("damaged")
    save_file(TENSORS, scratch_folder / "model.safetensors")
    torch.save(TENSORS, scratch_folder / "zip.pth")
    torch.save(TENSORS, scratch_folder / "legacy.pth", _use_new_zipfile_serialization=False)
    assert all(readable(path) for path in scratch_folder.iterdir())
    return scratch_folder


@pytest.mark.parametrize("name", ["model.safetensors", "zip.pth", "legacy.pth"])
@settings(max_examples=150, deadline=None)
@given(
    cut=st.none() | st.integers(0, 2000),
    changes=st.lists(st.tuples(st.integers(0, 700), st.integers(0, 255)), max_size=4),
)
def test_a_damaged_file_is_one_line_or_still_readable(
    scratch: Path, name: str, cut: int | None, changes: list[tuple[int, int]]
) -> None:
    raw = bytearray((scratch / name).read_bytes())
    for place, value in changes:
        raw[place % len(raw)] = value
    damaged = scratch / f"damaged.{name}"
    damaged.write_bytes(raw[:cut])
    whole = readable(damaged)
    if cut is not None and cut < len(raw):
        assert not whole


# ---- configs and recipes


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_any_wrong_value_in_a_config_is_one_line(scratch: Path, llvc_checkpoint: Path, data: st.DataObject) -> None:
    config = json.loads((llvc_checkpoint / "experiments/llvc/config.json").read_text())
    place, way = config, []
    for _ in range(4):
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        way.append(data.draw(st.sampled_from(keys)))
        if not isinstance(place[way[-1]], dict | list) or not place[way[-1]] or data.draw(st.booleans()):
            break
        place = place[way[-1]]
    place[way[-1]] = data.draw(st.sampled_from([None, True, 0, -1, "x", [], [0], {}, {"a": 1}, 1.5]))
    file = scratch / "config.json"
    file.write_text(json.dumps(config))
    read = result_or_one_line(lambda: read_config(file), file)
    if read is not None:
        net, rate = read
        assert min(rate, net.chunk) >= 1


def test_a_recipe_file_is_rules_in_order_and_its_name_is_the_files(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text('[[rule]]\nkind = "int8"\n[[rule]]\nkind = "fp32"\nstage = "a"\nweights = "out*"\n')
    recipe = named(str(file), {})
    assert recipe == Recipe("mine", [Rule("int8"), Rule("fp32", "a", "out*")])
    assert [recipe.kind(*w) for w in (("a", "in.w"), ("a", "out.w"), ("b", "out.w"))] == ["int8", "fp32", "int8"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("colour = 1", "unknown field `colour`"),
        ('[[rule]]\nkind = "int8"\nstages = "a"', r"unknown field `stages` - at `\$\.rule\[0\]`"),
        ('[[rule]]\nkind = "int3"', r"Invalid enum value 'int3' - at `\$\.rule\[0\]\.kind`"),
        ("[[rule]]", r"missing required field `kind` - at `\$\.rule\[0\]`"),
        ('rule = "int8"', r"Expected `array`, got `str` - at `\$\.rule`"),
        ("[[rule]", "line 1"),
    ],
)
def test_a_bad_recipe_file_says_where(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "bad.toml").write_text(text)
    with pytest.raises(ValueError, match=words) as caught:
        named(str(tmp_path / "bad.toml"), {})
    assert str(caught.value).startswith(f"{tmp_path / 'bad.toml'}: ")


KINDS = st.sampled_from(["fp32", "int8"])
NAMES = st.text(st.characters(categories=["L", "N"]), max_size=5)
RULES = st.fixed_dictionaries({"kind": KINDS}, optional={"stage": NAMES, "weights": NAMES})


@given(name=NAMES, rules=st.lists(RULES, max_size=3))
def test_any_recipe_survives_its_file(scratch: Path, name: str, rules: list[dict[str, str]]) -> None:
    file = scratch / "recipe.toml"
    lines = [f"name = {json.dumps(name, ensure_ascii=False)}"]
    for rule in rules:
        lines += ["[[rule]]", *(f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in rule.items())]
    file.write_text("\n".join(lines))
    assert named(str(file), {}) == msgspec.convert({"name": name, "rule": rules}, Recipe)


@given(text=st.text(max_size=60))
def test_no_text_makes_the_recipe_parser_raise_anything_but_its_line(scratch: Path, text: str) -> None:
    file = scratch / "recipe.toml"
    file.write_text(text)
    result_or_one_line(lambda: named(str(file), {}), file)


def test_folded_weight_norm_is_torchs_own(tmp_path: Path) -> None:
    conv = torch.nn.utils.parametrizations.weight_norm(torch.nn.Conv1d(3, 4, 5))
    expected: Tensor = conv.weight.detach()
    new = {f"conv.{key}": value for key, value in conv.state_dict().items()}
    names = {"parametrizations.weight.original0": "weight_g", "parametrizations.weight.original1": "weight_v"}
    old = {f"conv.{names.get(key, key)}": value for key, value in conv.state_dict().items()}
    for state in (new, old):
        torch.save(state, tmp_path / "a.pth")
        weights = Weights.open(tmp_path / "a.pth")
        weights.take("conv.bias", 4)
        torch.testing.assert_close(weights.at("conv").folded(4, 3, 5), expected, rtol=0, atol=1e-6)
        weights.finish()
