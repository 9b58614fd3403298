"""`voxport parity`: says which tensor is wrong first, and where; its exit code is the verdict."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from tests.bundles import Export
from tests.command import done, refusal, run
from tests.runtime.test_bundle import rehashed

from voxport.bounds import Bound
from voxport_parity.compare import compare

TENSORS = ("audio.input_16k", "ns.out", "s1.out", "edge.209.ns", "nst.output", "nst.pre.3.out")


@pytest.fixture(scope="module")
def bundle(llvc_bundles: Export) -> Path:
    return llvc_bundles("fp32", "cpu")


@pytest.fixture
def checkpoint(llvc_checkpoint: Path, tmp_path: Path) -> Path:
    """A checkpoint of one's own, with a few of the goldens."""
    root = Path(shutil.copytree(llvc_checkpoint, tmp_path / "checkpoint"))
    golden = load_file(root / "golden.safetensors")
    save_file({name: golden[name] for name in TENSORS}, root / "golden.safetensors")
    return root


def change(root: Path, name: str, to: np.ndarray | None) -> None:
    golden = load_file(root / "golden.safetensors")
    del golden[name]
    save_file(golden | ({} if to is None else {name: to}), root / "golden.safetensors")


def test_a_whole_checkpoint_passes_and_every_tensor_has_a_row(checkpoint: Path, bundle: Path, tmp_path: Path) -> None:
    text = done(run("parity", "llvc", checkpoint, "--bundle", bundle, "--json", tmp_path / "rows.json"))
    assert [line.split()[0] for line in text.splitlines()] == ["torch"] * 3 + ["graph"] * 2 + ["streamed"] * 2
    rows = json.loads((tmp_path / "rows.json").read_text())
    keys = {"system", "stage", "link", "tensor", "shape", "max_abs", "bound", "ok"}
    assert all(row.keys() == keys and row["ok"] and row["max_abs"] <= row["bound"] for row in rows)
    compared = {link: {row["tensor"] for row in rows if row["link"] == link} for link in ("torch", "graph", "streamed")}
    assert compared["torch"] == set(TENSORS) - {"audio.input_16k"}
    assert compared["graph"] == compared["torch"] - {"nst.pre.3.out"}
    assert compared["streamed"] == {"ns.out", "s1.out", "edge.209.ns", "nst.output"}


def test_a_wrong_value_is_named_by_tensor_index_got_and_wanted(checkpoint: Path, bundle: Path, tmp_path: Path) -> None:
    wrong = load_file(checkpoint / "golden.safetensors")["s1.out"]
    right = float(wrong[77])
    wrong[77] += 0.25
    change(checkpoint, "s1.out", wrong)
    line = refusal(run("parity", "llvc", checkpoint, "--bundle", bundle, "--json", tmp_path / "rows.json"), exit_code=1)
    head, _, expected = line.rpartition(", wanted ")
    where, _, got = head.rpartition(" is ")
    assert where == "torch link, stage end to end: s1.out[77]"
    assert abs(float(got) - right) <= 1e-5
    assert float(expected) == float(wrong[77])
    rows = json.loads((tmp_path / "rows.json").read_text())
    assert [row["tensor"] for row in rows if not row["ok"]] == ["s1.out"]
    assert {row["link"] for row in rows} == {"torch"}  # it stops at the first broken link


def test_a_broken_graph_is_told_from_a_broken_net(checkpoint: Path, llvc_copy: Path) -> None:
    file = llvc_copy / "convert.onnx.data"
    weights = np.frombuffer(file.read_bytes(), np.float32).copy()
    weights[np.abs(weights) < 10] *= 1.01
    file.write_bytes(weights.tobytes())
    assert "corrupted" in refusal(run("parity", "llvc", checkpoint, "--bundle", llvc_copy))
    rehashed(llvc_copy, "convert.onnx.data")
    result = run("parity", "llvc", checkpoint, "--bundle", llvc_copy)
    assert refusal(result, exit_code=1).startswith("graph link, stage ")
    assert "BROKEN" in result.stdout


