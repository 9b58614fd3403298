"""The command itself: its help, and how it fails."""

import subprocess
import sys
from pathlib import Path

import pytest
from safetensors import SafetensorError
from tests.command import done, refusal, run

import voxport

VERBS = {"bench", "convert", "export", "fetch", "info", "lock", "parity", "verify"}


def test_help_lists_every_verb_of_every_floor() -> None:
    text = done(run("--help"))
    listed = {line.split()[0] for line in text.partition("Commands:")[2].splitlines() if line.strip()}
    assert listed >= VERBS


@pytest.mark.parametrize("verb", sorted(VERBS))
def test_every_verb_explains_itself(verb: str) -> None:
    assert done(run(verb, "--help")).startswith(f"Usage: voxport {verb}")


def test_version_is_the_packages() -> None:
    assert voxport.__version__ in done(run("--version"))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--nope"], "No such option '--nope'"),
        (["nosuch"], "No such command 'nosuch'"),
        (["convert"], "Missing argument 'BUNDLE'"),
        (["convert", "b", "in", "out", "--mode", "fast"], "'fast' is not one of 'exact', 'upstream', 'offline'"),
        (["convert", "b", "-", "out", "--rate", "0"], "0 is not in the range 1<=x<=1000000"),
        (["convert", "b", "in", "out", "--chunk-factor", "0"], "'--chunk-factor': 0"),
        (["verify", "b", "--threads", "5000"], "'--threads': 5000"),
        (["bench", "b", "--seconds", "0"], "'--seconds': 0"),
        (["bench", "b", "--seconds", "inf"], "'--seconds': inf is not in the range 0.1<=x<=86400"),
        (["say", "b", "Hi.", "-o", "a.wav", "--set"], "Option '--set' requires an argument; see `voxport say --help`"),
        (["export", "nosuch", "folder", "-o", "b"], "'nosuch' is not one of llvc, vyvo, qwen3tts"),
        (["export"], "Missing argument 'SYSTEM': one of llvc, vyvo, qwen3tts"),
        (["export", "-o", "b", "llvc", "folder"], "-o: options come after the system"),
        (["export", "llvc", "folder", "-o", "b", "--tokens", "lfm2"], "No such option '--tokens'"),
        (["export", "llvc", "folder", "-o", "b", "--codec-recipe", "int8"], "No such option '--codec-recipe'"),
        (["parity", "nosuch", "folder"], "'nosuch' is not one of llvc, vyvo, qwen3tts"),
        (["parity", "qwen3tts", "folder", "--lora", "x"], "No such option '--lora'"),
        (["export", "llvc", "folder"], "Missing option '-o'"),
        (["parity"], "Missing argument"),
    ],
)
def test_bad_usage_is_one_line_that_names_the_help(arguments: list[str], words: str) -> None:
    line = refusal(run(*arguments))
    assert words in line
    assert line.endswith("--help`")


@pytest.mark.parametrize(
    ("arguments", "missing", "extra"),
    [
        (["export", "llvc", "folder", "-o", "b"], "torch", "export"),
        (["parity", "llvc", "folder"], "onnx", "parity"),
        (["fetch", "llvc"], "huggingface_hub", "export"),
        (["lock", "llvc"], "huggingface_hub", "export"),
    ],
)
def test_a_verb_without_what_it_needs_names_the_extra(
    tmp_path: Path, arguments: list[str], missing: str, extra: str
) -> None:
    code = f"import sys; sys.modules[{missing!r}] = None; from voxport.cli import main; main({arguments!r})"
    ended = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    (line,) = ended.stderr.splitlines()
    assert line.startswith(f"Error: voxport {arguments[0]} needs ")
    assert line.endswith(f": pip install 'voxport[{extra}]'")
    assert not list(tmp_path.iterdir())


# ---- how it fails


