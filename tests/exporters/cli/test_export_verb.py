"""`voxport export` and `voxport parity`: one sub-command per system, with that system's own options."""

import inspect
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.command import done, run

from voxport.recipe import Recipe, Rule
from voxport_exporters import pack as packing
from voxport_exporters.systems import OPTIONS, SYSTEMS


def test_export_packs_what_the_options_say_and_shows_warnings(
    llvc_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = Path(shutil.copytree(llvc_checkpoint, tmp_path / "checkpoint"))
    shutil.copytree(root / "models/checkpoints/llvc", root / "models/checkpoints/llvc_nc")
    (tmp_path / "mine.toml").write_text('[[rule]]\nkind = "int8"')
    calls: list[tuple[Any, ...]] = []

    def pack(*arguments: Any) -> list[str]:
        calls.append(arguments)
        return ["stage convert, int8: slow"]

    monkeypatch.setattr(packing, "pack", pack)
    options = ("--recipe", tmp_path / "mine.toml", "--variant", "llvc_nc", "--target", "portable", "--gate")
    result = run("export", "llvc", root, "-o", tmp_path / "b", *options)
    assert done(result) == f"{tmp_path / 'b'}\n"
    assert result.stderr == "warning: stage convert, int8: slow\n"
    ((job, *others),) = calls
    assert (job.system, job.variant) == ("llvc", "llvc_nc")
    assert others == [tmp_path / "b", Recipe("mine", [Rule("int8")]), "portable", True]


def test_codec_recipe_is_added_to_the_recipe(vyvo_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Recipe] = []

    def pack(*arguments: Any) -> list[str]:
        calls.append(arguments[2])
        return []

    monkeypatch.setattr(packing, "pack", pack)
    done(run("export", "vyvo", vyvo_checkpoint, "-o", "b", "--recipe", "int4", "--codec-recipe", "int8"))
    done(run("export", "vyvo", vyvo_checkpoint, "-o", "b"))
    assert [recipe.name for recipe in calls] == ["int4+codec-int8", "fp32"]


def test_every_system_is_listed_with_what_it_is() -> None:
    assert OPTIONS.keys() == SYSTEMS.keys()
    width = max(map(len, OPTIONS))
    for verb in ("export", "parity"):
        lines = done(run(verb, "--help")).partition("Systems:")[2].split("\n")
        assert [line.strip() for line in lines if line.strip()] == [
            f"{name:{width}}  {system.summary}" for name, system in OPTIONS.items()
        ]


@pytest.mark.parametrize("system", OPTIONS)
def test_a_systems_help_names_its_own_options_and_recipes(system: str) -> None:
    exporter, options = SYSTEMS[system](), OPTIONS[system]
    assert [*options.recipes] == [*exporter.recipes]
    assert {*options.codec_recipes} == {*exporter.codec_recipes}
    assert options.default_recipe in exporter.recipes
    parameters = inspect.signature(exporter.job).parameters.values()
    offers = [p.name for p in parameters if p.kind is not p.KEYWORD_ONLY]  # others are for parity
    assert [option.name for option in options.options] == offers[1:]
    shared = {"--out", "--recipe", "--target", "--gate", "--help"}
    own = {f"--{option.name}" for option in options.options}
    some = {"--codec-recipe"} if options.codec_recipes else set()
    some |= {"--to"} if options.formats else set()
    text = done(run("export", system, "--help"))
    assert {*re.findall(r"^  (?:-., )?(--[a-z-]+)", text, re.MULTILINE)} == shared | own | some
    assert f"voxport export {options.examples[0]} -o bundle" in text
    for recipe, words in options.recipes.items():
        assert re.search(rf"^ *{recipe} +{re.escape(words)}$", text, re.MULTILINE)
    text = done(run("parity", system, "--help"))
    assert {*re.findall(r"^  (?:-., )?(--[a-z-]+)", text, re.MULTILINE)} == own | {
        "--bundle",
        "--recipe",
        "--target",
        "--json",
        "--help",
    }


@pytest.mark.parametrize(
    "arguments", [["export", "--help"], ["export", "vyvo", "--help"], ["parity", "llvc", "--help"]]
)
def test_help_needs_no_torch(arguments: list[str]) -> None:
    code = "import sys; sys.modules.update(dict.fromkeys(['torch', 'onnx', 'transformers', 'huggingface_hub']))\n"
    code += f"from voxport.cli import main; main({arguments!r})"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert "Examples:" in ended.stdout