def test_a_shape_that_differs_names_both(checkpoint: Path, bundle: Path) -> None:
    change(checkpoint, "nst.pre.3.out", np.zeros((1, 2, 9), np.float32))
    line = refusal(run("parity", "llvc", checkpoint, "--bundle", bundle), exit_code=1)
    assert line.startswith("torch link, stage prenet: nst.pre.3.out has shape [1, 1, 9], wanted [1, 2, 9]")


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("golden.safetensors", "no tensors", "golden.safetensors: not a golden of this project: "),
        ("golden.json", "{", "golden.safetensors: not a golden of this project: "),
        ("golden.json", None, "golden.json: No such file or directory"),
    ],
)
def test_a_bad_golden_is_bad_input(checkpoint: Path, bundle: Path, name: str, text: str | None, words: str) -> None:
    (checkpoint / name).unlink()
    if text is not None:
        (checkpoint / name).write_text(text)
    assert words in refusal(run("parity", "llvc", checkpoint, "--bundle", bundle))


def test_a_golden_without_its_input_is_bad_input(checkpoint: Path, bundle: Path) -> None:
    change(checkpoint, "audio.input_16k", None)
    (checkpoint / "input_16k.wav").unlink()  # where the notes say it was read from
    assert refusal(run("parity", "llvc", checkpoint, "--bundle", bundle)).startswith(
        f"{checkpoint / 'golden.safetensors'}: lacks audio.input_16k"
    )


def test_a_bundle_of_something_else_is_refused_in_one_line(
    checkpoint: Path, bundle: Path, llvc_bundles: Export, vyvo_checkpoint: Path
) -> None:
    def line(*arguments: str | Path) -> str:
        return refusal(run("parity", *arguments))

    portable = llvc_bundles("fp32", "portable")
    wrong_target = f"{portable}: was exported for target portable, not cpu"
    assert line("llvc", checkpoint, "--bundle", portable, "--target", "cpu") == wrong_target
    done(run("parity", "llvc", checkpoint, "--bundle", portable))
    assert line("vyvo", vyvo_checkpoint, "--bundle", bundle) == f"{bundle}: is a bundle of llvc, not of vyvo"
    file = checkpoint / "experiments/llvc/config.json"
    file.write_text(file.read_text() + "\n")
    other = f"{bundle}: was not exported from {checkpoint}: {file} is another file; export it again"
    assert line("llvc", checkpoint, "--bundle", bundle) == other


def test_the_report_never_goes_over_an_input(checkpoint: Path, bundle: Path, tmp_path: Path) -> None:
    before = (checkpoint / "golden.json").read_bytes()
    arguments = ("parity", "llvc", checkpoint, "--bundle", bundle, "--json")
    assert "is one of the inputs" in refusal(run(*arguments, checkpoint / "golden.json"))
    assert "cannot be written: no folder" in refusal(run(*arguments, tmp_path / "none" / "rows.json"))
    assert (checkpoint / "golden.json").read_bytes() == before


@pytest.mark.parametrize(
    ("bound", "limit"),
    [
        (Bound(1e-3, 1e-1, 1e-3), 0.4),  # of the element
        (Bound(1e-3, 1e-3, 1e-2), 1.0),  # of the peak
        (Bound(2.0, 1e-3, 1e-2), 2.0),  # absolute
    ],
)
def test_the_bound_in_the_report_is_the_one_that_decided(bound: Bound, limit: float) -> None:
    expected = np.array([0.0, 4.0, -100.0])
    diff = compare("s", "stage", "link", "x", expected + np.array([0.0, 3.0, 0.0]), expected, bound)
    assert diff.where == (1,)
    assert diff.as_dict()["bound"] == pytest.approx(limit)
    assert not diff.ok


@pytest.mark.parametrize(
    ("got", "expected", "error"),
    [
        ([-np.inf, 1.0], [-np.inf, 1.0], 0.0),  # scores that a grammar took out
        ([-np.inf, 1.0], [0.0, 1.0], np.inf),
        ([np.inf, 1.0], [-np.inf, 1.0], np.inf),
        ([np.nan, 1.0], [np.nan, 1.0], np.inf),
    ],
)
def test_what_is_not_finite_is_right_only_where_it_meets_its_like(
    got: list[float], expected: list[float], error: float
) -> None:
    for bound in (Bound(1e-3), Bound(1e-5, of_peak=1e-2), None):
        diff = compare("s", "stage", "link", "x", np.array(got), np.array(expected), bound)
        assert diff.max_abs == error
        assert diff.ok == (error == 0 or bound is None)