def failing(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    """Makes every verb that opens a model raise `error`."""

    def load(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(voxport, "load", load)


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("a.wav: holds\nno samples"), "a.wav: holds no samples"),
        (FileNotFoundError(2, "No such file or directory", "a.wav"), "a.wav: No such file or directory"),
        (PermissionError(13, "Permission denied"), "Permission denied"),
        (MemoryError("Unable to allocate 8 GiB"), "out of memory. Unable to allocate 8 GiB"),
        (SafetensorError("header too large"), "header too large"),
        (KeyError("G_1.pth: lacks weight [3]"), "G_1.pth: lacks weight [3]"),
        (ModuleNotFoundError("No module named 'soxr'", name="soxr"), "voxport convert needs soxr, which is not"),
    ],
)
def test_bad_input_is_its_own_line_and_exit_code_2(
    monkeypatch: pytest.MonkeyPatch, error: Exception, line: str
) -> None:
    failing(monkeypatch, error)
    assert refusal(run("convert", "b", "in", "out")).startswith(line)


@pytest.mark.parametrize(
    "error",
    [
        TypeError("unsupported operand"),
        AttributeError("no attribute"),
        IndexError("list index out of range"),
        AssertionError(),
        RuntimeError("generator raised StopIteration"),
        KeyError("lm.context"),
        EOFError("no more"),
        ZeroDivisionError("division by zero"),
        ModuleNotFoundError("No module named 'voxport.nope'", name="voxport.nope"),
    ],
)
def test_an_error_of_voxport_is_not_called_bad_input(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    failing(monkeypatch, error)
    line = refusal(run("convert", "b", "in", "out"), exit_code=1)
    assert line.startswith(f"voxport convert: this is an error in voxport ({type(error).__name__}: ")
    assert line.endswith("; `voxport --debug convert ...` shows where")


@pytest.mark.parametrize(("flags", "variable"), [(["--debug"], ""), ([], "1")])
@pytest.mark.parametrize(("error", "exit_code"), [(TypeError("nope"), 1), (ValueError("nope"), 2)])
def test_debug_shows_where_before_the_same_line(
    monkeypatch: pytest.MonkeyPatch, flags: list[str], variable: str, error: Exception, exit_code: int
) -> None:
    failing(monkeypatch, error)
    line = refusal(run("convert", "b", "in", "out"), exit_code)
    monkeypatch.setenv("VOXPORT_DEBUG", variable)
    result = run(*flags, "convert", "b", "in", "out")
    assert result.exit_code == exit_code
    first, *_, last = result.stderr.splitlines()
    assert first == "Traceback (most recent call last):"
    assert "in load" in result.stderr
    assert last == f"Error: {line}"


def test_ctrl_c_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    failing(monkeypatch, KeyboardInterrupt())
    result = run("convert", "b", "in", "out")
    assert (result.exit_code, result.stderr.strip()) == (1, "Aborted!")


def test_help_loads_nothing_that_only_some_verbs_need() -> None:
    code = "import sys; from voxport.cli import main\ntry: main(['--help'])\nexcept SystemExit: pass\n"
    code += "print(sorted({'torch', 'onnx', 'tokenizers', 'soxr', 'huggingface_hub'} & {*sys.modules}))"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.splitlines()[-1] == "[]"


# ---- options that verbs share


@pytest.mark.parametrize(("flags", "expected"), [([], True), (["--check"], "always"), (["--no-check"], False)])
@pytest.mark.parametrize(
    "arguments",
    [
        ["convert", "b", "in", "out"],
        ["say", "b", "Hi.", "-o", "out.wav"],
        ["enroll", "b", "in.wav", "-o", "v.safetensors"],
        ["tokenize", "b", "in.wav", "-o", "t.npy"],
        ["detokenize", "b", "t.npy", "-o", "o.wav"],
    ],
)
def test_check_hashes_every_file_and_no_check_none(
    monkeypatch: pytest.MonkeyPatch, arguments: list[str], flags: list[str], expected: bool | str
) -> None:
    def load(*_: object, check: object, **__: object) -> None:
        raise ValueError(f"check is {check!r}")

    monkeypatch.setattr(voxport, "load", load)
    assert refusal(run(*arguments, *flags)) == f"check is {expected!r}"
